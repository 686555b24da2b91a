"""Thresholds of a converted network, layer after layer, from the drive that calibration samples give.

Layer l gets V_l, the largest over the steps of the percentile of its drive over samples and neurons, rounded to two
decimals, while the layers before it already spike with their own thresholds (Garg, Chowdhury, Roy, ICCV 2021, who keep
the percentile of the last step with a new maximum; here it is the true largest one).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.nn.layers.spiking import Order, lif
from subspace_jax.spiking.network import LEAK, Spiking, check_steps, drive
from subspace_jax.typing import Array, Float

DECIMALS = 2
_drive = jax.jit(drive, static_argnums=0)
_lif = partial(jax.jit, static_argnames="order")(lif)


class Threshold(NamedTuple):
    """One layer of neurons.

    Attributes:
      path: of the kernel in front of it.
      threshold: V.
      largest: drive of all samples, neurons and steps.
      rate: spikes a neuron and step.
      dead: share of the neurons that never fire.
    """

    path: str
    threshold: float
    largest: float
    rate: float
    dead: float


def balance(
    network: Spiking, spikes: Float[Array | np.ndarray, "t b ..."], *, percentile: float | int = 99.9,
    order: Order = "spike_first", leak: float | int = LEAK, hold: int | None = None,
) -> list[Threshold]:  # fmt: skip
    """One row for each layer but the last; `[row.threshold for row in rows]` is what `network.run` takes.

    Args:
      network: of `network.spiking`.
      spikes: of a few hundred training samples, as `encode` gives them.
      percentile: of the drive, in (0, 100].
      order: see `network.run`, like leak and hold.
      leak: see order.
      hold: see order.

    Raises:
      ValueError: a percentile or leak out of range, too few steps, a drive that is not finite, or a dead layer: its
        threshold would be 0.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is in (0, 100]; got {percentile}.")
    if not 0 < leak <= 1:
        raise ValueError(f"leak is the share of a membrane that stays, in (0, 1]; got {leak}.")
    check_steps(network, hold or len(spikes), order)
    kernels, rows = trees.select(network.params, [layer.path for layer in network.layers]), []
    for layer in network.layers[:-1]:
        driven = _drive(layer, kernels[layer.path], spikes)
        values = np.asarray(driven, np.float32).reshape(len(driven), -1)
        largest = float(values.max())
        threshold = round(float(np.percentile(values, percentile, axis=1).max()), DECIMALS)
        if not (threshold > 0 and np.isfinite(largest)):
            raise ValueError(
                f"{layer.path!r} is dead: its threshold is {threshold}, its largest drive {largest:.4g}; train longer "
                "or give other samples."
            )
        if hold and not rows:
            driven = jnp.broadcast_to(driven, (hold, *driven.shape[1:]))
        spikes, _ = _lif(driven, threshold, leak, order=order)
        dead = 1 - float(np.asarray(spikes.any((0, 1))).mean())
        rows.append(Threshold(layer.path, threshold, largest, float(spikes.mean()), dead))
    return rows
