"""Leaky integrate-and-fire neurons over time, and the surrogate derivatives through which they learn.

A neuron adds its drive d_t to a membrane U that leaks, fires where U exceeds its threshold V, and pays V for it:

    U_t = leak U_{t-1} + d_t - V o_{t-1},    o_t = [U_t > V]

The reset is subtracted together with the next drive, after the leak, so that both orders share this recurrence:
"update_first" gives o_t; "spike_first" fires before the drive of its step arrives and gives o_{t-1}, the same spikes a
step later. The derivative of a spike is a surrogate s(z) / V at z = U / V - 1; none goes through the reset. Recurrence
and triangle: Garg, Chowdhury, Roy, "DCT-SNN", ICCV 2021.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_real, is_known
from subspace_jax.typing import Array, Float

Order = Literal["spike_first", "update_first"]
Surrogate = Literal["triangle", "sigmoid", "arctan"]
HEIGHT = 0.3  # of the triangle
SLOPE = 4.0  # of the sigmoid

SURROGATES: dict[str, Callable] = {
    "triangle": lambda z: HEIGHT * jnp.maximum(0.0, 1.0 - jnp.abs(z)),
    "sigmoid": lambda z: SLOPE * jax.nn.sigmoid(SLOPE * z) * jax.nn.sigmoid(-SLOPE * z),
    "arctan": lambda z: 1.0 / (1.0 + (jnp.pi * z) ** 2),
}


def lif(
    drive: Float[Array | np.ndarray, "t *shape"], threshold: float | Float[Array, ""],
    leak: float | Float[Array, ""] = 1.0, *, order: Order = "update_first", surrogate: Surrogate = "triangle",
) -> tuple[Float[Array, "t *shape"], Float[Array, "t *shape"]]:  # fmt: skip
    """Spikes, 0 or 1, and membranes of neurons over time, both float32; NaN of a drive stays in both.

    Only this elementwise recurrence is a scan; the products that make the drive come before it, for all steps at once.

    Args:
      drive: input of each step; cast to float32, since a bfloat16 membrane loses small increments.
      threshold: V, above 0.
      leak: share of the membrane that stays from step to step, in (0, 1].
      order: "update_first", or "spike_first", the same spikes a step later.
      surrogate: "triangle", .3 max(0, 1 - |z|); "sigmoid", the derivative of one of slope 4; "arctan",
        1 / (1 + (pi z)^2).

    Raises:
      ValueError: no step; an unknown order or surrogate; a threshold or a leak that is not above 0, where known.

    >>> spikes, _ = lif(jnp.full((6,), 0.75), 1.0)
    >>> spikes.tolist()
    [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    """
    if order not in ("spike_first", "update_first") or surrogate not in SURROGATES or not len(drive):
        raise ValueError(
            f"lif takes at least one step, order spike_first or update_first, surrogate {', '.join(SURROGATES)}; got "
            f"{len(drive)} steps, {order!r}, {surrogate!r}."
        )
    if is_known(threshold) and not (np.asarray(threshold) > 0).all():
        raise ValueError(f"threshold, which a membrane has to pass, is above 0; got {threshold}.")
    if is_known(leak) and not (np.asarray(leak) > 0).all():
        raise ValueError(f"leak is the share of the membrane that stays, in (0, 1]; got {leak}.")
    check_real("a membrane", {"drive": jnp.result_type(drive)})
    drive, threshold = jnp.asarray(drive, jnp.float32), jnp.asarray(threshold, jnp.float32)

    def step(membrane, own):
        reset = jax.lax.stop_gradient(jnp.where(membrane > threshold, threshold, 0.0))
        membrane = leak * membrane + own - reset
        return membrane, membrane

    _, membrane = jax.lax.scan(step, jnp.zeros_like(drive[0]), drive)
    spikes = fire(surrogate)(membrane, threshold)
    if order == "spike_first":
        spikes = jnp.concatenate([jnp.zeros_like(spikes[:1]), spikes[:-1]])
    return spikes, membrane


def fire(surrogate: Surrogate) -> Callable:
    """(membrane, threshold) -> [membrane > threshold] as float32, NaN of NaN, with the derivative of the surrogate."""
    return _FIRE[surrogate]


def _fire(slope: Callable) -> Callable:
    @jax.custom_jvp
    def spike(membrane, threshold):
        return jnp.where(jnp.isnan(membrane), jnp.nan, (membrane > threshold).astype(jnp.float32))

    @spike.defjvp
    def derivative(primals, tangents):
        (membrane, threshold), (along, higher) = primals, tangents
        height = slope(membrane / threshold - 1.0) / threshold
        return spike(membrane, threshold), height * (along - membrane / threshold * higher)

    return spike


_FIRE = {name: _fire(slope) for name, slope in SURROGATES.items()}
