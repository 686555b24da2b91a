"""The vision transformer (Dosovitskiy et al. 2021): class token, learned positions, pre-norm."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from subspace_jax.nn.parts import EVONORMS, Images, Parts, Stages

POSITION_DEVIATION = 0.02  # of the initial position embeddings, as published


class ViT(nn.Module):
    """Patches of `patch` pixels, `depth` blocks of `heads` heads, an inner width of four times `width`.

    Its positions belong to one image size: the one it is initialised with.

    Raises:
      ValueError: when the patch does not divide the image, or the heads the width; for an EvoNorm.
    """

    classes: int = 10
    patch: int = 4
    width: int = 192
    depth: int = 12
    heads: int = 3
    parts: Parts = Parts(norm="layer", activation="gelu", init="lecun")

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: patches, block0, block1, ... (b, tokens, width), penultimate (the class token), logits."""
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(f"patch must divide the image: {self.patch} does not divide {x.shape[1]}x{x.shape[2]}.")
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width: {self.heads} does not divide {self.width}.")
        if self.parts.norm in EVONORMS:
            raise ValueError(f"norm {self.parts.norm!r} would activate what the layers of a ViT read; take 'layer'.")
        stages = {"patches": (x := self._embed(x))}
        for i in range(self.depth):
            stages[f"block{i}"] = x = EncoderBlock(self.heads, self.parts, name=f"block{i}")(x, train)
        x = self.parts.normalize(x, train, name="norm")
        return stages | self.parts.head(x[:, 0], self.classes)

    def _embed(self, x):
        """Class token and patches, with their positions."""
        x = self.parts.conv(self.width, self.patch, stride=self.patch, pad=0, name="patches")(x)
        x = x.reshape(len(x), math.prod(x.shape[1:3]), self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)).astype(x.dtype), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(POSITION_DEVIATION), (1, *x.shape[1:]))
        return x + positions.astype(x.dtype)


class EncoderBlock(nn.Module):
    """Attention and a two-layer MLP, each on the normalised residual stream and added to it."""

    heads: int
    parts: Parts

    @nn.compact
    def __call__(self, x, train: bool):
        """(b, tokens, width) -> the same."""
        parts, width = self.parts, x.shape[-1]
        y = Attention(self.heads, parts, name="attention")(parts.normalize(x, train, name="norm0"))
        x = parts.add(x, y, name="sum0")
        y = parts.act(parts.dense(4 * width, name="dense0")(parts.normalize(x, train, name="norm1")))
        return parts.add(x, parts.dense(width, name="dense1")(y), name="sum1")


class Attention(nn.Module):
    """Self-attention whose four projections are plain (width, width) kernels, as weight edits need them."""

    heads: int
    parts: Parts

    @nn.compact
    def __call__(self, x):
        """(b, tokens, width) -> the same; the softmax is float32."""
        width = x.shape[-1]
        split = (*x.shape[:2], self.heads, width // self.heads)
        query, key, value = (self.parts.dense(width, name=n)(x).reshape(split) for n in ("query", "key", "value"))
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        return self.parts.dense(width, name="out")(mixed)
