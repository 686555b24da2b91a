"""What defines one run of a decentralized experiment (`Trial`), and its learning-rate schedule."""

from typing import Any, NamedTuple

import optax


class Trial(NamedTuple):
    """One run of a method: what differs from the flags of the experiment.

    Attributes:
      name: in the figures.
      method: name of the method or variant, as the experiment defines it.
      settings: lr, momentum, gamma, decay, ... by name.
      steps: training steps of every agent.
      partition: how the samples are spread over the agents, see `data.partition`.
      agents: number of agents; 1 trains on all data in one place.
      skew: share of sorted samples in partition label_sorted.
      dirichlet: concentration of partition dirichlet.
    """

    name: str
    method: str
    settings: dict[str, Any]
    steps: int
    partition: str
    agents: int
    skew: float = 1.0
    dirichlet: float = 0.1


def rate(lr: float, steps: int, decay: Any, *, warmup: int = 0, rounds: int = 0) -> optax.Schedule | float:
    """The learning rate: a tenth during warmup, x.1 at 50 and 75 % where it decays, 0 in the rounds after all steps."""
    changes = {warmup: 10.0} if warmup else {}
    changes |= {steps // 2: 0.1, 3 * steps // 4: 0.1} if decay else {}
    changes |= {steps: 0.0} if rounds else {}
    return optax.piecewise_constant_schedule(lr / 10 if warmup else lr, changes) if changes else lr
