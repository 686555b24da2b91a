"""Parameters as trees of arrays only: other leaves (functions, strings, flags) become part of the structure.

An `equinox.Module`, or any tree with such leaves, can then go wherever JAX takes arrays.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from subspace_jax.typing import Params


@jax.tree_util.register_static
class Static:
    """A non-array leaf, as part of the structure of a tree; unhashable values are compared by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (_has_hash(self.value) and self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value) if _has_hash(self.value) else id(self.value)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array (JAX, NumPy), a ShapeDtypeStruct or a tracer; plain numbers are not."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def hold(fn: Callable, params: Params) -> tuple[Callable, Params]:
    """The function and its parameters, which now have arrays as their only leaves."""
    if all(map(is_array, jax.tree.leaves(params))):
        return fn, params

    def released(params: Params, *args: Any) -> Any:
        return fn(jax.tree.map(lambda leaf: leaf.value if _static(leaf) else leaf, params, is_leaf=_static), *args)

    return released, jax.tree.map(lambda leaf: leaf if is_array(leaf) else Static(leaf), params)


def named(fn: Callable, names: Sequence[str]) -> Callable:
    """Fn of a list of parameters as a function of {name: parameter}, so that tables and reports show the names.

    >>> import jax.numpy as jnp
    >>> from subspace_jax.core import capture
    >>> fn = named(lambda weights, x: x @ weights[0] @ weights[1], ["first/kernel", "second/kernel"])
    >>> params = {"first/kernel": jnp.ones((3, 4)), "second/kernel": jnp.ones((4, 2))}
    >>> list(capture.layers(fn, params, jnp.ones((5, 3))))
    ['first/kernel', 'second/kernel']

    Args:
      fn: fn(list of arrays, *args), such as the stateless call of a Keras model.
      names: one for each of them; `dict(zip(names, parameters))` are then the parameters.

    Raises:
      ValueError: a name that is given twice.
    """
    names = tuple(names)
    if len(set(names)) < len(names):
        raise ValueError(f"each parameter needs a name of its own; got {', '.join(names)}.")

    def by_name(params: Params, *args: Any) -> Any:
        return fn([params[name] for name in names], *args)

    return by_name


def _static(leaf: Any) -> bool:
    return isinstance(leaf, Static)


def _has_hash(value: Any) -> bool:
    try:
        return isinstance(value, Hashable) and hash(value) is not None
    except TypeError:
        return False
