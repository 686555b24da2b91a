"""Spyx as a peer of `benchmarks.spiking`: the same network with its LIF neurons, where it can be imported."""

import importlib.metadata
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import spyx.nn  # type: ignore
from flax import nnx  # type: ignore

from subspace_jax.nn.vision import average

VERSIONS = {"spyx": importlib.metadata.version("spyx")}


class Product(nnx.Module):
    """A kernel, after its poolings and, in front of a dense one, a flattening."""

    def __init__(self, kernel: np.ndarray, pools: int):
        self.kernel, self.pools = nnx.Param(jnp.asarray(kernel)), pools

    def __call__(self, x: jax.Array) -> jax.Array:
        """One step of a batch."""
        kernel = self.kernel[...]
        for _ in range(self.pools):
            x = average(x)
        if kernel.ndim == 2:
            return x.reshape(len(x), -1) @ kernel
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def calls(
    kernels: Sequence[np.ndarray], pools: Sequence[int], spikes: np.ndarray, *, leak: float, threshold: float
) -> dict[str, Callable[[], np.ndarray]]:
    """{"forward": logits, "forward and backward": gradient of the first kernel of the sum of their squares}."""
    layers, shapes = [], jax.ShapeDtypeStruct(spikes.shape[1:], "float32")
    for number, (kernel, own) in enumerate(zip(kernels, pools, strict=True)):
        product = Product(kernel, own)
        shapes, layers = jax.eval_shape(product, shapes), [*layers, product]
        if number < len(kernels) - 1:
            layers.append(spyx.nn.LIF(shapes.shape[1:], beta=leak, threshold=threshold, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(spyx.nn.Sequential(*layers))
    x = jnp.asarray(spikes)

    def logits(state, x):
        return spyx.nn.run(nnx.merge(graph, state), x)[0].sum(0) / len(x)

    forward = jax.jit(logits)
    both = jax.jit(jax.grad(lambda state, x: jnp.square(logits(state, x)).sum()))
    return {
        "forward": lambda: np.asarray(forward(state, x)),
        "forward and backward": lambda: np.asarray(jax.tree.leaves(both(state, x))[0]),
    }
