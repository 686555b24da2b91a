"""What distill_decentralized compares: which public images an agent labels, over which method, with which data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import optax

from subspace_jax.core import shares
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import idkd, methods
from subspace_jax.decentralized.labelling import Threshold
from subspace_jax.typing import Algorithm, Bool

if TYPE_CHECKING:
    from experiments.distill_decentralized.experiment import Config

PARTITIONS = {"sorted": "label_sorted", "dirichlet": "dirichlet"}
BESIDE = 0.05, 8  # concentration and number of agents of the other partition that is shown beside


class World(NamedTuple):
    """Who has which data.

    Attributes:
      suffix: of the names in the figures; empty for the data of the flags.
      partition: name in `data.partition`.
      dirichlet: its concentration.
      agents: their number.
    """

    suffix: str
    partition: str
    dirichlet: float
    agents: int


class Run(NamedTuple):
    """One way to train: a method, what its agents label, and their data."""

    base: str
    variant: str
    world: World

    @property
    def name(self) -> str:
        """In the figures."""
        return f"{self.base}{self.variant}{self.world.suffix}"

    @property
    def common(self) -> str:
        """Name of the part of the training that all variants share."""
        return f"{self.base}{self.world.suffix}"


Keep = Callable[[Bool[np.ndarray, " public"]], Bool[np.ndarray, " public"] | None]
VARIANTS: dict[str, Keep | None] = {  # what is labelled, of images that are related or not; None: by the detector
    "": None,  # nothing, never
    "_kd": np.ones_like,
    "_idkd": lambda good: None,
    "_good_only": lambda good: good,
}


def worlds(config: Config) -> list[World]:
    """The data of the flags, and beside them those of a Dirichlet partition."""
    found = [World("", PARTITIONS[config.partition], config.dirichlet, config.agents)]
    if config.beside:
        alpha, count = BESIDE
        found.append(World(f"_dirichlet_{alpha:g}", "dirichlet", alpha, count))
    return found


def runs(config: Config) -> list[Run]:
    """Everything that is trained; where all public images are related, good_only would be kd."""
    variants = [name for name in VARIANTS if name != "_good_only" or config.public_noise]
    return [Run(base, variant, world) for world in worlds(config) for base in config.base for variant in variants]


def turn(config: Config) -> int:
    """Steps before the public images are labelled.

    Raises:
      ValueError: none, or all.
    """
    first = shares.nearest(config.steps, config.homogenize_at)
    if not 0 < first < config.steps:
        raise ValueError(
            f"--homogenize-at leaves steps before and after it, in (0, 1); got {config.homogenize_at} of "
            f"{config.steps} steps."
        )
    return first


def threshold(config: Config) -> Threshold:
    """--threshold as the library takes it."""
    try:
        return float(config.threshold)
    except ValueError:
        return config.threshold


def build(config: Config, base: str, loss: Callable, *, comm: Comm, weights: np.ndarray, samples: int, classes: int
) -> Algorithm:  # fmt: skip
    """The method of that name, with room for labels of so many public images."""
    lr, first = {"d_psgd": config.lr, "qgm": config.lr_qgm}[base], turn(config)
    half = first + (config.steps - first) // 2
    rate = optax.piecewise_constant_schedule(lr, {half: 0.1}) if config.decay else lr
    own = {"momentum": config.momentum} if base == "d_psgd" else {}
    own |= {"gamma": config.gamma, "weight_decay": config.weight_decay, "loop": config.loop}
    below = methods.build(base, loss, comm=comm, weights=weights, lr=rate, **own)
    return idkd.idkd(below, samples=samples, classes=classes)
