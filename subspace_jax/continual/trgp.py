"""Trust-region gradient projection (TRGP): a task may re-use what earlier ones learned, through matrices of its own.

Updates are orthogonal to the inputs of all earlier tasks, as in `gpm`. Where a task's gradient lies mostly in the input
space B_j of an old task, the task also learns a matrix Q (from the identity) that scales the kernel inside that space
for this task alone: K_eff = K + sum_j B_j (Q_j - I) B_j' K. The task is given at test. Lin, Yang, Fan, Zhang, ICLR
2022.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual import gpm, leak, projection
from subspace_jax.continual.protocol import Learner, State, compiled, learner, own_head
from subspace_jax.core import capture, checks, losses, subspace
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Int, Params

TRUSTED = 2  # old tasks that a layer may re-use
NEAR = 0.5  # smallest share of the gradient's norm inside an old task's space for that task to be trusted


class Spaces(NamedTuple):
    """What is stored for one layer.

    Attributes:
      bases: own input space of each task, zero columns beyond its rank.
      trusted: the old tasks each task re-uses, -1 for none.
      scales: Q of each of them, the identity where nothing was learned.
    """

    bases: Float[Array, "tasks d d"]
    trusted: Int[Array, "tasks two"]
    scales: Float[Array, "tasks two d d"]


def init(table: Layers, *, tasks: int) -> dict[str, Spaces]:
    """Nothing stored, no task trusted, all scales the identity.

    Raises:
      ValueError: fewer than 1 task; a layer that is scanned or has groups, or whose kernel is complex.
    """
    odd = [path for path, layer in table.items() if layer.lead]
    if tasks < 1 or odd:
        raise ValueError(f"trgp takes at least 1 task and plain layers; got {tasks} tasks, and of others {odd}.")
    capture.check_writes(table, "not protected in training")
    checks.check_real("TRGP", {path: layer.dtype for path, layer in table.items()})
    return {
        path: Spaces(
            jnp.zeros((tasks, layer.d_in, layer.d_in)),
            jnp.full((tasks, TRUSTED), -1, jnp.int32),
            jnp.broadcast_to(jnp.eye(layer.d_in), (tasks, TRUSTED, layer.d_in, layer.d_in)),
        )
        for path, layer in table.items()
    }


def begin_task(table: Layers, state: Mapping[str, Spaces], grads: Params, *, task: int | Array) -> dict[str, Spaces]:
    """Choose for each layer the (at most two) old tasks j with the largest ||B_j' g|| / ||g|| of at least .5.

    Args:
      table: of the layers in `state`.
      state: before the task.
      grads: of the task's loss, of the same structure as the parameters.
      task: its number, from 0.
    """
    kernels, chosen = capture.kernels(table, grads), {}
    for path, spaces in state.items():
        gradient = kernels[path]
        inside = jnp.linalg.norm(spaces.bases.mT @ gradient, axis=(1, 2))
        share = inside / jnp.maximum(jnp.linalg.norm(gradient), 1e-30)
        share = jnp.where(jnp.arange(len(share)) < task, share, -1.0)
        best = jnp.argsort(-share)[:TRUSTED]
        best = jnp.where(share[best] >= NEAR, best, -1)
        best = jnp.pad(best, (0, TRUSTED - len(best)), constant_values=-1)
        chosen[path] = spaces._replace(trusted=spaces.trusted.at[task].set(best))
    return chosen


def effective(table: Layers, params: Params, state: Mapping[str, Spaces], task: int | Array) -> Params:
    """The parameters with which task `task` runs: K + sum_j B_j (Q_j - I) B_j' K; for any function of parameters."""
    edited = {}
    for path, kernel in capture.kernels(table, params).items():
        spaces = state[path]
        for old, scale in zip(spaces.trusted[task], spaces.scales[task], strict=True):
            basis = jnp.where(old >= 0, spaces.bases[old], 0.0)
            edited[path] = edited.get(path, kernel) + basis @ ((scale - jnp.eye(len(scale))) @ (basis.T @ kernel))
    return capture.write_kernels(table, params, edited)


def end_task(
    state: Mapping[str, Spaces], moments: Mapping[str, Moments], *, task: int, energy: gpm.Energy
) -> dict[str, Spaces]:
    """Store the space that holds the share `energy` of the task's own inputs, layer by layer; in float64."""
    shares = energy if isinstance(energy, Mapping) else dict.fromkeys(state, energy)
    own = {
        path: subspace.from_gram(np.asarray(seen.gram, np.float64), energy=shares[path], rows=int(seen.count))
        for path, seen in moments.items()
        if path in state
    }
    return {
        path: spaces._replace(bases=spaces.bases.at[task].set(jnp.asarray(own[path].basis, jnp.float32)))
        for path, spaces in state.items()
    }


def trgp_learner(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    tasks: int,
    energy: Callable[[int], gpm.Energy],
    samples: int = 300,
    heads: tuple[str, ...] = (),
) -> Learner:
    """TRGP over a network with one head per task; arguments as `projected.gpm_learner`, `tasks` in the whole sequence.

    Trained are the kernels, by `tx` and the projection, and the scales of the current task, by `tx` alone.
    """
    gpm.check_energy(energy)
    chain, own = optax.chain(tx, gpm.gpm(table, heads=heads)), projection.beside(table, heads)
    plain = learner(model, chain, told=True)
    made = Trgp(model, tx, chain, table, own, plain, tasks, energy, samples)
    return plain._replace(
        init=made.init, begin=made.begin, step=made.step, end=made.end, predict=made.predict, held=held
    )


class Trgp(NamedTuple):
    """The settings of one TRGP learner; its methods are those of `Learner`.

    `State.kept` is {layer: Spaces}, `State.opt_state` a pair: of the chain, and of the optimiser for the scales.

    Attributes:
      model: as in `trgp_learner`, like tx, table, tasks, energy and samples.
      tx: see model.
      chain: tx followed by the projection.
      table: see model.
      own: the layers with spaces: all but the heads.
      plain: training by the chain.
      tasks: see model.
      energy: see model.
      samples: see model.
    """

    model: Model
    tx: optax.GradientTransformation
    chain: optax.GradientTransformation
    table: Layers
    own: Layers
    plain: Learner
    tasks: int
    energy: Callable[[int], gpm.Energy]
    samples: int

    def init(self, key, x):
        """Nothing stored."""
        state = self.plain.init(key, x)._replace(kept=init(self.own, tasks=self.tasks))
        return state._replace(opt_state=(state.opt_state, self.tx.init(scales_of(state.kept, 0))))

    def variables(self, state, t):
        """What the network runs with in task t."""
        return state.variables | {"params": effective(self.own, state.variables["params"], state.kept, t)}

    def loss(self, trained, state, x, y, t, key):
        """Mean cross-entropy of (parameters, scales of task t), and the new batch_stats."""
        params, scales = trained
        state = state._replace(variables=state.variables | {"params": params}, kept=rescaled(state.kept, scales, t))
        logits, stats = self.model.train_apply(self.variables(state, t), x, key)
        return losses.mean(losses.softmax_cross_entropy(own_head(logits, t), y)), stats

    def gradient(self, state, x, y, t, key):
        """((of the parameters, of the scales of task t), new batch_stats)."""
        trained = state.variables["params"], scales_of(state.kept, t)
        return jax.grad(self.loss, has_aux=True)(trained, state, x, y, t, key)

    def begin(self, key, state, task, t):
        """Reset the optimiser but for its bases, and choose the old tasks to re-use by the task's first gradient."""
        bases, params = optax.tree.get(state.opt_state, "bases"), state.variables["params"]
        projected = optax.tree.set(self.chain.init(params), bases=bases)
        state = state._replace(opt_state=(projected, self.tx.init(scales_of(state.kept, t))))
        if t > 0:
            leak.warn(leak.leak(key, self.table, self.chain, params, projected))
        x, y = (jnp.asarray(part[: self.samples]) for part in (task.x, task.y))
        (grads, _), _ = compiled(self.gradient)(state, x, y, t, key)
        return state._replace(kept=begin_task(self.own, state.kept, grads, task=t))

    def step(self, state, batches, t, key):
        """Kernels move by the chain, the scales of the task by the optimiser alone."""
        (x, y), params, scales = batches[0], state.variables["params"], scales_of(state.kept, t)
        (grads, by_scale), stats = self.gradient(state, x, y, t, key)
        updates, projected = self.chain.update(grads, state.opt_state[0], params)
        scaled, free = self.tx.update(by_scale, state.opt_state[1], scales)
        kept = rescaled(state.kept, optax.apply_updates(scales, scaled), t)
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
        return State(variables, (projected, free), kept)

    def end(self, key, state, task, t):
        """Grow the bases by the layer inputs of this task, and store their space as the task's own."""
        used, energy = compiled(self.variables)(state, t), self.energy(t)
        x = [task.x[: self.samples]]
        moments = capture.collect(self.model.apply, used, x, layers=list(self.own), dtype="float64")
        bases = gpm.update(optax.tree.get(state.opt_state, "bases"), moments, energy=energy)
        kept = end_task(state.kept, moments, task=t, energy=energy)
        return state._replace(opt_state=optax.tree.set(state.opt_state, bases=bases), kept=kept)

    def predict(self, state, x, t):
        """Logits of task t with its scales."""
        return self.plain.predict(state._replace(variables=compiled(self.variables)(state, t)), x, t)


def scales_of(kept: Mapping[str, Spaces], t: Any) -> dict[str, Float[Array, "two d d"]]:
    """The scales of one task, by layer."""
    return {path: spaces.scales[t] for path, spaces in kept.items()}


def rescaled(kept: Mapping[str, Spaces], scales: Any, t: Any) -> dict[str, Spaces]:
    """The spaces with other scales for one task."""
    return {path: spaces._replace(scales=spaces.scales.at[t].set(scales[path])) for path, spaces in kept.items()}


def held(state: State) -> dict[str, Any]:
    """Floats of the spaces and of the scales inside them, and how many old tasks each layer re-uses."""
    floats, reused = 0, {}
    for path, spaces in state.kept.items():
        ranks = np.asarray(jnp.any(spaces.bases != 0, axis=1).sum(-1))
        trusted = np.asarray(spaces.trusted)
        floats += int(ranks.sum()) * spaces.bases.shape[-1] + int((ranks[trusted[trusted >= 0]] ** 2).sum())
        reused[f"reused/{path}"] = int((trusted >= 0).sum())
    return {"floats": floats} | reused
