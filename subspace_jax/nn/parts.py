"""Layer options of all our networks: norm, bias, activation, initialisation, compute dtype and bits."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from subspace_jax.core.checks import check_real
from subspace_jax.core.convolve import convolve, kept
from subspace_jax.core.quantize import MAX_BITS
from subspace_jax.nn.layers.norm import EvoNorm, MinibatchNorm, RangeEvoNorm, at_least_float32
from subspace_jax.nn.layers.quantized import Quantized, QuantizedSum
from subspace_jax.typing import Array, Float

Images = Float[Array | np.ndarray, "b h w c"]
Stages = dict[str, Array]  # named outputs in the order of execution; XLA drops those that nobody reads

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}
INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "he": nn.initializers.he_normal(),
    "he_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    "uniform": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
EVONORMS: dict[str, Callable[..., nn.Module]] = {
    "evonorm": EvoNorm,
    "evonorm_hard": functools.partial(EvoNorm, hard=True),
    "range_evonorm": RangeEvoNorm,
}
GROUPS = 32  # of GroupNorm; fewer where the channels are not divisible
EVONORM_GROUPS = 8  # of EvoNorms; fewer likewise
MOMENTUM = 0.9  # of BatchNorm's running statistics: PyTorch's 0.1; Flax's own 0.99 lags behind short trainings
CHOICES = {
    "norm": ("batch", "minibatch", "group", "layer", "none", *EVONORMS),
    "use_bias": (True, False),
    "activation": tuple(ACTIVATIONS),
    "init": tuple(INITS),
    "dtype": ("float32", "bfloat16", "float64"),
    "bits": (None, *range(1, MAX_BITS + 1)),
    "stochastic_act": (True, False),
}


class Parts(NamedTuple):
    """The arguments every network of `build` takes.

    norm: "batch", "minibatch" (the batch's own statistics, at test too), "group" (gcd(32, channels) groups), "layer",
      "none", or "evonorm", "evonorm_hard", "range_evonorm" (gcd(8, channels) groups), which include the activation:
      none follows them or the sum of a residual block, whose last norm starts with a gain of 0.
    use_bias: whether convolutions and dense layers have a bias (those of ResNets and cnn5 have none before a norm);
      norms keep their shift.
    activation: a name in ACTIVATIONS; "gelu" is the exact one, "gelu_tanh" its approximation by a tanh.
    epsilon: what norms add to the variance, above 0; None: 1e-5, and 1e-6 for "layer". EvoNorms have their own.
    init: "lecun", "he" or "he_out" (variance 2 / fan-out) normal, or "uniform" in +-1 / sqrt(fan-in), PyTorch's, for
      the layers before an activation; the head is always LeCun normal.
    dtype: of the computation; parameters, statistics, penultimate and logits are float32. "float64", to compare
      implementations, needs jax_enable_x64 and makes stages and logits float64; cast the parameters yourself.
    bits: None, or the bits of a low-precision network simulated in float32: inputs, weights and cotangents of
      convolutions, dense layers, the head, "range_evonorm" and residual sums are quantised (see `layers.quantized`;
      other norms and the products of attention are not). The parameters keep their names and initial values.
    stochastic_act: round these inputs at random while training, as the authors' code does, instead of to the nearest.
    """

    norm: str = "none"
    use_bias: bool = True
    activation: str = "relu"
    epsilon: float | None = None
    init: str = "he"
    dtype: str = "float32"
    bits: int | None = None
    stochastic_act: bool = False

    def conv(self, width: int, kernel: int, *, name: str, stride: int = 1, pad: int | None = None) -> nn.Module:
        """A square convolution, by default padded so that stride 1 keeps the size."""
        # Not "SAME": with stride 2 it pads one side only, and published weights expect both.
        pad = kernel // 2 if pad is None else pad
        layer = nn.Conv(width, (kernel, kernel), stride, pad, conv_general_dilated=convolve, name=name, **self._layer())
        return self._quantized(layer)

    def dense(self, width: int, *, name: str) -> nn.Module:
        """A dense layer over the last axis."""
        return self._quantized(nn.Dense(width, name=name, **self._layer()))

    def act(self, x):
        """The activation after a norm or a residual sum; x itself where the norm includes it."""
        return x if self.norm in EVONORMS else ACTIVATIONS[self.activation](x)

    def add(self, x, y, *, name: str):
        """The sum of a residual block."""
        if self.bits is not None:
            return QuantizedSum(self.bits, self.stochastic_act, name=name)(x, y)
        return kept(x + y)

    def normalize(self, x, train: bool, *, name: str, gain: float = 1.0):
        """The norm of the last axis; x itself for "none". `gain` is the initial scale of an EvoNorm; others: 1."""
        if self.norm in EVONORMS:
            few = {"bits": self.bits, "stochastic_act": self.stochastic_act} if self.norm == "range_evonorm" else {}
            groups = math.gcd(EVONORM_GROUPS, x.shape[-1])
            return EVONORMS[self.norm](groups=groups, gain=gain, dtype=self.dtype, name=name, **few)(x)
        epsilon = self.epsilon or (1e-6 if self.norm == "layer" else 1e-5)
        if self.norm == "batch":
            return nn.BatchNorm(not train, momentum=MOMENTUM, epsilon=epsilon, dtype=self.dtype, name=name)(x)
        if self.norm == "minibatch":
            return MinibatchNorm(epsilon=epsilon, dtype=self.dtype, name=name)(x)
        if self.norm == "group":
            groups = math.gcd(GROUPS, x.shape[-1])
            return nn.GroupNorm(groups, epsilon=epsilon, dtype=self.dtype, name=name)(x)
        if self.norm == "layer":
            return nn.LayerNorm(epsilon=epsilon, dtype=self.dtype, name=name)(x)
        return x

    def head(self, x, classes: int) -> Stages:
        """The last two stages, at least float32: input of the linear classifier, logits (0 classes: the input)."""
        x = at_least_float32(x)
        if not classes:
            return {"penultimate": x, "logits": x}
        layer = self._quantized(nn.Dense(classes, use_bias=self.use_bias, name="head"))
        return {"penultimate": x, "logits": layer(x)}

    def _layer(self) -> dict[str, Any]:
        how = {"kernel_init": INITS[self.init], "dtype": self.dtype, "promote_dtype": _promoted}
        return {"use_bias": self.use_bias} | how

    def _quantized(self, layer: nn.Module) -> nn.Module:
        return layer if self.bits is None else Quantized(layer, self.bits, self.stochastic_act)


def _promoted(inputs, *weights, dtype=None, inexact: bool = True):
    """Flax's cast to the dtype of a layer, which would drop the imaginary parts of its inputs."""
    check_real("a network of real weights", {"inputs": jnp.result_type(inputs)})
    return promote_dtype(inputs, *weights, dtype=dtype, inexact=inexact)
