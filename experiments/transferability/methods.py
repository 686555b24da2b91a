"""The networks of transferability by name, and how each of them sees an image in [0, 1]."""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from subspace_jax import nn, training
from subspace_jax.core.quantize import halftone, quantize_input
from subspace_jax.nn.build import NETWORKS
from subspace_jax.robustness import trend

if TYPE_CHECKING:
    from experiments.transferability.experiment import Config

ADAM_RATE = 1e-3
ENSEMBLES = {"fp3": ("fp0", "fp1", "fp2"), "mix": ("fp0", "q2", "q1")}
DESIGNED, GIVEN = "designed", "given"
SINGLE = "pgd", "margin", "square", "noise", "transfer"
TOGETHER = (*trend.RULES, "softmean", "members", "transfer", "square", "noise")
NOISE_TRIES = 10


class Kind(NamedTuple):
    """What a name says: bits of the input (0: all), halftone, optimiser, architecture ("": that of --model)."""

    bits: int = 0
    dots: bool = False
    optimizer: str = ""
    model: str = ""


def kind(name: str) -> Kind:
    """What a network is, by its name.

    Raises:
      ValueError: a name that there is not.
    """
    if re.fullmatch(r"fp\d+", name):
        return Kind()
    if re.fullmatch(r"q[1-8]", name):
        return Kind(bits=int(name[1:]))
    if name in ("ht", "adam"):
        return Kind(dots=name == "ht", optimizer="adam" if name == "adam" else "")
    if name in NETWORKS:
        return Kind(model=name)
    raise ValueError(
        f"--models: there is no {name!r}; there are fp<number>, q1..q8, ht, adam and {', '.join(NETWORKS)}."
    )


def alone(name: str) -> str:
    """The name of a network among figures: fp3 is that of an ensemble, and its fourth network is fp3_alone."""
    return f"{name}_alone" if name in ENSEMBLES else name


def groups(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Networks that train in one program: of one architecture and optimiser."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found.setdefault((kind(name).model, kind(name).optimizer), []).append(name)
    return [tuple(group) for group in found.values()]


def recipe(given: training.Recipe, optimizer: str) -> training.Recipe:
    """That of the run, or Adam at its own rate."""
    return dataclasses.replace(given, optimizer="adam", lr=ADAM_RATE) if optimizer else given


@functools.lru_cache
def seeing(network: nn.Model, mean: tuple[float, ...], std: tuple[float, ...], fixed: bool) -> nn.Model:
    """A network of images in [0, 1], which its statistics say how to see: {"network", "bits", "dots"}.

    So networks of several bits train and are attacked in one program.
    """

    def seen(stats: Any, x: Any) -> Any:
        x = classifier.normalised(x, mean, std)
        ends = (classifier.normalised(jnp.full_like(x[:1], end), mean, std) for end in (0.0, 1.0))
        lo, hi = ends if fixed else (x.min(), x.max())
        coarse = quantize_input(x, jnp.maximum(stats["bits"], 1), lo, hi)
        out = jnp.where(stats["bits"] > 0, coarse, x)
        return jnp.where(stats["dots"], halftone(x), out) if x.ndim == 4 else out

    def inner(variables: Any) -> Any:
        return {"params": variables["params"], "batch_stats": variables["batch_stats"]["network"]}

    def init(key, x):
        variables, plain = network.init(key, x), {"bits": jnp.int32(0), "dots": jnp.bool_(False)}
        return {"params": variables["params"], "batch_stats": {"network": variables["batch_stats"], **plain}}

    def apply(variables, x):
        return network.apply(inner(variables), seen(variables["batch_stats"], x))

    def train_apply(variables, x, key):
        logits, new = network.train_apply(inner(variables), seen(variables["batch_stats"], x), key)
        return logits, variables["batch_stats"] | {"network": new}

    def features(variables, x):
        return network.features(inner(variables), seen(variables["batch_stats"], x))

    return nn.Model(init, apply, train_apply, features)


def started(key: Any, model: nn.Model, names: tuple[str, ...], x: np.ndarray) -> Any:
    """Stacked initial variables of networks that see in the ways of their names."""
    count = jnp.arange(len(names))
    variables = jax.vmap(lambda t: model.init(jax.random.fold_in(key, t), x))(count)
    kinds = [kind(name) for name in names]
    ways = {"bits": jnp.array([k.bits for k in kinds], jnp.int32), "dots": jnp.array([k.dots for k in kinds])}
    return variables | {"batch_stats": variables["batch_stats"] | ways}


def ensembles(config: Config, names: tuple[str, ...], ratio: np.ndarray, accuracy: np.ndarray) -> dict[str, tuple]:
    """Members by number of every ensemble all of whose networks are there, and of the designed one."""
    found = {
        name: tuple(names.index(m) for m in members)
        for name, members in ENSEMBLES.items()
        if set(members) <= set(names)
    }
    behind = float(np.max(accuracy) - np.sort(accuracy)[-config.size])
    if behind > config.delta:
        said = f"fewer than {config.size} networks are within --delta {config.delta} of the best accuracy"
        warnings.warn(f"{said}: the {config.size} most accurate ones are taken.", stacklevel=2)
    return found | {DESIGNED: trend.design_ensemble(ratio, accuracy, size=config.size, delta=max(config.delta, behind))}
