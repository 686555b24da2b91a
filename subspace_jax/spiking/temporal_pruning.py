"""Temporal pruning: a spiking network trained for fewer and fewer time steps (Chowdhury, Garg, Roy, IJCNN 2021)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from subspace_jax.nn.layers.spiking import Order
from subspace_jax.spiking.network import Spiking, check_steps
from subspace_jax.typing import Algorithm, Array, Float, Int, Params


class Shortened(NamedTuple):
    """State of `shorten`.

    Attributes:
      params: after the stages so far.
      thresholds: of the layers of neurons.
      stage: number of stages so far, ().
    """

    params: Params
    thresholds: Float[Array, " layers"]
    stage: Int[Array, ""]


def shorten(
    network: Spiking, thresholds: Sequence[Any] | Array, schedule: Sequence[int], train: Callable, *,
    order: Order = "spike_first", rescale: bool = False,
) -> Algorithm:  # fmt: skip
    """Fewer time steps, stage by stage: each starts with the weights and thresholds of the one before.

    `step(key, state, samples)` is one whole stage, and `info` says at how many time steps it was trained. The number of
    steps is a shape, so that a stage is a program of its own and `step` is called on the host. A schedule of one stage
    is plain training. Whoever calls `step` stops where accuracy falls by more than can be afforded.

    Args:
      network: its layers; `init(key, variables)` takes the parameters of `variables`.
      thresholds: of `thresholds.balance` at the longest run. They stay, as in the paper.
      schedule: time steps of each stage, falling.
      train: (key, params, thresholds, steps, samples) -> params, such as some epochs at that many steps.
      order: see `network.run`.
      rescale: instead multiply the thresholds by the ratio of the steps of two stages.

    Raises:
      ValueError: no stage, a schedule that does not fall, or one that ends with fewer steps than a spike takes to reach
        the output; `step`: all stages are done.
    """
    schedule = tuple(schedule)
    if not schedule or any(less >= more for more, less in itertools.pairwise(schedule)):
        raise ValueError(f"a schedule has at least one stage, each with fewer steps than the last; got {schedule}.")
    check_steps(network, schedule[-1], order)

    def init(key, variables):
        del key  # nothing is drawn before the first stage
        return Shortened(variables["params"], jnp.asarray(thresholds, jnp.float32), jnp.int32(0))

    def step(key, state, samples):
        stage = int(state.stage)
        if stage >= len(schedule):
            raise ValueError(f"all {len(schedule)} stages are done: give a longer schedule.")
        ratio = schedule[stage] / schedule[stage - 1] if rescale and stage else 1.0
        volts = state.thresholds * ratio
        params = train(key, state.params, volts, schedule[stage], samples)
        return Shortened(params, volts, state.stage + 1), {"steps": jnp.int32(schedule[stage])}

    return Algorithm(init, step)


def schedule(first: int, last: int, *, factor: float | int = 0.5) -> tuple[int, ...]:
    """Time steps that fall by a factor from `first` to `last`, both among them.

    Raises:
      ValueError: last outside 1..first, factor outside (0, 1).

    >>> schedule(16, 3), schedule(8, 8)
    ((16, 8, 4, 3), (8,))
    """
    if not 1 <= last <= first or not 0 < factor < 1:
        raise ValueError(f"steps fall from first to last by a factor in (0, 1); got {first}, {last} and {factor}.")
    found = [first]
    while found[-1] > last:
        found.append(max(last, min(found[-1] - 1, round(found[-1] * factor))))
    return tuple(found)
