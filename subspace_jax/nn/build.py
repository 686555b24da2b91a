"""Our networks by name: one table of sizes, arguments that a checkpoint can save as JSON."""

import dataclasses
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from subspace_jax.nn.alexnet import AlexNet, LeNet
from subspace_jax.nn.hybrid import HybridCNN
from subspace_jax.nn.imagenet import ImageNetResNet
from subspace_jax.nn.model import Model, from_linen
from subspace_jax.nn.parts import CHOICES, Parts
from subspace_jax.nn.vision import CNN, CNN5, MLP, VGG, LeNet5, ResNet
from subspace_jax.nn.vit import ViT

NETWORKS: dict[str, nn.Module] = {
    "mlp": MLP(widths=(256, 128)),
    "lenet5": LeNet5(filters=(6, 16), widths=(120, 84)),
    "cnn": CNN(),
    "cnn2": CNN(widths=(16, 32), pools=(1, 2), dense=(64,)),
    "cnn5": CNN5(),
    "lenet": LeNet(),
    "alexnet": AlexNet(),
    "vgg": CNN(  # VGG-16, layer by layer, so that each width can be chosen
        widths=(64, 64, 128, 128, 256, 256, 256, *(512,) * 6), pools=(2, 4, 7, 10, 13), parts=Parts(norm="batch")
    ),
    "vgg11": VGG(convs=(1, 1, 2, 2, 2), width=64),
    "vgg16": VGG(convs=(2, 2, 3, 3, 3), width=64),
    "resnet18": ResNet(blocks=(2, 2, 2, 2), width=64),
    "resnet20": ResNet(blocks=(3, 3, 3), width=16),
    "hybrid_cnn": HybridCNN(),
    "hybrid_resnet": HybridCNN(  # ResNet-20 with a skip around every convolution
        widths=(*(16,) * 7, *(32,) * 6, *(64,) * 6),
        strides=(*(1,) * 7, 2, *(1,) * 5, 2, *(1,) * 5),
        bits=(32, *(1,) * 18),
        skip=True,
    ),
    "vit_tiny": ViT(patch=4, width=192, depth=12, heads=3),
    "resnet18_imagenet": ImageNetResNet(blocks=(2, 2, 2, 2)),
    "resnet50": ImageNetResNet(blocks=(3, 4, 6, 3), bottleneck=True),
    "vit_s16": ViT(patch=16, width=384, depth=12, heads=6),
    "vit_b16": ViT(patch=16, width=768, depth=12, heads=12),
}
OPTIONS = CHOICES | {
    "skip": (True, False),
    "bottleneck": (True, False),
    "pool": ("max", "average"),
    "scale": ("mean", "least_squares"),
    "packed": (True, False),
}


def build(name: str, **arguments: Any) -> Model:
    """A network by its name in NETWORKS; the fields of that entry are the defaults of the arguments.

    Args:
      name: mlp, lenet5, cnn, cnn2, cnn5, lenet, alexnet, vgg, vgg11, vgg16, resnet18, resnet20, hybrid_cnn,
        hybrid_resnet, vit_tiny, or, for images of 224 pixels, resnet18_imagenet, resnet50, vit_s16, vit_b16, which
        `nn.weights` fills with published weights.
      **arguments: `classes` (10; 0: without a head, for `multi_head`), the sizes of that network (`widths`, `strides`,
        `pools`, `pool`, `dense`, `filters`, `convs`, `blocks`, `width`, `patch`, `depth`, `heads`, `bottleneck`) and
        the fields of Parts: `norm`, `use_bias`, `activation`, `epsilon`, `init`, `dtype`, `bits`, `stochastic_act`. The
        hybrid networks take, beside `classes` and `dtype`, only `widths`, `strides` and `bits` of each convolution,
        `skip`, `scale` and `packed`. Lists serve as tuples, so that what JSON gives back builds the same network.

    Raises:
      ValueError: an unknown name or argument, or a value that the argument does not take.

    >>> from subspace_jax.nn import build
    >>> build("mlp", depth=3)
    Traceback (most recent call last):
    ValueError: mlp takes no argument 'depth'; it takes classes, widths, norm, ..., bits, stochastic_act.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}.")
    network = NETWORKS[name]
    sizes = [field.name for field in dataclasses.fields(network) if field.name not in ("parts", "parent", "name")]
    known = [*sizes, *(Parts._fields if hasattr(network, "parts") else ())]
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(f"{name} takes no argument {key!r}; it takes {', '.join(known)}.")
        default = getattr(network, key) if key in sizes else None
        is_size = isinstance(default, int | tuple) and not isinstance(default, bool)
        check = _positive if key == "epsilon" else _choice
        arguments[key] = _size(key, value, default) if is_size else check(key, value)
    if arguments.get("dtype") == "float64" and jnp.result_type(float) != "float64":
        raise ValueError(
            'dtype "float64" needs jax_enable_x64: jax.config.update("jax_enable_x64", True) before the first array.'
        )
    return _built(name, tuple(sorted(arguments.items())))


def description(model: Model) -> tuple[str, dict[str, Any]]:
    """The name and arguments with which `build` made a network.

    Raises:
      ValueError: a network that `build` did not make.
    """
    if model.apply not in _described:
        raise ValueError("this network is not one of nn.build: there is no table of its layers' names.")
    name, arguments = _described[model.apply]
    return name, dict(arguments)


_described: weakref.WeakKeyDictionary[Callable, tuple[str, tuple[tuple[str, Any], ...]]] = weakref.WeakKeyDictionary()


@lru_cache(maxsize=64)  # the same functions for the same network, and so one compilation of whatever uses them
def _built(name: str, arguments: tuple[tuple[str, Any], ...]) -> Model:
    model = from_linen(linen_module(name, arguments))
    _described[model.apply] = name, arguments
    return model


def linen_module(name: str, arguments: tuple[tuple[str, Any], ...]) -> nn.Module:
    """The module of a network by name and checked arguments, for modules that contain it."""
    network = NETWORKS[name]
    if not hasattr(network, "parts"):
        return network.clone(**dict(arguments))
    parts = network.parts._replace(**{key: value for key, value in arguments if key in Parts._fields})
    if parts.bits is not None and parts.dtype != "float32":
        raise ValueError(f"bits={parts.bits} is simulated in dtype float32; {parts.dtype} would round its grid again.")
    return network.clone(parts=parts, **{k: v for k, v in arguments if k not in Parts._fields})


def _choice(key: str, value):
    if (type(value), value) not in [(type(choice), choice) for choice in OPTIONS[key]]:  # True is not one bit
        raise ValueError(f"{key} is one of {', '.join(map(str, OPTIONS[key]))}; got {value!r}.")
    return value


def _positive(key: str, value):
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ValueError(f"{key} is a number above 0, such as 1e-6, or None; got {value!r}.")
    return value


def _size(key: str, value, default: int | tuple[int, ...]) -> int | tuple[int, ...]:
    value = tuple(value) if isinstance(value, list) else value
    numbers = value if isinstance(value, tuple) else (value,)
    whole = all(type(number) is int and number >= (key != "classes") for number in numbers)
    if type(value) is not type(default) or not whole:
        raise ValueError(f"{key} takes whole numbers of at least 1, such as {default}; got {value!r}.")
    return value
