"""SPACE: each task freezes the few filters per layer that it needs; all others are reset for the next task.

Principal components only COUNT the channels a task needs. Kept are the FIRST ones by index, not the most important, so
that the task has to be trained again in its narrow network. An earlier task never reads a later channel, so its logits
stay the same bit for bit. The task is given at test. Saha, Garg, Ankit, Roy, IEEE Access 2021, arXiv 2001.08650.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax import training, trees
from subspace_jax.continual.extract import Channels, Widths, channels, is_head, narrowed, space_masks
from subspace_jax.continual.protocol import Learner, State, compiled, learner, own_head
from subspace_jax.continual.widths import Share, check_share, task_widths
from subspace_jax.core import capture, checks
from subspace_jax.core.capture import Layers
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Int, Params


class FreezeState(NamedTuple):
    """State of `freeze`.

    Attributes:
      frozen: {layer: number of first channels, owned by earlier tasks, that receive no update}.
      live: {layer: number of first channels that the network has now}; later ones receive no update.
      task: number of the task whose head learns.
    """

    frozen: dict[str, Int[Array, ""]]
    live: dict[str, Int[Array, ""]]
    task: Int[Array, ""]


class SpaceState(NamedTuple):
    """What is stored beside the network; fixed shapes.

    Attributes:
      widths: {layer: number of channels of each task}, never decreasing; 0 for tasks not learned yet.
      initial: {leaf: its value before the first task}, without the heads.
    """

    widths: dict[str, Int[Array, " tasks"]]
    initial: dict[str, Array]


def effective(owned: Channels, params: Params, state: SpaceState, task: Int[Array, ""] | int) -> Params:
    """The parameters of a task's narrow network; those of all channels if the task was not learned yet."""
    full = {path: layer.d_out for path, layer in owned.layers.items()}
    widths = {path: own[task] for path, own in state.widths.items()}
    return narrowed(owned, params, {path: jnp.where(w > 0, w, full[path]) for path, w in widths.items()})


def commit(
    owned: Channels, state: SpaceState, params: Params, *, widths: Widths, task: Int[Array, ""] | int
) -> tuple[SpaceState, Params]:
    """Record the widths of a task and reset all later channels to their initial values."""
    recorded = {path: own.at[task].set(widths[path]) for path, own in state.widths.items()}
    masks, fresh = space_masks(owned, params, stop=widths), trees.update(params, state.initial)
    return state._replace(widths=recorded), jax.tree.map(jnp.where, masks, params, fresh)


def freeze(owned: Channels) -> optax.GradientTransformation:
    """Zero all updates but those of channels frozen <= c < live and of the current task's head.

    Put it LAST in the chain: momentum and weight decay then cannot move frozen parameters. Before the first task
    (nothing frozen, all live) every update of the trunk passes.

    Raises:
      ValueError: at `init`, a leaf that is not in the table the channels come from.
    """
    known = {*owned.vectors, *(layer.leaf for layer in owned.layers.values())}

    def init(params: optax.Params) -> FreezeState:
        if unknown := [leaf for leaf in trees.flatten(params) if leaf not in known and not is_head(owned, leaf)]:
            raise ValueError(f"no channel owns {unknown[0]!r}: make the channels from the table of this network.")
        full = {path: jnp.int32(layer.d_out) for path, layer in owned.layers.items()}
        return FreezeState(dict.fromkeys(full, jnp.int32(0)), full, jnp.int32(0))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        checks.check_updates(updates, params)

        def own(path: str, mask: Array) -> Array:
            rows = jnp.arange(len(mask)) == state.task if is_head(owned, path) else jnp.ones(1, bool)
            return mask & rows.reshape(-1, *[1] * (mask.ndim - 1))

        masks = trees.map_with_path(own, space_masks(owned, updates, start=state.frozen, stop=state.live))
        return jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), updates, masks), state

    return optax.GradientTransformation(init, update)


def space_learner(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    tasks: int,
    steps: int,
    batch: int,
    v: Share = 0.95,
    samples: int = 1000,
    heads: tuple[str, ...] = ("heads",),
) -> Learner:
    """SPACE over a network with one head per task: train, count, prune, train again, freeze, reset the other channels.

    The protocol trains all channels but the frozen ones; everything after that happens in `end`, the retraining of the
    pruned network included, for which the optimiser's state is reset. BWT is 0 by construction.

    Args:
      model: of `nn.multi_head`, without running statistics.
      tx: the optimiser; `freeze` is put after it.
      table: `capture.layers` of the network.
      tasks: in the whole sequence.
      steps: of retraining, at least 1.
      batch: samples per step of retraining, at least 1.
      v: share of the variance of a layer's outputs to explain, in (0, 1]; one for all layers, or by layer.
      samples: number of first samples of each task on which that variance is measured, as one batch.
      heads: as in `channels`.

    Raises:
      ValueError: settings out of range, v for other layers; as `channels`; at `init`, heads that are not stacked by
        task; at `predict`, a task number out of range.
    """
    if min(tasks, steps, batch, samples) < 1:
        raise ValueError(f"tasks, steps, batch and samples are at least 1; got {tasks}, {steps}, {batch}, {samples}.")
    owned = channels(table, heads=heads)
    if isinstance(v, Mapping) and set(v) != set(owned.layers):
        raise ValueError(f"v is for the layers {', '.join(owned.layers)}; got it for {', '.join(v) or 'none'}.")
    for share in v.values() if isinstance(v, Mapping) else (v,):
        check_share(share)
    plain = learner(model, optax.chain(tx, freeze(owned)), told=True)
    made = Space(model, owned, plain, tasks, steps, batch, v, samples)
    return plain._replace(init=made.init, begin=made.begin, end=made.end, predict=made.predict, held=held)


class Space(NamedTuple):
    """The settings of one SPACE learner; its methods are those of `Learner`, its step that of plain training.

    Attributes:
      model: as in `space_learner`, like tasks, steps, batch, v and samples.
      owned: the channels and what they own.
      plain: training by the optimiser followed by `freeze`.
      tasks: see model.
      steps: see model.
      batch: see model.
      v: see model.
      samples: see model.
    """

    model: Model
    owned: Channels
    plain: Learner
    tasks: int
    steps: int
    batch: int
    v: Share
    samples: int

    def init(self, key, x):
        """Nothing frozen; refuses networks whose earlier tasks would change."""
        state, owned = self.plain.init(key, x), self.owned
        if state.variables["batch_stats"]:
            raise ValueError("running statistics change with every task: build the network with norm='minibatch'.")
        leaves, count = trees.flatten(state.variables["params"]), self.tasks
        if wrong := [leaf for leaf in leaves if is_head(owned, leaf) and len(leaves[leaf]) != count]:
            raise ValueError(f"heads are stacked by task: {wrong[0]!r} has {len(leaves[wrong[0]])} for {count} tasks.")
        initial = {leaf: jnp.copy(array) for leaf, array in leaves.items() if not is_head(owned, leaf)}
        return state._replace(kept=SpaceState({path: jnp.zeros(count, jnp.int32) for path in owned.layers}, initial))

    def phase(self, key, state, task, t, live):
        """Reset the optimiser, freeze the channels of earlier tasks, and let updates reach the first `live` only."""
        state = self.plain.begin(key, state, task, t)
        frozen = FreezeState(core(state.kept), jax.tree.map(jnp.int32, dict(live)), jnp.int32(t))
        return state._replace(opt_state=optax.tree.set(state.opt_state, FreezeState=frozen))

    def begin(self, key, state, task, t):
        """Train with all channels; warns of layers in which earlier tasks own them all."""
        full = {path: layer.d_out for path, layer in self.owned.layers.items()}
        if used := [path for path, width in core(state.kept).items() if width == full[path]]:
            warnings.warn(f"full: {', '.join(used)}; no channel is left for task {t} (its head learns).", stacklevel=2)
        return self.phase(key, state, task, t, full)

    def counted(self, state, task):
        """The channels of each layer that the task needs: `task_widths` on its first samples."""
        x, paths = [task.x[: self.samples]], list(self.owned.layers)
        moments = capture.collect(
            self.model.apply, state.variables, x, of="outputs", layers=paths, dtype="float64"
        )  # fmt: skip
        return task_widths(moments, core(state.kept), v=self.v)

    def end(self, key, state, task, t):
        """Count the channels, prune, train again, and reset all other channels for the next task."""
        widths = self.counted(state, task)
        pruned = compiled(self.prune)(state.variables["params"], widths)
        state = self.phase(key, with_params(state, pruned), task, t, widths)
        state = training.repeat(
            key, self.plain.step, state, [(task.x, task.y)], steps=self.steps, batch=self.batch,
            constants=jnp.int32(t), params=pruned, label="retraining",
        )  # fmt: skip
        kept, params = compiled(self.close)(state.kept, state.variables["params"], widths, t)
        return with_params(state, params)._replace(kept=kept)

    def prune(self, params, widths):
        """`narrowed` of this network."""
        return narrowed(self.owned, params, widths)

    def close(self, kept, params, widths, t):
        """`commit` of this network."""
        return commit(self.owned, kept, params, widths=widths, task=t)

    def narrow(self, params, kept, t):
        """`effective` of this network."""
        return effective(self.owned, params, kept, t)

    def predict(self, state, x, t):
        """Logits of task t in its narrow network."""
        if not 0 <= t < self.tasks:
            raise ValueError(f"tasks count from 0 to {self.tasks - 1}; got {t}.")
        narrow = with_params(state, compiled(self.narrow)(state.variables["params"], state.kept, t))
        return own_head(training.predict(self.model.apply, narrow.variables, x), t)


def with_params(state: State, params: Params) -> State:
    """The state with other parameters."""
    return state._replace(variables=state.variables | {"params": params})


def held(state: Any) -> dict[str, Any]:
    """Floats of the widths and the initial parameters, and the channels that each layer has used up."""
    used = {f"width/{path}": int(width) for path, width in core(state.kept).items()}
    return {"floats": sum(leaf.size for leaf in jax.tree.leaves(state.kept))} | used


def core(state: SpaceState) -> dict[str, Int[Array, ""]]:
    """Number of channels per layer that earlier tasks own: the largest of their widths."""
    return {path: own.max() for path, own in state.widths.items()}
