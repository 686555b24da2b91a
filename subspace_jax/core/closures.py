"""Caching of a user's function that is not under `jit`: a new object whenever what the function reads has changed.

`jax.jit`, `jax.make_jaxpr` and `functools.lru_cache` identify a function by its object, and reuse a stale trace when a
variable it closes over, an attribute of the object whose method it is, or a global of its own file has changed.
Code that compiles a user's function compiles `current(fn)` instead.

What is compared: numbers, strings, containers and NumPy arrays by value; JAX arrays, which never change, by identity;
functions by identity, closure, defaults and the globals that they read; objects by their attributes. What cannot be
compared (a random generator, a traced array) makes the function a new one each time: slower, never stale. Not detected:
attributes of classes and modules, globals of installed packages, and traces cached by the user's own `jit`.
"""

import dataclasses
import enum
import functools
import hashlib
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), np.dtype, np.generic, range, slice)
FIXED = (
    type, types.ModuleType, types.BuiltinFunctionType, types.MethodWrapperType, types.GenericAlias, types.UnionType,
    enum.Enum, jax.Array, jax.Device,
    np.ufunc, weakref.ref, type(jax.jit(len)), type(functools.lru_cache(len)),
)  # fmt: skip
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
VALUES = 100_000  # a function that reads more is traced anew: comparing would take as long


class Unknown(Exception):
    """Raised where something that a function reads cannot be compared."""


def current(fn: Callable) -> Callable:
    """A wrapper of fn: the same object as in an earlier call only if nothing that fn reads has changed since.

    >>> scale = 2
    >>> def double(x):
    ...     return scale * x
    >>> before = current(double)
    >>> current(double) is before
    True
    >>> scale = 3
    >>> current(double) is before
    False
    """
    try:
        return _kept(_Snapshot(fn, _Reader().read(fn)))
    except (Unknown, RecursionError):
        return _fresh(fn)


class _Snapshot:
    """A function, compared by the values it read when the snapshot was taken."""

    def __init__(self, fn: Callable, key: Any) -> None:
        self.fn, self.key = fn, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Snapshot) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class _Same:
    """Compares an object by identity, and keeps it alive so that its `id` is not reused."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=32)  # each keeps alive what its function reads
def _kept(snapshot: _Snapshot) -> Callable:
    return _fresh(snapshot.fn)


def _fresh(fn: Callable) -> Callable:
    def same(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    same.__name__ = getattr(fn, "__name__", "fn")
    return same


class _Reader:
    """Walks over what a value holds; each object once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}

    def read(self, value: Any) -> Any:
        """A hashable that is equal to another one where the values are."""
        if isinstance(value, jax.core.Tracer):
            raise Unknown
        if isinstance(value, PLAIN):
            return type(value), repr(value)  # tells -0.0 from 0.0, 1 from True
        if isinstance(value, FIXED):
            return _Same(value)
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = len(self._seen), value  # kept alive, so that its id is not reused
        if len(self._seen) > VALUES:
            raise Unknown
        return type(value), self._inside(value)

    def _inside(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise Unknown
            return value.shape, value.dtype.str, hashlib.blake2b(np.ascontiguousarray(value).data).digest()
        if isinstance(value, Mapping):
            return self._all(item for pair in value.items() for item in pair)
        if isinstance(value, tuple | list):
            return self._all(value)
        if isinstance(value, set | frozenset):
            return frozenset(map(self.read, value))
        if isinstance(value, types.FunctionType):
            return _Same(value), self._function(value)
        if isinstance(value, types.MethodType):
            return self.read(value.__func__), self.read(value.__self__)
        if isinstance(value, functools.partial):
            return self._all((value.func, value.args, value.keywords))
        return self._object(value)

    def _all(self, values: Iterable[Any]) -> tuple:
        return tuple(map(self.read, values))

    def _function(self, fn: types.FunctionType) -> Any:
        """Closure, defaults, attributes, and what its code names of the globals of its file."""
        cells = fn.__closure__ or ()
        held = tuple(self.read(cell.cell_contents) if _filled(cell) else None for cell in cells)
        named = () if fn.__code__.co_filename.startswith(INSTALLED) else sorted(_names(fn.__code__))
        read = tuple((name, self.read(fn.__globals__[name])) for name in named if name in fn.__globals__)
        return held, self.read(fn.__defaults__), self.read(fn.__kwdefaults__), self._attributes(vars(fn)), read

    def _object(self, value: Any) -> Any:
        """Attributes; and identity, unless its type says when two are equal."""
        by_value = type(value).__eq__ is not object.__eq__ and type(value).__hash__ not in (None, object.__hash__)
        if dataclasses.is_dataclass(value):
            held = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        else:
            slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
            if not hasattr(value, "__dict__") and not slots:
                if by_value:
                    return value
                raise Unknown
            held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
            held |= getattr(value, "__dict__", {})
        return None if by_value else _Same(value), self._attributes(held)

    def _attributes(self, held: Mapping[str, Any]) -> tuple:
        return tuple((name, self.read(value)) for name, value in held.items())


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _slots(kind: type) -> Iterable[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else slots
    return [name for name in names if name not in ("__dict__", "__weakref__")]
