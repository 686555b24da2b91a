"""Wall-clock time of a computation, until its results on the device are ready."""

import time
from collections.abc import Callable
from typing import Any

import jax


def timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds) of compute(); the first call of a program includes its compilation."""
    started = time.perf_counter()
    result = jax.block_until_ready(compute())
    return result, time.perf_counter() - started
