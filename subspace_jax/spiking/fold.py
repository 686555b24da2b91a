"""Batch norm folded into the kernels in front of it: at inference it is a scale and a shift of each channel."""

import jax
import jax.numpy as jnp

from subspace_jax import nn
from subspace_jax.nn import Model
from subspace_jax.nn.build import NETWORKS, description
from subspace_jax.typing import Array, Variables


def fold(model: Model, variables: Variables, *, shift: bool = True) -> tuple[Model, Variables]:
    """The same network without batch norm: W gamma / s and (b - mean) gamma / s + beta, s = sqrt(variance + epsilon).

    Args:
      model: "mlp", "cnn", "cnn2" or "vgg" of `nn.build`, with norm="batch".
      variables: its parameters and running statistics.
      shift: keep the biases, and with them the logits at inference. False leaves them and those of the head out: what a
        spiking network can take, and less accurate until it is trained a little more.

    Raises:
      ValueError: a network that is no such chain.
    """
    name, arguments = description(model)
    parts = getattr(NETWORKS[name], "parts", None)
    norm = arguments.get("norm", parts and parts.norm)
    if name not in ("mlp", "cnn", "cnn2", "vgg") or norm != "batch":
        raise ValueError(f"mlp, cnn, cnn2 and vgg with norm='batch' can be folded; got {name} with norm={norm!r}.")
    epsilon, params = arguments.get("epsilon") or 1e-5, {}
    variables = jax.tree.map(jnp.asarray, variables)
    for path, own in variables["params"].items():
        if path.endswith("_norm"):
            continue
        found = dict(own)
        if f"{path}_norm" in variables["params"]:
            affine, running = variables["params"][f"{path}_norm"], variables["batch_stats"][f"{path}_norm"]
            scale = affine["scale"] / jnp.sqrt(running["var"] + epsilon)
            found = {
                "kernel": own["kernel"] * jnp.broadcast_to(scale, own["kernel"].shape),
                "bias": affine["bias"] + (own.get("bias", 0.0) - running["mean"]) * scale,
            }
        params[path] = {"kernel": found["kernel"]} | ({"bias": _bias(found)} if shift else {})
    made = nn.build(name, **(arguments | {"norm": "none", "use_bias": shift}))
    return made, {"params": params, "batch_stats": {}}


def _bias(own: dict[str, Array]) -> Array:
    """Zeros where a head has none, since a network of `build` has biases everywhere or nowhere."""
    return own.get("bias", jnp.zeros(own["kernel"].shape[-1]))
