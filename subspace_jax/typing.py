"""Type aliases of the library's signatures.

`Variables` is what a model needs to run: {"params": ..., "batch_stats": ...}, or any pytree for a user's own `apply`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Array, Bool, Float, Inexact, Int, Num, PyTree, Shaped, UInt8, UInt32

if TYPE_CHECKING:
    from jaxtyping import Key
else:
    from jaxtyping import Key as TypedKey

    class Key:
        """Random keys of both kinds: typed ones, and those of `PRNGKey`, uint32 with one more axis, (..., 2)."""

        def __class_getitem__(cls, item: tuple[Any, str]):
            array, shape = item
            return TypedKey[array, shape] | UInt32[array, f"{shape} 2"]


Params = PyTree
Variables = PyTree
ApplyFn = Callable[[Any, Any], Any]  # (variables, x) -> logits (batch, classes)
LossFn = Callable[[Any, Any, Any], Any]  # (variables, x, y) -> one loss per sample (batch,)
Batch = dict[str, Any]  # {"image", "label", "index"}


class Algorithm(NamedTuple):
    """A stateful algorithm as two functions; its state holds the parameters.

    Attributes:
      init: (key, variables) -> state.
      step: (key, state, batch) -> (state, info).
    """

    init: Callable
    step: Callable


__all__ = [
    "Algorithm", "ApplyFn", "Array", "Batch", "Bool", "Float", "Inexact", "Int", "Key", "LossFn", "Num", "Params",
    "PyTree", "Shaped", "UInt8", "Variables",
]  # fmt: skip
