"""The ResNets of ImageNet, padded as PyTorch pads them, so that published weights give their published logits."""

import flax.linen as nn

from subspace_jax.nn.parts import Images, Parts, Stages
from subspace_jax.nn.vision import BasicBlock, ResNetStage, beside_shortcut


class ImageNetResNet(nn.Module):
    """He et al. 2016 with the stem of ImageNet: a 7x7 convolution of stride 2, then 3x3 max-pooling of stride 2.

    Blocks of two 3x3 convolutions, or bottlenecks with four times the width as output and the stride in the 3x3
    convolution ("v1.5", as torchvision and timm have it). Convolutions before a norm have no bias.
    """

    classes: int = 10
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = False
    parts: Parts = Parts(norm="batch")

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: stem after pooling, stage1, stage2, ..., penultimate, logits."""
        block = Bottleneck if self.bottleneck else BasicBlock
        parts = self.parts._replace(use_bias=self.parts.use_bias and self.parts.norm == "none")
        x = parts.conv(self.width, 7, stride=2, name="stem")(x)
        x = parts.act(parts.normalize(x, train, name="stem_norm"))
        stages = {"stem": (x := nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))}
        for i, blocks in enumerate(self.blocks):
            stage = ResNetStage(block, blocks, self.width * 2**i, min(i + 1, 2), parts, name=f"stage{i + 1}")
            stages[f"stage{i + 1}"] = x = stage(x, train)
        return stages | self.parts.head(x.mean((1, 2)), self.classes)


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 pixels beside a shortcut; the last one gives four times the width."""

    width: int
    stride: int
    parts: Parts

    @nn.compact
    def __call__(self, x, train: bool):
        """(b, h, w, c) -> (b, h / stride, w / stride, 4 width)."""
        parts = self.parts
        y = parts.act(parts.normalize(parts.conv(self.width, 1, name="conv0")(x), train, name="norm0"))
        y = parts.conv(self.width, 3, stride=self.stride, name="conv1")(y)
        y = parts.act(parts.normalize(y, train, name="norm1"))
        y = parts.normalize(parts.conv(4 * self.width, 1, name="conv2")(y), train, name="norm2", gain=0.0)
        return beside_shortcut(parts, x, y, train, stride=self.stride)
