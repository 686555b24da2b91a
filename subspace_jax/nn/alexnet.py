"""The networks of the gradient-projection papers for 32x32 images: an AlexNet and a LeNet, dropout and LRN included."""

import math

import flax.linen as nn
import jax.numpy as jnp

from subspace_jax.nn.parts import Images, Parts, Stages


class AlexNet(nn.Module):
    """Serra et al. 2018: three convolutions without padding, two wide dense layers, a norm after each of the five.

    Where its input is too small for a convolution and its pooling (8x8 images: from the second on), a convolution pads.
    """

    classes: int = 10
    filters: tuple[int, ...] = (64, 128, 256)
    widths: tuple[int, ...] = (2048, 2048)
    parts: Parts = Parts(norm="minibatch", use_bias=False)

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1, conv2 after pooling, dense0, dense1, penultimate, logits."""
        parts, stages = self.parts, {}
        for i, width in enumerate(self.filters):
            kernel, rate = (4, 3, 2)[min(i, 2)], (0.2, 0.2, 0.5)[min(i, 2)]
            x = parts.conv(width, kernel, pad=0 if x.shape[1] > kernel else kernel // 2, name=f"conv{i}")(x)
            x = parts.act(parts.normalize(x, train, name=f"conv{i}_norm"))
            x = nn.max_pool(nn.Dropout(rate, deterministic=not train)(x), (2, 2), (2, 2))
            stages[f"conv{i}"] = x
        x = x.reshape(len(x), math.prod(x.shape[1:]))
        for i, width in enumerate(self.widths):
            x = parts.dense(width, name=f"dense{i}")(x)
            x = parts.act(parts.normalize(x, train, name=f"dense{i}_norm"))
            stages[f"dense{i}"] = x = nn.Dropout(0.5, deterministic=not train)(x)
        return stages | parts.head(x, self.classes)


class LeNet(nn.Module):
    """Saha et al. 2021, CIFAR-100 superclasses: two 5x5 convolutions with local response norm, two dense layers."""

    classes: int = 10
    filters: tuple[int, ...] = (20, 50)
    widths: tuple[int, ...] = (800, 500)
    parts: Parts = Parts(use_bias=False)

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Stages:
        """Stages: conv0, conv1 after pooling, dense0, dense1, penultimate, logits."""
        parts, stages = self.parts._replace(norm="none"), {}  # an EvoNorm would replace the activation
        for i, width in enumerate(self.filters):
            x = local_response(parts.act(parts.conv(width, 5, name=f"conv{i}")(x)))
            stages[f"conv{i}"] = x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = x.reshape(len(x), math.prod(x.shape[1:]))
        for i, width in enumerate(self.widths):
            stages[f"dense{i}"] = x = parts.act(parts.dense(width, name=f"dense{i}")(x))
        return stages | parts.head(x, self.classes)


def local_response(x, *, size: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75, k: float = 1.0):
    """Channel c / (k + alpha * mean of squares of the channels c - size / 2 ... c + (size - 1) / 2)^beta."""
    squares = jnp.pad(x**2, ((0, 0),) * 3 + ((size // 2, (size - 1) // 2),))
    mean = sum(squares[..., i : i + x.shape[-1]] for i in range(size)) / size
    return x / (k + alpha * mean) ** beta
