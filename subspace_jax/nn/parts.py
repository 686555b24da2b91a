"""How the layers of all our networks are made: norm, bias, activation, initialisation and compute dtype by name."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.nn.norm import MinibatchNorm
from subspace_jax.typing import Array, Float

Images = Float[Array | np.ndarray, "b h w c"]
Stages = dict[str, Array]  # named outputs in the order of execution; XLA drops those that nobody reads

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}
INITS = {"lecun": nn.initializers.lecun_normal(), "he": nn.initializers.he_normal()}
GROUPS = 32  # of GroupNorm; fewer where the channels are not divisible
MOMENTUM = 0.9  # of BatchNorm's running statistics: PyTorch's 0.1; Flax's own 0.99 lags behind short trainings
CHOICES = {
    "norm": ("batch", "minibatch", "group", "layer", "none"),
    "use_bias": (True, False),
    "activation": tuple(ACTIVATIONS),
    "init": tuple(INITS),
    "dtype": ("float32", "bfloat16"),
}


class Parts(NamedTuple):
    """The arguments every network of `build` takes.

    norm: "batch", "minibatch" (the batch's own statistics, at test too), "group" (gcd(32, channels) groups), "layer"
      or "none".
    use_bias: whether convolutions and dense layers have a bias (those of ResNets have none before a norm); the
      shift of a norm stays.
    activation: a name in ACTIVATIONS; GELU is the exact one.
    init: "lecun" or "he" normal for the layers before an activation; the head is always LeCun.
    dtype: of the computation; parameters, statistics, penultimate and logits are float32.
    """

    norm: str = "none"
    use_bias: bool = True
    activation: str = "relu"
    init: str = "he"
    dtype: str = "float32"

    def conv(self, width: int, kernel: int, *, name: str, stride: int = 1, pad: int | None = None) -> nn.Conv:
        """A square convolution, by default padded so that stride 1 keeps the size."""
        # Not "SAME": with stride 2 it pads one side only, and published weights expect both.
        pad = kernel // 2 if pad is None else pad
        return nn.Conv(width, (kernel, kernel), stride, pad, name=name, **self._layer())

    def dense(self, width: int, *, name: str) -> nn.Dense:
        """A dense layer over the last axis."""
        return nn.Dense(width, name=name, **self._layer())

    def act(self, x):
        """The activation."""
        return ACTIVATIONS[self.activation](x)

    def normalize(self, x, train: bool, *, name: str):
        """The norm of the last axis; x itself for "none"."""
        if self.norm == "batch":
            return nn.BatchNorm(not train, momentum=MOMENTUM, epsilon=1e-5, dtype=self.dtype, name=name)(x)
        if self.norm == "minibatch":
            return MinibatchNorm(dtype=self.dtype, name=name)(x)
        if self.norm == "group":
            groups = math.gcd(GROUPS, x.shape[-1])
            return nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype, name=name)(x)
        if self.norm == "layer":
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)
        return x

    def head(self, x, classes: int) -> Stages:
        """The last two stages, float32: the input of the linear classifier, and the logits (0 classes: it again)."""
        x = jnp.asarray(x, jnp.float32)
        if not classes:
            return {"penultimate": x, "logits": x}
        return {"penultimate": x, "logits": nn.Dense(classes, use_bias=self.use_bias, name="head")(x)}

    def _layer(self) -> dict[str, Any]:
        return {"use_bias": self.use_bias, "kernel_init": INITS[self.init], "dtype": self.dtype}
