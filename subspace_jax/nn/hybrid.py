"""Networks whose convolutions have bits of their own: XNOR networks, hybrids of one and a few bits, full precision."""

import flax.linen as nn
import jax

from subspace_jax.core.binary import Scale
from subspace_jax.core.costs import FULL_BITS
from subspace_jax.nn.layers.binary import QuantConv
from subspace_jax.nn.layers.norm import at_least_float32
from subspace_jax.nn.parts import MOMENTUM, Images, Stages


class HybridCNN(nn.Module):
    """3x3 convolutions, each of its own width, stride and bits; the first one and the classifier stay in 32 bits.

    A block is norm, quantisation, convolution without bias, ReLU; the first convolution comes before its norm. The
    classifier reads the mean over all positions of a last norm (Chakraborty et al. 2020, arXiv 1906.01493).

    Attributes:
      classes: outputs; 0: without a classifier.
      widths: channels of each convolution.
      strides: of each.
      bits: of each, weights and activations alike: 32 for the first one, 1 to 8 or 32 for the others.
      skip: the input of each block is added after its ReLU; where the shape changes, through a 1x1 convolution of the
        same bits. False: the plain twin, whose responses can be counted.
      scale: of quantised kernels, see `core.binary.filter_scale`.
      packed: for inference alone: quantised kernels are words, as `compression.hybrid_net.pack_network` makes them.
      dtype: of the computation.

    Raises:
      ValueError: not one stride and bits for each width; a first convolution in few bits; as `QuantConv`.
    """

    classes: int = 10
    widths: tuple[int, ...] = (4, 4, 4, 8, 8, 8)
    strides: tuple[int, ...] = (1, 1, 1, 2, 1, 1)
    bits: tuple[int, ...] = (32, 1, 1, 1, 1, 1)
    skip: bool = False
    scale: Scale = "mean"
    packed: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1, ... (the response of each convolution), penultimate, logits."""
        if not len(self.widths) == len(self.strides) == len(self.bits):
            raise ValueError(f"one stride and bits a width; got {self.widths}, {self.strides}, {self.bits}.")
        if self.bits[0] != FULL_BITS:
            raise ValueError(f"the first convolution stays in {FULL_BITS} bits; got {self.bits[0]}.")
        stages = {"conv0": self._conv(0, "conv0")(x, train)}
        x = jax.nn.relu(self._norm("conv0_norm", train)(stages["conv0"]))
        for i in range(1, len(self.widths)):
            normed = self._norm(f"conv{i}_norm", train)(x)
            stages[f"conv{i}"] = response = self._conv(i, f"conv{i}")(normed, train)
            y = jax.nn.relu(response)
            if self.skip:
                same = x.shape == y.shape
                y = y + (x if same else self._conv(i, f"shortcut{i}", window=(1, 1))(normed, train))
            x = y
        stages["penultimate"] = x = at_least_float32(self._norm("head_norm", train)(x).mean((1, 2)))
        return stages | {"logits": nn.Dense(self.classes, name="head")(x) if self.classes else x}

    def _conv(self, i: int, name: str, window: tuple[int, int] = (3, 3)) -> nn.Module:
        return QuantConv(
            self.widths[i],
            self.bits[i],
            self.bits[i],
            window,
            (self.strides[i],) * 2,
            self.scale,
            self.packed,
            self.dtype,
            name=name,
        )

    def _norm(self, name: str, train: bool) -> nn.Module:
        return nn.BatchNorm(not train, momentum=MOMENTUM, epsilon=1e-4, dtype=self.dtype, name=name)
