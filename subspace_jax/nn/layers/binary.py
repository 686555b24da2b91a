"""Convolutions of which input and kernel are quantised to one or a few bits, on [-1, 1] (see `core.binary`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from subspace_jax.core import binary, convolution, packed
from subspace_jax.core.checks import check_real
from subspace_jax.core.costs import FULL_BITS
from subspace_jax.typing import Array


class QuantConv(nn.Module):
    """A convolution without bias, q(x) * alpha_o q(W), zero-padded ("SAME") after its input is quantised.

    In training it is computed as it stands, with the gradients of `core.binary`. In inference the levels are whole
    numbers, their sums exact in float32, and alpha_o comes last: what a packed layer computes, bit for bit.

    Attributes:
      features: output channels.
      bits_w: of a weight: 1 to 8; 32 leaves the layer as it is.
      bits_a: of an input, likewise; both are 32 or neither.
      window: kernel size.
      strides: steps between windows.
      scale: alpha_o, see `core.binary.filter_scale`.
      packed: for inference alone: the parameters are `packed_kernel`'s. One bit: XOR and population count of packed
        input and kernel; more bits: a convolution of the unpacked levels.

    Raises:
      ValueError: bits outside these; one side alone in 32 bits; a single input channel.
    """

    features: int
    bits_w: int = 1
    bits_a: int = 1
    window: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    scale: binary.Scale = "mean"
    packed: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train: bool = False):
        """(b, h, w, c) -> (b, h / stride, w / stride, features)."""
        if (self.bits_w == FULL_BITS) != (self.bits_a == FULL_BITS):
            raise ValueError(f"both sides are in {FULL_BITS} bits or neither; got {self.bits_w} and {self.bits_a}.")
        check_real("a convolution in few bits", {"x": jnp.result_type(x)})
        x = jnp.asarray(x, self.dtype)
        if self.packed and self.bits_w < FULL_BITS:
            return self._from_words(x)
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.window, x.shape[-1], self.features))
        if self.bits_w == FULL_BITS:
            return self._convolve(x, kernel)
        weight = binary.kbit_weight(kernel, self.bits_w, scale=self.scale)
        if train:
            return self._convolve(binary.quantize(x, self.bits_a), weight)
        step = step_scale(kernel, self.bits_w, self.bits_a, self.scale)
        levels = (binary.codes(side, bits) for side, bits in ((x, self.bits_a), (kernel, self.bits_w)))
        return self._scaled(self._convolve(*levels), step)

    def _from_words(self, x):
        channels, window = x.shape[-1], self.window
        size = packed.word_bits(channels)
        shape = (self.bits_w, window[0] * window[1] * -(-channels // size), self.features)
        words = self.param("codes", nn.initializers.zeros, shape, packed.WORDS[size])
        step = self.param("scale", nn.initializers.ones, (self.features,))
        if self.bits_w == self.bits_a == 1:
            signs, every = packed.pack(x >= 0), packed.pack(jnp.ones((1, *x.shape[1:]), bool))
            rows, mask = (
                convolution.patches(part, window, strides=self.strides, padding="SAME") for part in (signs, every)
            )
            return self._scaled(packed.popcount_dot(rows, words[0], mask), step)
        kernel = unpacked_codes(words, (*window, channels, self.features))
        return self._scaled(self._convolve(binary.codes(x, self.bits_a), kernel), step)

    def _scaled(self, sums, step):
        return jnp.asarray(sums, self.dtype) * jnp.asarray(step, self.dtype).reshape(1, 1, 1, -1)

    def _convolve(self, x: Array, kernel: Array) -> Array:
        x, kernel = (jnp.asarray(side, self.dtype) for side in (x, kernel))
        return jax.lax.conv_general_dilated(x, kernel, self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def step_scale(kernel: Array, bits_w: int, bits_a: int, scale: binary.Scale) -> Array:
    """What a sum of products of whole levels is multiplied by: alpha_o over both numbers of steps."""
    return binary.filter_scale(kernel, bits_w, scale=scale) / ((2**bits_w - 1) * (2**bits_a - 1))


def packed_kernel(kernel: Array, *, bits_w: int, bits_a: int, scale: binary.Scale = "mean") -> dict[str, Array]:
    """The parameters of a packed layer.

    Returns:
      codes: words (bits_w, window x words of the input channels, features), one plane for each bit of a level.
      scale: `step_scale`, float32 (features,).
    """
    levels = (binary.codes(kernel, bits_w) + 2**bits_w - 1) // 2
    planes = jnp.stack([(levels >> bit) & 1 for bit in range(bits_w)]).astype(bool)
    words = jnp.moveaxis(packed.pack(jnp.moveaxis(planes, -2, -1)), -1, -2)
    return {
        "codes": words.reshape(bits_w, -1, kernel.shape[-1]),
        "scale": step_scale(kernel, bits_w, bits_a, scale),
    }


def unpacked_codes(words: Array, shape: tuple[int, ...]) -> Array:
    """The odd integers of `core.binary.codes` for a kernel of this shape, from its planes of words."""
    *window, channels, features = shape
    columns = jnp.moveaxis(words.reshape(len(words), *window, -1, features), -2, -1)
    planes = jnp.moveaxis(packed.unpack(columns, channels), -1, -2).astype(jnp.int32)
    return 2 * sum(plane << bit for bit, plane in enumerate(planes)) - (2 ** len(words) - 1)
