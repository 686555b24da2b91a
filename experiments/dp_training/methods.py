"""The networks of dp_training by name: one for each epsilon, one clipped without noise, one trained as usual."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from experiments.families import classifier
from subspace_jax.privacy import accounting

if TYPE_CHECKING:
    from experiments.dp_training.experiment import Config

CONTROL = "tenth_of_noise"  # the audit that must accuse: the smallest epsilon is stated, a tenth of its noise added
LESS = 10


class Case(NamedTuple):
    """How one network is trained; epsilon is what is stated of it."""

    name: str
    epsilon: float
    sigma: float
    clip: float
    lr: float
    audited: bool

    @property
    def private(self) -> bool:
        """Whether anything is guaranteed."""
        return self.sigma > 0


def resolved(config: Config, shared: classifier.Setup) -> tuple[Config, classifier.Setup]:
    """Steps from epochs or epochs from steps."""
    per_epoch = len(shared.columns["label"]) / config.batch
    steps = config.steps or max(1, round(config.epochs * per_epoch))
    config = dataclasses.replace(config, steps=steps, epochs=max(1, round(steps / per_epoch)))
    return config, shared._replace(recipe=dataclasses.replace(shared.recipe, epochs=config.epochs))


def check(config: Config) -> None:
    """Refuse what cannot be trained privately.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    if config.augment:
        raise ValueError("--augment has no use here: a sample enters a private step once, as it is.")
    if not config.epsilons or list(config.epsilons) != sorted(set(config.epsilons)):
        raise ValueError(f"--epsilons ascend, at least one; got {' '.join(f'{e:g}' for e in config.epsilons)}.")
    if config.steps < 0 or config.canaries < 0 or config.canaries == 1:
        raise ValueError(
            f"--steps and --canaries are 0 or more, not 1 canary; got {config.steps} and {config.canaries}."
        )


def cases(config: Config, samples: int) -> list[Case]:
    """All networks, the strictest first; every noise is looked for once."""
    said = {"delta": config.delta, "accountant": config.accountant}
    audited = config.canaries > 0
    listed = []
    for epsilon in config.epsilons:
        sigma = accounting.noise_multiplier_for(epsilon, q=config.batch / samples, steps=config.steps, **said)
        listed.append(Case(f"eps_{epsilon:g}", epsilon, sigma, config.clip, config.lr, audited))
    return [
        *listed,
        Case("eps_inf", math.inf, 0.0, config.clip, config.lr, audited),
        Case("non_private", math.inf, 0.0, math.inf, config.non_private_lr, False),
    ]
