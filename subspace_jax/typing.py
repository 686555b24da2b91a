"""The types that signatures are written in.

`Variables` is what a model needs to run: {"params": ..., "batch_stats": ...}, or any pytree for one's own `apply`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, Shaped, UInt8

Params = PyTree
Variables = PyTree
ApplyFn = Callable[[Any, Any], Any]  # (variables, x) -> logits (batch, classes)
LossFn = Callable[[Any, Any, Any], Any]  # (variables, x, y) -> one loss per sample (batch,)
Batch = dict[str, Any]  # {"image", "label", "index"}


class Algorithm(NamedTuple):
    """Anything with its own state over time; parameters live in the state.

    Attributes:
      init: (key, variables) -> state.
      step: (key, state, batch) -> (state, info).
    """

    init: Callable
    step: Callable


__all__ = [
    "Algorithm", "ApplyFn", "Array", "Batch", "Bool", "Float", "Int", "Key", "LossFn", "Num", "Params", "PyTree",
    "Shaped", "UInt8", "Variables",
]  # fmt: skip
