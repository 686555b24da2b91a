"""GPM and SGP as learners of a task sequence: the bases live in the optimiser's state and grow after every task."""

from collections.abc import Callable, Collection
from typing import Any, Literal

import optax

from subspace_jax.continual import gpm, leak, sgp
from subspace_jax.continual.protocol import Learner, learner
from subspace_jax.core import capture, checks
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments
from subspace_jax.nn import Model

Energy = gpm.Energy | Callable[[int], gpm.Energy]  # one for all tasks, or by the task's number


def gpm_learner(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    energy: Energy,
    rule: Literal["paper", "released"] = "paper",
    samples: int = 300,
    heads: Collection[str] = (),
    told: bool = False,
) -> Learner:
    """Train each task by `tx` followed by `gpm.gpm`; after each task the bases grow by its layer inputs.

    Args:
      model: the network; running statistics of BatchNorm still drift with every task: nothing here freezes them.
      tx: the optimiser, without a projection; its state starts anew with every task.
      table: `capture.layers` of the network.
      energy: as in `gpm.update`, or a function of the task's number.
      rule: as in `gpm.update`.
      samples: number of first samples of each task on which the layer inputs are measured, at least 1.
      heads: as in `gpm.gpm`.
      told: whether the network has one head per task.

    Raises:
      ValueError: samples below 1; as `gpm.gpm` and `gpm.update`.
    """
    gpm.check_energy(energy)

    def grown(opt_state: Any, moments: dict[str, Moments], t: int) -> Any:
        bases = gpm.update(optax.tree.get(opt_state, "bases"), moments, energy=_at(energy, t), rule=rule)
        return optax.tree.set(opt_state, bases=bases)

    chain = optax.chain(tx, gpm.gpm(table, heads=heads))
    return _learner(model, chain, table, grown, samples, told)


def sgp_learner(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    energy: Energy,
    a: float | int = 10.0,
    samples: int = 300,
    heads: Collection[str] = (),
    told: bool = False,
) -> Learner:
    """As `gpm_learner` with `sgp.sgp`, which weighs each direction by its importance; a as in `sgp.update`."""
    gpm.check_energy(energy)
    checks.check_number("a", a, 0)

    def grown(opt_state: Any, moments: dict[str, Moments], t: int) -> Any:
        state = sgp.update(optax.tree.get(opt_state, "SGPState"), moments, energy=_at(energy, t), a=a)
        return optax.tree.set(opt_state, SGPState=state)

    chain = optax.chain(tx, sgp.sgp(table, heads=heads))
    return _learner(model, chain, table, grown, samples, told)


def _learner(
    model: Model, chain: optax.GradientTransformation, table: Layers, grown: Callable, samples: int, told: bool
) -> Learner:
    """Plain training by the chain; the bases are kept when the optimiser's state is reset, and grow after each task."""
    if samples < 1:
        raise ValueError(f"bases are measured on at least 1 sample of each task; got {samples}.")
    plain = learner(model, chain, told=told)

    def begin(key, state, task, t):
        kept = {name: value for name in KEPT if (value := optax.tree.get(state.opt_state, name)) is not None}
        state = plain.begin(key, state, task, t)
        state = state._replace(opt_state=optax.tree.set(state.opt_state, **kept))
        if t > 0:
            leak.warn(leak.leak(key, table, chain, state.variables["params"], state.opt_state))
        return state

    def end(key, state, task, t):
        paths = list(optax.tree.get(state.opt_state, "bases"))
        moments = capture.collect(model.apply, state.variables, [task.x[:samples]], layers=paths, dtype="float64")
        return state._replace(opt_state=grown(state.opt_state, moments, t))

    def held(state):
        stored = optax.tree.get(state.opt_state, "bases")
        scaled = optax.tree.get(state.opt_state, "importance") is not None
        ranks = {path: int(space.rank.sum()) for path, space in stored.items()}
        floats = sum(ranks[path] * (space.basis.shape[-2] + scaled) for path, space in stored.items())
        return {"floats": floats} | {f"rank/{path}": rank for path, rank in ranks.items()}

    return plain._replace(begin=begin, end=end, held=held)


KEPT = "bases", "importance"  # parts of the optimiser's state that are kept when it is reset for a task


def _at(energy: Energy, t: int) -> gpm.Energy:
    return energy(t) if callable(energy) else energy
