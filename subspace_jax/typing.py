"""The types that signatures are written in.

`Variables` is what a model needs to run: {"params": ..., "batch_stats": ...}, or any pytree for one's own `apply`.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, Shaped, UInt8

Params = PyTree
Variables = PyTree
ApplyFn = Callable[[Any, Any], Any]  # (variables, x) -> logits (batch, classes)
LossFn = Callable[[Any, Any, Any], Any]  # (variables, x, y) -> one loss per sample (batch,)
Batch = dict[str, Any]  # {"image", "label", "index"}

__all__ = [
    "ApplyFn", "Array", "Batch", "Bool", "Float", "Int", "Key", "LossFn", "Num", "Params", "PyTree", "Shaped", "UInt8",
    "Variables",
]  # fmt: skip
