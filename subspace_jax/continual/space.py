"""SPACE: after each task keep the few filters per layer that it needs, freeze them, and give the rest back.

Principal components only COUNT the channels a task needs; kept are the FIRST ones by index, not the most important,
so that the task has to be trained again in its narrow network. Earlier tasks see no later channel: their logits stay
bit for bit. The task is told at test. Saha, Garg, Ankit, Roy, IEEE Access 2021, arXiv 2001.08650.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import training, trees
from subspace_jax.continual.extract import Channels, Widths, channels, is_head, narrowed, space_masks
from subspace_jax.continual.protocol import Learner, learner, own_head
from subspace_jax.core import capture
from subspace_jax.core import moments as _moments
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Int, Params

NOISE = 1e-6  # share of the variance below which a direction is rounding; also the cut-off of the pseudo-inverse
DEAD = 1e-12  # share of the variance of a layer that channels without any may have from rounding
ROWS = 100  # rows a channel that a count asks for
Share = float | int | Mapping[str, float | int]


class FreezeState(NamedTuple):
    """State of `freeze`.

    Attributes:
      frozen: {layer: channels of earlier tasks, which stand still}.
      live: {layer: channels the network has now}, those behind them stand still.
      task: whose head learns.
    """

    frozen: dict[str, Int[Array, ""]]
    live: dict[str, Int[Array, ""]]
    task: Int[Array, ""]


class SpaceState(NamedTuple):
    """What is kept beside the network; fixed shapes.

    Attributes:
      widths: {layer: channels of each task}, never falling; 0 for tasks that are still to come.
      initial: {leaf: what it was before the first task}, without the heads.
    """

    widths: dict[str, Int[Array, " tasks"]]
    initial: dict[str, Array]


def pca_count(cov: Float[Array, "m m"], *, v: float | int) -> Int[Array, ""]:
    """How many leading principal components together hold LESS than the share v: one fewer than reach it.

    Args:
      cov: covariance of a layer's outputs, in any unit.
      v: in (0, 1].

    Returns:
      0 ... m - 1; 0 where one component holds v, and where nothing varies.
    """
    return jnp.maximum(residual_count(cov, 0, v=v) - 1, 0)


def residual_count(cov: Float[Array, "m m"], core: Int[Array, ""] | int, *, v: float | int) -> Int[Array, ""]:
    """How many directions must join the first `core` channels to explain the share v of the other channels' variance.

    With the blocks c (core) and r (rest) of the covariance, what the core cannot explain is the Schur complement
    S = C_rr - C_rc C_cc^+ C_cr with eigenvalues w; the count is the smallest k with tr(S) - w_1 - ... - w_k <= (1 - v)
    tr(C_rr). For `jit` and `vmap`, in the precision of cov; C_cc is often singular: better float64.

    Args:
      cov: covariance of the outputs of all m channels.
      core: channels of earlier tasks, 0 ... m.
      v: in (0, 1].

    Returns:
      0 ... m - core; 0 where the core explains enough and where the others do not vary.

    Raises:
      ValueError: v outside (0, 1].
    """
    _check_share(v)
    old = jnp.arange(len(cov)) < core
    values, vectors = jnp.linalg.eigh(jnp.where(old[:, None] & old[None], cov, 0))
    kept = values > NOISE * values[-1]
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    across = jnp.matmul(vectors.T, cov, precision="highest")
    rest = cov - jnp.matmul(across.T, inverse[:, None] * across, precision="highest")
    values = jnp.linalg.eigvalsh(jnp.where(old[:, None] | old[None], 0, rest))
    total = jnp.where(old, 0, jnp.diag(cov)).sum()
    unexplained = jnp.cumsum(jnp.where(values > NOISE * total, values, 0))  # ascending: without the k largest
    return jnp.where(total > DEAD * jnp.trace(cov), (unexplained > (1 - v) * total).sum(), 0).astype(jnp.int32)


def task_widths(moments: Mapping[str, Moments], core: Widths, *, v: Share) -> dict[str, int]:
    """The channels of each layer that a task needs, the core's among them: between max(core, 1) and all.

    Args:
      moments: of the layer OUTPUTS on samples of the task, float64 (`capture.collect(..., of="outputs",
        dtype="float64")`).
      core: channels of earlier tasks; all 0 for the first task, which counts with `pca_count`, one fewer.
      v: share of the variance to explain, one or by layer.

    Warns:
      UserWarning: fewer rows than channels, which bounds the count; a layer whose outputs do not vary.
    """
    first, widths = not any(int(core[path]) for path in moments), {}
    shares = v if isinstance(v, Mapping) else dict.fromkeys(moments, v)
    for path, own in moments.items():
        cov, old = np.asarray(_moments.covariance(own), np.float64), int(core[path])
        dead = np.trace(cov) <= DEAD * np.trace(own.gram) / max(own.count, 1)
        if own.count < len(cov):
            warnings.warn(
                f"{path}: {int(own.count)} rows cannot count {len(cov)} channels; measure {ROWS * len(cov)} or more.",
                stacklevel=2,
            )
        if dead:
            warnings.warn(f"{path}: its outputs do not vary; at least 1 channel is kept.", stacklevel=2)
        with jax.enable_x64(True):
            wide = jnp.asarray(cov * (not dead))
            count = int(pca_count(wide, v=shares[path]) if first else residual_count(wide, old, v=shares[path]))
        widths[path] = max(1, old + count)
    return widths


def effective(owned: Channels, params: Params, state: SpaceState, task: Int[Array, ""] | int) -> Params:
    """The parameters with which a task runs; all channels where it was not learned yet."""
    full = {path: layer.d_out for path, layer in owned.layers.items()}
    widths = {path: own[task] for path, own in state.widths.items()}
    return narrowed(owned, params, {path: jnp.where(w > 0, w, full[path]) for path, w in widths.items()})


def commit(
    owned: Channels, state: SpaceState, params: Params, *, widths: Widths, task: Int[Array, ""] | int
) -> tuple[SpaceState, Params]:
    """Write down the widths of a task and start the channels behind them anew, from what they were at the beginning."""
    recorded = {path: own.at[task].set(widths[path]) for path, own in state.widths.items()}
    masks, fresh = space_masks(owned, params, stop=widths), trees.update(params, state.initial)
    return state._replace(widths=recorded), jax.tree.map(jnp.where, masks, params, fresh)


def freeze(owned: Channels) -> optax.GradientTransformation:
    """Let only the channels between those of earlier tasks and the live ones learn, and the head of the task.

    Put it LAST in the chain: momentum and weight decay then move nothing that stands still. Before the first task
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
        def own(path: str, mask: Array) -> Array:
            rows = jnp.arange(len(mask)) == state.task if is_head(owned, path) else jnp.ones(1, bool)
            return mask & rows.reshape(-1, *[1] * (mask.ndim - 1))

        masks = trees.map_with_path(own, space_masks(owned, updates, start=state.frozen, stop=state.live))
        return jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), updates, masks), state

    return optax.GradientTransformation(init, update)


def space(
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
    """SPACE over a network with a head a task: train, count, prune, train again, freeze, start the rest anew.

    The protocol trains all channels but the frozen ones; everything after that happens in `end`, the retraining of the
    pruned network included. The optimiser starts anew for it. BWT is 0 by construction.

    Args:
      model: of `nn.multi_head`, without running statistics.
      tx: the optimiser; `freeze` comes behind it.
      table: `capture.layers` of the network.
      tasks: in the whole sequence.
      steps: of retraining, at least 1.
      batch: samples a step of retraining, at least 1.
      v: share of the variance of a layer's outputs to explain, in (0, 1]; one, or by layer.
      samples: first ones of each task on which that variance is measured; one batch, as norms over it want it.
      heads: as in `channels`.

    Raises:
      ValueError: settings out of range, v for other layers; as `channels`; at `init`, heads that are not stacked by
        task; at `predict`, a task that there is not.
    """
    if min(tasks, steps, batch, samples) < 1:
        raise ValueError(f"tasks, steps, batch and samples are at least 1; got {tasks}, {steps}, {batch}, {samples}.")
    owned = channels(table, heads=heads)
    if isinstance(v, Mapping) and set(v) != set(owned.layers):
        raise ValueError(f"v is for the layers {', '.join(owned.layers)}; got it for {', '.join(v) or 'none'}.")
    for share in v.values() if isinstance(v, Mapping) else (v,):
        _check_share(share)
    chain = optax.chain(tx, freeze(owned))
    plain = learner(model, chain, told=True)
    full = {path: layer.d_out for path, layer in owned.layers.items()}

    def init(key, x):
        state = plain.init(key, x)
        if state.variables["batch_stats"]:
            raise ValueError("running statistics change with every task: build the network with norm='minibatch'.")
        leaves = trees.flatten(state.variables["params"])
        if wrong := [leaf for leaf in leaves if is_head(owned, leaf) and len(leaves[leaf]) != tasks]:
            raise ValueError(f"heads are stacked by task: {wrong[0]!r} has {len(leaves[wrong[0]])} for {tasks} tasks.")
        initial = {leaf: array for leaf, array in leaves.items() if not is_head(owned, leaf)}
        return state._replace(kept=SpaceState({path: jnp.zeros(tasks, jnp.int32) for path in full}, initial))

    def phase(key, state, task, t, live):
        """The optimiser anew, with earlier tasks frozen."""
        state = plain.begin(key, state, task, t)
        frozen = FreezeState(core(state.kept), jax.tree.map(jnp.int32, dict(live)), jnp.int32(t))
        return state._replace(opt_state=optax.tree.set(state.opt_state, FreezeState=frozen))

    def begin(key, state, task, t):
        if used := [path for path, width in core(state.kept).items() if width == full[path]]:
            warnings.warn(f"full: {', '.join(used)}; no channel is left for task {t} (its head learns).", stacklevel=2)
        return phase(key, state, task, t, full)

    def end(key, state, task, t):
        moments = capture.collect(
            model.apply, state.variables, [task.x[:samples]], of="outputs", layers=list(full), dtype="float64"
        )
        widths = task_widths(moments, core(state.kept), v=v)
        pruned = state.variables | {"params": narrowed(owned, state.variables["params"], widths)}
        state = training.repeat(
            key, plain.step, phase(key, state._replace(variables=pruned), task, t, widths), [(task.x, task.y)],
            steps=steps, batch=batch, constants=jnp.int32(t), params=pruned["params"], label="retraining",
        )  # fmt: skip
        kept, params = commit(owned, state.kept, state.variables["params"], widths=widths, task=t)
        return state._replace(variables=state.variables | {"params": params}, kept=kept)

    apply = jax.jit(lambda params, kept, t: effective(owned, params, kept, t))

    def predict(state, x, t):
        if not 0 <= t < tasks:
            raise ValueError(f"tasks count from 0 to {tasks - 1}; got {t}.")
        variables = state.variables | {"params": apply(state.variables["params"], state.kept, t)}
        return own_head(training.predict(model.apply, variables, x), t)

    return plain._replace(init=init, begin=begin, end=end, predict=predict, held=held)


def held(state: Any) -> dict[str, Any]:
    """Floats of the widths and the initial parameters, and the channels that each layer has used up."""
    used = {f"width/{path}": int(width) for path, width in core(state.kept).items()}
    return {"floats": sum(leaf.size for leaf in jax.tree.leaves(state.kept))} | used


def core(state: SpaceState) -> dict[str, Int[Array, ""]]:
    """The channels that earlier tasks own: those of the widest."""
    return {path: own.max() for path, own in state.widths.items()}


def _check_share(v: float | int) -> None:
    if not 0 < v <= 1:
        raise ValueError(f"v is the share of variance to explain, in (0, 1]; got {v}.")
