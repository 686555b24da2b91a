"""How long a computation took, its results on the device included."""

import time
from collections.abc import Callable
from typing import Any

import jax


def timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    """What compute() gives, and its seconds; the first call of a program compiles it."""
    started = time.perf_counter()
    result = jax.block_until_ready(compute())
    return result, time.perf_counter() - started
