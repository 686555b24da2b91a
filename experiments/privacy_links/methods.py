"""The private networks of privacy_links: their optimisers by name, their noise, and who is trained on what."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import classifier
from subspace_jax import nn
from subspace_jax.core import losses
from subspace_jax.privacy import accounting
from subspace_jax.typing import ApplyFn, LossFn

if TYPE_CHECKING:
    from experiments.privacy_links.experiment import Config

Name = Literal["rmsprop", "sgd"]
DECAY = 0.99  # of RMSprop's squares
MARGIN = 4  # standard deviations of the size of an independent half that its rows leave room for


class Private(NamedTuple):
    """What all seeds share: the network, and the noise of each epsilon with whole data and with halves."""

    network: nn.Model
    whole: dict[float, float]
    half: dict[float, float]


def check(config: Config, samples: int) -> None:
    """Refuse batches that the data cannot give.

    Raises:
      ValueError: names the flag and the samples.
    """
    for flag, size in (("batch", config.batch), ("private-batch", config.private_batch)):
        if not 0 < size <= samples // 2:
            raise ValueError(f"--{flag} is in (0, {samples // 2}], the samples of a half; got {size}.")


def private(config: Config, shared: classifier.Setup) -> Private:
    """Build the network and look for the noises, each once."""
    own = dataclasses.replace(config, widths=config.private_widths, network_args=config.private_network_args)
    network = nn.build(config.model, **classifier.network_arguments(own, shared.classes))
    samples = len(shared.columns["label"])
    sigma = functools.partial(
        accounting.noise_multiplier_for, steps=config.steps, delta=config.delta, accountant=config.accountant
    )
    whole, half = (config.private_batch / size for size in (samples, samples // 2))
    return Private(
        network,
        {epsilon: sigma(epsilon, q=whole) for epsilon in config.epsilons} | {math.inf: 0.0},
        {epsilon: sigma(epsilon, q=half) for epsilon in config.memorization_epsilons},
    )


def called(epsilon: float) -> str:
    """The name of a budget in figures: eps_0.5, eps_inf."""
    return f"eps_{epsilon:g}"


@functools.lru_cache  # one object, and so one compilation of the steps that use it
def optimizer(name: Name, lr: float, scale: float = 1.0) -> optax.GradientTransformation:
    """What follows the noise."""
    tx = optax.rmsprop(lr, decay=DECAY) if name == "rmsprop" else optax.sgd(lr)
    return tx if scale == 1 else optax.chain(optax.scale(scale), tx)


@functools.lru_cache
def loss_of(apply: ApplyFn) -> LossFn:
    """Cross-entropy of each sample."""
    return losses.cross_entropy(apply)


@functools.lru_cache
def counted_loss(apply: ApplyFn) -> LossFn:
    """Cross-entropy of the samples that count; y is (label, 1 or 0). Others have a gradient of exactly 0."""

    def loss(variables: Any, x: Any, y: Any) -> Any:
        label, counts = y
        return counts * losses.softmax_cross_entropy(apply(variables, x), label)

    return loss


@functools.lru_cache
def fresh(network: nn.Model) -> Any:
    """The initial values of a network, compiled."""
    return jax.jit(network.init)


def padded(x: Any, label: np.ndarray, keep: np.ndarray, rows: int) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """The samples of one half and, up to `rows`, samples that do not count: one shape for all halves.

    With one number of rows the divisor of a step does not tell how many samples a half has.
    """
    chosen = np.flatnonzero(keep)
    index = np.concatenate([chosen, np.zeros(rows - len(chosen), int)])
    return x[index], (label[index], (np.arange(rows) < len(chosen)).astype(np.float32))


def rows_of(keep: np.ndarray) -> int:
    """Rows that hold every half: the same for all seeds, unless one is far from the mean."""
    samples = keep.shape[1]
    return max(samples // 2 + math.ceil(MARGIN * math.sqrt(samples) / 2), int(keep.sum(axis=1).max()))
