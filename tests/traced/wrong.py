"""What replaces an array, of another shape or dtype, and what may come of it while a program is traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SHAPES: dict[str, Callable] = {
    "one axis more": lambda x: x[None], "flat": lambda x: x.reshape(-1), "one less": lambda x: x[:-1],
    "empty": lambda x: x[:0], "a number": lambda x: x.reshape(-1)[0],
}  # fmt: skip
DTYPES: dict[str, Callable] = {
    "int8": lambda x: x.astype(jnp.int8), "complex": lambda x: x.astype(jnp.complex64),
    "bool": lambda x: x.astype(bool),
    "float16": lambda x: x.astype(jnp.float16),
}  # fmt: skip
LEAKS = (
    jax.errors.UnexpectedTracerError, jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError, jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)  # fmt: skip


def outcome(fn: Callable, *arrays: Any) -> tuple[Any, str]:
    """The shapes of what comes back, None of an error; and what is wrong with the error, "" of one that is clear."""
    try:
        return jax.eval_shape(fn, *arrays), ""
    except LEAKS as error:
        return None, f"a traced value escapes: {type(error).__name__}"
    except (ValueError, TypeError):
        return None, ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
