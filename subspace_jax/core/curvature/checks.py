"""What the curvature functions refuse, each in one sentence, before anything of the network is traced."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.core.keys import as_keys
from subspace_jax.typing import Array

EXACT_LIMIT = 4096  # input dimensions of which the dense Hessian, 64 MiB a sample, is still reasonable


def check_inputs(x: Array | np.ndarray, y: Array | np.ndarray | None = None) -> None:
    """Inputs are floats, labels are integers, one a sample."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"inputs must be float, got {x.dtype}; normalise first, as in training.")
    if y is None:
        return
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"labels must be integer class numbers, got {y.dtype}; take the argmax of one-hot labels.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be one a sample, shape {x.shape[:1]}; got {y.shape}.")


def check_settings(*, probes: int = 10, step: float = 1e-3) -> None:
    """At least one probe, a positive step: known before there is any data."""
    if probes < 1:
        raise ValueError(f"probes must be at least 1; got {probes}: 10 is the published choice.")
    if not step > 0:
        raise ValueError(f"step must be positive; got {step}: 1e-3 is the published choice.")


def check_probes(keys: Array, x: Array | np.ndarray, probes: int, chunk: int | None) -> None:
    """One key a sample, at least one probe, at least one probe a chunk."""
    if as_keys(keys).shape != x.shape[:1]:
        raise ValueError(
            f"keys must be one key a sample, shape {x.shape[:1]}; got shape {as_keys(keys).shape}: "
            "make them with sample_keys(key, index)."
        )
    check_settings(probes=probes)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk, probes evaluated together, must be at least 1; got {chunk}: None is one at a time.")


def check_step(x: Array | np.ndarray, step: float) -> None:
    """A positive step that the input's number format can resolve."""
    check_settings(step=step)
    if jnp.finfo(x.dtype).bits < 32:
        raise ValueError(
            f"step {step} is below input resolution: {x.dtype} keeps {jnp.finfo(x.dtype).eps:.1e} relative; "
            "give float32 inputs (the network may still compute in bfloat16) or use hutchinson, hv_norm or ggn_exact."
        )


def check_dense(x: Array | np.ndarray) -> None:
    """The dense Hessian of a sample fits."""
    dimension = int(np.prod(x.shape[1:]))
    if dimension > EXACT_LIMIT:
        size = len(x) * dimension**2 * x.dtype.itemsize / 2**30
        raise ValueError(
            f"exact builds a {dimension} x {dimension} Hessian a sample, {size:.1f} GiB for this batch of {len(x)}; "
            f"at most {EXACT_LIMIT} input dimensions are allowed: use ggn_exact or hutchinson."
        )
