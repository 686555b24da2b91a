"""Trust-region gradient projection: a new task may re-use what old tasks learned, by scaling their spaces for itself.

Kernels move off the inputs of all earlier tasks, as in `gpm`. Where a task's gradient lies mostly in the input space
B_j of an old task, the task also learns a matrix Q (from the identity) that scales the kernel inside that space for
this task alone: K_eff = K + sum_j B_j (Q_j - I) B_j' K. It is told the task at test. Lin, Yang, Fan, Zhang, ICLR 2022.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual import gpm, leak, projection
from subspace_jax.continual.protocol import Learner, State, learner, own_head
from subspace_jax.core import capture, losses, subspace
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Int, Params

TRUSTED = 2  # old tasks that a layer may re-use
NEAR = 0.5  # share of the gradient's norm that lies in an old space, from which on it is trusted


class Spaces(NamedTuple):
    """What one layer keeps.

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
      ValueError: fewer than 1 task; a layer that is scanned or has groups.
    """
    odd = [path for path, layer in table.items() if layer.lead]
    if tasks < 1 or odd:
        raise ValueError(f"trgp takes at least 1 task and plain layers; got {tasks} tasks, and of others {odd}.")
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
    """TRGP over a network with a head a task; arguments as `projected.gpm_learner`, `tasks` in the whole sequence.

    Trained are the kernels, by `tx` and the projection, and the scales of the current task, by `tx` alone.
    """
    chain = optax.chain(tx, gpm.gpm(table, heads=heads))
    own = projection.beside(table, heads)
    plain = learner(model, chain, told=True)

    def variables_of(params, state, t):
        return state.variables | {"params": effective(own, params, state.kept, t)}

    def loss(trained, state, x, y, t, key):
        params, scales = trained
        kept = {path: s._replace(scales=s.scales.at[t].set(scales[path])) for path, s in state.kept.items()}
        logits, stats = model.train_apply(variables_of(params, state._replace(kept=kept), t), x, key)
        return losses.softmax_cross_entropy(own_head(logits, t), y).mean(), stats

    def scales_of(state, t):
        return {path: spaces.scales[t] for path, spaces in state.kept.items()}

    def start(key, x):
        state = plain.init(key, x)
        return state._replace(kept=init(own, tasks=tasks), opt_state=(state.opt_state, tx.init(scales_of(state, 0))))

    gradient = jax.jit(jax.grad(loss, has_aux=True))

    def begin(key, state, task, t):
        bases = optax.tree.get(state.opt_state, "bases")
        params = state.variables["params"]
        opt_state = optax.tree.set(chain.init(params), bases=bases), tx.init(scales_of(state, t))
        state = state._replace(opt_state=opt_state)
        if t > 0:
            leak.warn(leak.leak(key, table, chain, params, opt_state[0]))
        x, y = (jnp.asarray(part[:samples]) for part in (task.x, task.y))
        (grads, _), _ = gradient((params, scales_of(state, t)), state, x, y, t, key)
        return state._replace(kept=begin_task(own, state.kept, grads, task=t))

    def step(state, batches, t, key):
        (x, y), params, scales = batches[0], state.variables["params"], scales_of(state, t)
        (grads, by_scale), stats = jax.grad(loss, has_aux=True)((params, scales), state, x, y, t, key)
        updates, projected = chain.update(grads, state.opt_state[0], params)
        scaled, free = tx.update(by_scale, state.opt_state[1], scales)
        new: Any = optax.apply_updates(scales, scaled)
        kept = {path: spaces._replace(scales=spaces.scales.at[t].set(new[path])) for path, spaces in state.kept.items()}
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
        return State(variables, (projected, free), kept)

    apply = jax.jit(lambda state, t: variables_of(state.variables["params"], state, t))

    def end(key, state, task, t):
        used = apply(state, t)
        moments = capture.collect(model.apply, used, [task.x[:samples]], layers=list(own), dtype="float64")
        bases = gpm.update(optax.tree.get(state.opt_state, "bases"), moments, energy=energy(t))
        kept = end_task(state.kept, moments, task=t, energy=energy(t))
        return state._replace(opt_state=optax.tree.set(state.opt_state, bases=bases), kept=kept)

    def predict(state, x, t):
        return plain.predict(state._replace(variables=apply(state, t)), x, t)

    return plain._replace(init=start, begin=begin, step=step, end=end, predict=predict, held=held)


def held(state: State) -> dict[str, Any]:
    """Floats of the spaces and of the scales inside them, and how many old tasks each layer re-uses."""
    floats, reused = 0, {}
    for path, spaces in state.kept.items():
        ranks = np.asarray(jnp.any(spaces.bases != 0, axis=1).sum(-1))
        trusted = np.asarray(spaces.trusted)
        floats += int(ranks.sum()) * spaces.bases.shape[-1] + int((ranks[trusted[trusted >= 0]] ** 2).sum())
        reused[f"reused/{path}"] = int((trusted >= 0).sum())
    return {"floats": floats} | reused
