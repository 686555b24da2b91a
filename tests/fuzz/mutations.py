"""Wrong arguments made of right ones: one array, one number or one name of a call is replaced."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NAN = float("nan")
HUGE = 1e30


class Call(NamedTuple):
    """A valid call of a public function.

    Attributes:
      function: what is called.
      args: its arguments by position.
      kwargs: its arguments by name.
      name: module and function.
      fixed: arguments that the library itself made, and (argument, leaf) that the function does not read; neither is
        mutated.
      blind: whether values are only counted, moved or compared, so that NaN is none of its business.
    """

    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    name: str
    fixed: tuple[Any, ...] = ()
    blind: bool = False

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    @property
    def arguments(self) -> dict[int | str, Any]:
        return {**dict(enumerate(self.args)), **self.kwargs}


class Case(NamedTuple):
    """A call with one argument replaced.

    Attributes:
      call: the valid call.
      at: position or name of the argument.
      leaf: which leaf of the argument, in the order of `jax.tree.leaves`.
      kind: name of the mutation.
    """

    call: Call
    at: int | str
    leaf: int
    kind: str

    def mutated(self) -> Call:
        """The wrong call."""
        leaves, structure = jax.tree.flatten(self.call.arguments[self.at])
        leaves[self.leaf] = mutations(leaves[self.leaf])[self.kind]()
        value = jax.tree.unflatten(structure, leaves)
        if isinstance(self.at, str):
            return self.call._replace(kwargs=self.call.kwargs | {self.at: value})
        return self.call._replace(args=(*self.call.args[: self.at], value, *self.call.args[self.at + 1 :]))

    def is_real(self) -> bool:
        """Whether a real number is replaced, not an integer."""
        return isinstance(jax.tree.leaves(self.call.arguments[self.at])[self.leaf], float)

    def __str__(self) -> str:
        return f"{self.call.name}, argument {self.at} leaf {self.leaf}: {self.kind}"


class Own(NamedTuple):
    """Marks an argument that the library made."""

    value: Any


def call(function: Callable, *args: Any, **kwargs: Any) -> Call:
    """A valid call, named by the function's module."""
    given = {**dict(enumerate(args)), **kwargs}
    fixed = tuple(at for at, value in given.items() if isinstance(value, Own))
    args, kwargs = tuple(map(_bare, args)), {name: _bare(value) for name, value in kwargs.items()}
    module = function.__module__.removeprefix("subspace_jax.")
    return Call(function, args, kwargs, f"{module}.{function.__qualname__}", fixed)


def unread(valid: Call, *places: tuple[int | str, int]) -> Call:
    """The call of a function that does not look at some leaves of its arguments."""
    return valid._replace(fixed=(*valid.fixed, *places))


def blind(valid: Call) -> Call:
    """The call of a function that counts, moves or compares values, and passes NaN on as any other."""
    return valid._replace(blind=True)


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, Own) else value


def of(valid: Call) -> Iterator[Case]:
    """Every wrong call that this valid one leads to."""
    for at, argument in valid.arguments.items():
        if callable(argument) or at in valid.fixed:
            continue
        for leaf, value in enumerate(jax.tree.leaves(argument)[:4]):
            if (at, leaf) in valid.fixed:
                continue
            yield from (Case(valid, at, leaf, kind) for kind in mutations(value))


def mutations(value: Any) -> dict[str, Callable[[], Any]]:
    """Name of a mutation -> the wrong value; none for keys, functions and what else is no array, number or name."""
    if isinstance(value, bool) or callable(value):
        return {}
    if isinstance(value, str):
        return {"another name": lambda: "x"}
    if isinstance(value, int | float | np.floating):
        wrong = [0, -1, NAN, HUGE if isinstance(value, float) else 2.5, "x", None]
        return {repr(number): lambda number=number: number for number in wrong}
    if not hasattr(value, "dtype") or jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype == np.uint32:
        return {}
    return shapes(value) | dtypes(value) | numbers(value)


def shapes(x: Any) -> dict[str, Callable]:
    """One axis more, none, no sample, one sample less."""
    made: dict[str, Callable] = {"one axis more": lambda: x[None]}
    if x.ndim > 1:
        made["flat"] = lambda: x.ravel()
    if x.ndim and len(x) > 1:
        made |= {"one less": lambda: x[:-1], "empty": lambda: x[:0]}
    return made


def dtypes(x: Any) -> dict[str, Callable]:
    """Other kinds of numbers, and no numbers."""
    made: dict[str, Callable] = {"text": lambda: np.full(x.shape, "a")}
    if x.dtype.kind == "b":
        return made | {"numbers": lambda: x.astype(np.float32)}
    if x.dtype.kind in "iu":
        return made | {"float": lambda: x.astype(np.float32)}
    return made | {"complex": lambda: x.astype(np.complex64), "int8": lambda: x.astype(np.int8)}


def numbers(x: Any) -> dict[str, Callable]:
    """NaN, infinity and huge values in the first place; class numbers that do not exist."""
    if not x.size or x.dtype.kind == "b":
        return {}
    if x.dtype.kind in "iu":
        return {"too large": lambda: put(x, 100)} | ({"negative": lambda: put(x, -100)} if x.dtype.kind == "i" else {})
    return {"NaN": lambda: put(x, NAN), "infinite": lambda: put(x, np.inf), "huge": lambda: put(x, HUGE)}


def put(x: Any, value: float) -> Any:
    """The array with another first value, of the same kind."""
    changed = np.array(x)
    changed[(0,) * x.ndim] = value
    return changed if isinstance(x, np.ndarray) else jnp.asarray(changed)
