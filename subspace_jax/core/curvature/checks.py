"""Argument checks of the curvature functions, made before the network is traced."""

from typing import Any

import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core.checks import check_labels, check_lengths
from subspace_jax.core.curvature.inputs import dimensions, samples
from subspace_jax.core.keys import as_keys
from subspace_jax.typing import Array, PyTree

EXACT_LIMIT = 4096  # largest input dimension of a dense Hessian: 64 MiB per sample in float32


def check_inputs(x: PyTree, y: Any = None) -> None:
    """Inputs are floats, an array or a tree of arrays; labels are integers, one for each sample."""
    named = {f"x[{path!r}]" if path else "x": leaf for path, leaf in trees.flatten(x).items()}
    if not named:
        raise ValueError(f"x must be an array of floats or a tree of such arrays; got {x!r}.")
    for name, leaf in named.items():
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            where = "" if name == "x" else f" in {name}"
            raise ValueError(f"inputs must be float, got {dtype}{where}; {_remedy(dtype)}.")
    if y is None:
        return
    check_labels(y)
    check_lengths(**named, y=y)


def _remedy(dtype: Any) -> str:
    if dtype == jnp.uint8:
        return "normalise first, as in training"
    return (
        "scale pixels as in training; token numbers have no derivative: start at the embedding, with the embedded "
        "tokens as x and the rest of the network as apply"
    )


def check_settings(*, probes: int = 10, step: float = 1e-3) -> None:
    """At least one probe, a positive step: known before there is any data."""
    if not probes >= 1:
        raise ValueError(f"probes must be at least 1; got {probes}: 10 is the published choice.")
    if not step > 0:
        raise ValueError(f"step must be positive; got {step}: 1e-3 is the published choice.")


def check_probes(keys: Array, x: PyTree, probes: int, chunk: int | None) -> None:
    """One key per sample, at least one probe, at least one probe per chunk."""
    if as_keys(keys).shape != samples(x):
        raise ValueError(
            f"keys must be one key a sample, shape {samples(x)}; got shape {as_keys(keys).shape}: "
            "make them with sample_keys(key, index)."
        )
    check_settings(probes=probes)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk, probes evaluated together, must be at least 1; got {chunk}: None is one at a time.")


def check_step(x: PyTree, step: float) -> None:
    """A positive step that the input's number format can resolve."""
    check_settings(step=step)
    for leaf in trees.flatten(x).values():
        if jnp.finfo(leaf.dtype).bits < 32:
            raise ValueError(
                f"step {step} is below input resolution: {leaf.dtype} keeps {jnp.finfo(leaf.dtype).eps:.1e} relative; "
                "give float32 inputs (the parameters may be bfloat16) or use hutchinson, hv_norm or ggn_exact."
            )


def check_dense(x: PyTree) -> None:
    """The dense Hessian of a sample is not too large: at most EXACT_LIMIT input dimensions."""
    dimension, (count,) = dimensions(x), samples(x)
    if dimension > EXACT_LIMIT:
        size = count * dimension**2 * max(leaf.dtype.itemsize for leaf in trees.flatten(x).values()) / 2**30
        raise ValueError(
            f"exact builds a {dimension} x {dimension} Hessian a sample, {size:.1f} GiB for this batch of {count}; "
            f"at most {EXACT_LIMIT} input dimensions are allowed: use ggn_exact or hutchinson."
        )
