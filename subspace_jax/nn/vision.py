"""The MLP and the convolutional networks: plain chains, LeNet-5, a 5-layer CNN, VGG and ResNet for small images.

Each returns its stages as a dict (see `parts.Stages`). Stages are counted from 1, since the stem comes first; layers
and blocks from 0: "stage1/block0/conv1/kernel".
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from subspace_jax.nn.parts import Images, Parts, Stages
from subspace_jax.typing import Array, Float


class MLP(nn.Module):
    """Dense layers on the flattened input; `widths=()` is softmax regression."""

    classes: int = 10
    widths: tuple[int, ...] = (256, 128)
    parts: Parts = Parts(init="lecun")

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "b ..."], train: bool = False) -> Stages:
        """Stages: dense0, dense1, ... after their activation, penultimate, logits."""
        return _classifier(self.parts, x, self.widths, self.classes, train)


class LeNet5(nn.Module):
    """LeCun et al. 1998 with ReLU and max-pooling: 61,706 parameters on 28x28x1 or 32x32x1.

    Where the image is smaller than the classic network's at that layer (28x28 at the first one, 8x8 at both), the
    convolution pads, so that 28x28 gives the classic 400 inputs to dense0 and 8x8 gives 64.
    """

    classes: int = 10
    filters: tuple[int, ...] = (6, 16)
    widths: tuple[int, ...] = (120, 84)
    parts: Parts = Parts()

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1 after pooling, dense0, dense1, penultimate, logits."""
        parts, stages, classic = self.parts, {}, 32
        for i, width in enumerate(self.filters):
            x = parts.conv(width, 5, pad=0 if x.shape[1] >= classic else 2, name=f"conv{i}")(x)
            x = parts.act(parts.normalize(x, train, name=f"conv{i}_norm"))
            stages[f"conv{i}"] = x = halve(x)
            classic = (classic - 4) // 2
        return stages | _classifier(parts, x, self.widths, self.classes, train)


class CNN(nn.Module):
    """A chain of 3x3 convolutions, each of its own width, and dense layers on the flattened map.

    Attributes:
      classes: outputs.
      widths: channels of each convolution.
      strides: of each convolution; the last one holds for all further ones.
      pools: after how many convolutions each 2x2 pooling comes, in ascending order; a number that is there twice
        halves twice.
      pool: "max", or "average", which leaves out the last odd row and column.
      dense: features of the dense layers before the last one.
      parts: layer options.

    Raises:
      ValueError: poolings that are not in order, or after more convolutions than there are; strides for none or more.
    """

    classes: int = 10
    widths: tuple[int, ...] = (32, 32, 64, 64, 64, 64)
    strides: tuple[int, ...] = (1,)
    pools: tuple[int, ...] = (2,)
    pool: str = "max"
    dense: tuple[int, ...] = ()
    parts: Parts = Parts()

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1, ... after their pooling, dense0, ..., penultimate, logits."""
        if list(self.pools) != sorted(self.pools) or max(self.pools, default=0) > len(self.widths):
            raise ValueError(f"pools count convolutions, in order, up to {len(self.widths)}; got {self.pools}.")
        if not 1 <= len(self.strides) <= max(1, len(self.widths)):
            raise ValueError(
                f"strides are one or more, up to one a convolution ({len(self.widths)}); got {self.strides}."
            )
        stages = {}
        for i, width in enumerate(self.widths):
            stride = self.strides[min(i, len(self.strides) - 1)]
            x = self.parts.conv(width, 3, stride=stride, name=f"conv{i}")(x)
            x = self.parts.act(self.parts.normalize(x, train, name=f"conv{i}_norm"))
            for _ in range(self.pools.count(i + 1)):
                x = halve(x) if self.pool == "max" else average(x)
            stages[f"conv{i}"] = x
        return stages | _classifier(self.parts, x, self.dense, self.classes, train)


class CNN5(nn.Module):
    """The "5-layer CNN" of Aketi et al. 2022 (NGC): 3x3 convolutions, pooling after all but the first, one dense layer.

    Convolutions have a bias only where no norm follows: 76,202 parameters on 32x32x3.
    """

    classes: int = 10
    filters: tuple[int, ...] = (32, 32, 64, 64)
    parts: Parts = Parts(norm="evonorm", init="he_out")

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1, ... after pooling, penultimate, logits."""
        parts, stages = _bias_without_norm(self.parts), {}
        for i, width in enumerate(self.filters):
            x = parts.conv(width, 3, name=f"conv{i}")(x)
            x = parts.act(parts.normalize(x, train, name=f"conv{i}_norm"))
            stages[f"conv{i}"] = x = halve(x) if i else x
        return stages | self.parts.head(x.reshape(len(x), math.prod(x.shape[1:])), self.classes)


class VGG(nn.Module):
    """Simonyan & Zisserman 2015 for 32x32: 3x3 convolutions, five poolings, global mean, one dense layer."""

    classes: int = 10
    convs: tuple[int, ...] = (1, 1, 2, 2, 2)
    width: int = 64
    parts: Parts = Parts(norm="batch")

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: stage1 ... stage5 after pooling, penultimate, logits."""
        stages = {}
        for i, convs in enumerate(self.convs):
            stage = VGGStage(convs, self.width * min(2**i, 8), self.parts, name=f"stage{i + 1}")
            stages[f"stage{i + 1}"] = x = halve(stage(x, train))
        return stages | self.parts.head(x.mean((1, 2)), self.classes)


class VGGStage(nn.Module):
    """Convolutions of one width, each with norm and activation."""

    convs: int
    width: int
    parts: Parts

    @nn.compact
    def __call__(self, x, train: bool):
        """(b, h, w, c) -> (b, h, w, width)."""
        for i in range(self.convs):
            x = self.parts.conv(self.width, 3, name=f"conv{i}")(x)
            x = self.parts.act(self.parts.normalize(x, train, name=f"norm{i}"))
        return x


class ResNet(nn.Module):
    """He et al. 2016 with a CIFAR stem: a 3x3 convolution and no pooling, widths doubling from `width`.

    Shortcuts that change the shape are 1x1 convolutions with a norm (option B). Convolutions have a bias only where
    no norm follows.
    """

    classes: int = 10
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    parts: Parts = Parts(norm="batch")

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: stem, stage1, stage2, ..., penultimate, logits."""
        parts = _bias_without_norm(self.parts)
        x = parts.conv(self.width, 3, name="stem")(x)
        stages = {"stem": (x := parts.act(parts.normalize(x, train, name="stem_norm")))}
        for i, blocks in enumerate(self.blocks):
            stage = ResNetStage(BasicBlock, blocks, self.width * 2**i, min(i + 1, 2), parts, name=f"stage{i + 1}")
            stages[f"stage{i + 1}"] = x = stage(x, train)
        return stages | self.parts.head(x.mean((1, 2)), self.classes)


class ResNetStage(nn.Module):
    """Blocks of one kind and width; the first has the stride."""

    block: type[nn.Module]
    blocks: int
    width: int
    stride: int
    parts: Parts

    @nn.compact
    def __call__(self, x, train: bool):
        """(b, h, w, c) -> (b, h / stride, w / stride, what the block gives)."""
        for i in range(self.blocks):
            x = self.block(self.width, self.stride if i == 0 else 1, self.parts, name=f"block{i}")(x, train)
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    width: int
    stride: int
    parts: Parts

    @nn.compact
    def __call__(self, x, train: bool):
        """(b, h, w, c) -> (b, h / stride, w / stride, width)."""
        parts = self.parts
        y = parts.conv(self.width, 3, stride=self.stride, name="conv0")(x)
        y = parts.act(parts.normalize(y, train, name="norm0"))
        y = parts.normalize(parts.conv(self.width, 3, name="conv1")(y), train, name="norm1", gain=0.0)
        return beside_shortcut(parts, x, y, train, stride=self.stride)


def beside_shortcut(parts: Parts, x: Array, y: Array, train: bool, *, stride: int) -> Array:
    """act(x + y), inside a compact module; x by a convolution of one pixel where y has another shape."""
    if x.shape != y.shape:
        x = parts.conv(y.shape[-1], 1, stride=stride, name="shortcut")(x)
        x = parts.normalize(x, train, name="shortcut_norm")
    return parts.act(parts.add(x, y, name="sum"))


def _bias_without_norm(parts: Parts) -> Parts:
    return parts._replace(use_bias=parts.use_bias and parts.norm == "none")


def _classifier(parts: Parts, x, widths: tuple[int, ...], classes: int, train: bool) -> Stages:
    """Flatten, dense layers, head."""
    stages, x = {}, x.reshape(len(x), math.prod(x.shape[1:]))
    for i, width in enumerate(widths):
        x = parts.dense(width, name=f"dense{i}")(x)
        stages[f"dense{i}"] = x = parts.act(parts.normalize(x, train, name=f"dense{i}_norm"))
    return stages | parts.head(x, classes)


def halve(x):
    """2x2 max-pooling that keeps the last odd row and column, so that small images never vanish.

    By reshape: on a CPU the gradient of a windowed maximum takes ten times the memory and 1.5 times as long.
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    return x.reshape(b, -(-h // 2), 2, -(-w // 2), 2, c).max((2, 4))


def average(x):
    """2x2 average-pooling without the last odd row and column; linear, so that it can follow a spike.

    Raises:
      ValueError: a map of a single row or column, of which nothing would be left.
    """
    b, h, w, c = x.shape
    if min(h, w) < 2:
        raise ValueError(f"a map of {h}x{w} cannot be averaged over 2x2: use fewer pools or larger images.")
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
