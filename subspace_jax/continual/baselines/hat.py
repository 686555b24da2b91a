"""Hard attention to the task: learned near-binary masks over units, which shield the weights of earlier tasks.

Serra, Suris, Miron, Karatzoglou, ICML 2018. The masks a = sigmoid(s e) of a layer's units multiply the columns of its
kernel and its bias, which for ReLU is the same as masking its outputs. For plain sequences of layers: the units of one
are the inputs of the next, channels last.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from subspace_jax.continual import projection
from subspace_jax.continual.protocol import Learner, State, learner, own_head
from subspace_jax.core import capture, losses
from subspace_jax.core.capture import Layers
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Params

STEEPEST = 400.0  # s_max, the slope of the masks at test
COSH, EMBEDDING = 50.0, 6.0  # the authors' bounds against overflow
Masks = dict[str, Float[Array, " units"]]


def hat(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    tasks: int,
    period: int,
    sparsity: float = 0.75,
    heads: tuple[str, ...] = ("heads",),
) -> Learner:
    """Each task learns its masks with its weights; a weight between two units of earlier tasks stands still.

    Within each period the slope s rises linearly from 1 / s_max to s_max, and the gradient of the embeddings e is
    rescaled as in the paper. The loss has the term sparsity * share of units not used before that the task uses.

    Args:
      model: a network with a head a task, without biases or norms.
      tx: the optimiser.
      table: `capture.layers` of the network, in the order of execution.
      tasks: in the whole sequence.
      period: steps over which the slope rises: one pass over a task.
      sparsity: the paper's c, at least 0.
      heads: leaves of the heads, by path or its beginning.

    Raises:
      ValueError: a period below 1 or negative sparsity; a layer whose inputs are no multiple of the units before it.
    """
    if period < 1 or not sparsity >= 0:
        raise ValueError(f"period is at least 1 step and sparsity at least 0; got {period} and {sparsity}.")
    own = projection.beside(table, heads)
    _check(own)
    plain = learner(model, tx, told=True)

    def init(key, x):
        state = plain.init(key, x)
        keys = jax.random.split(jax.random.fold_in(key, 7), len(own))
        embeddings = {p: jax.random.normal(k, (tasks, own[p].d_out)) for k, p in zip(keys, own, strict=True)}
        kept = {"embeddings": embeddings, "used": {p: jnp.zeros(own[p].d_out) for p in own}, "step": jnp.int32(0)}
        return state._replace(kept=kept, opt_state=fresh(state.variables["params"], embeddings, 0))

    def fresh(params: Params, embeddings: dict[str, Array], t: int) -> Any:
        return tx.init((params, {path: e[t] for path, e in embeddings.items()}))

    def begin(key, state, task, t):
        kept = state.kept | {"step": jnp.int32(0)}
        opt_state = fresh(state.variables["params"], kept["embeddings"], t)
        return state._replace(opt_state=opt_state, kept=kept)

    def loss(trained, state, x, y, t, slope, key):
        params, embeddings = trained
        masks = {path: jax.nn.sigmoid(slope * e) for path, e in embeddings.items()}
        variables = state.variables | {"params": masked(own, params, masks)}
        logits, stats = model.train_apply(variables, x, key)
        free = {path: 1 - used for path, used in state.kept["used"].items()}
        budget = sum(jnp.sum(free[path]) for path in own)
        spent = sum(jnp.sum(masks[path] * free[path]) for path in own)
        mean = losses.softmax_cross_entropy(own_head(logits, t), y).mean()
        return mean + sparsity * spent / jnp.maximum(budget, 1.0), stats

    def step(state, batches, t, key):
        (x, y), kept = batches[0], state.kept
        share = (kept["step"] % period) / max(period - 1, 1)
        slope = 1 / STEEPEST + (STEEPEST - 1 / STEEPEST) * share
        embeddings = {path: e[t] for path, e in kept["embeddings"].items()}
        trained = state.variables["params"], embeddings
        (grads, by_mask), stats = jax.grad(loss, has_aux=True)(trained, state, x, y, t, slope, key)
        by_mask = {path: _compensated(g, embeddings[path], slope) for path, g in by_mask.items()}
        stepped: Any = tx.update((grads, by_mask), state.opt_state, trained)
        (updates, moved), opt_state = stepped
        params = optax.apply_updates(trained[0], shielded(own, updates, kept["used"]))
        new = {path: jnp.clip(e + moved[path], -EMBEDDING, EMBEDDING) for path, e in embeddings.items()}
        embeddings = {path: kept["embeddings"][path].at[t].set(e) for path, e in new.items()}
        kept = kept | {"embeddings": embeddings, "step": kept["step"] + 1}
        return State({"params": params, "batch_stats": stats}, opt_state, kept)

    def final(kept, t) -> Masks:
        return {path: jax.nn.sigmoid(STEEPEST * e[t]) for path, e in kept["embeddings"].items()}

    def end(key, state, task, t):
        masks = final(state.kept, t)
        used = {path: jnp.maximum(used, masks[path]) for path, used in state.kept["used"].items()}
        return state._replace(kept=state.kept | {"used": used})

    apply = jax.jit(lambda state, t: masked(own, state.variables["params"], final(state.kept, t)))

    def predict(state, x, t):
        return plain.predict(state._replace(variables=state.variables | {"params": apply(state, t)}), x, t)

    def held(state):
        used = {f"used/{path}": float(jnp.mean(used > 0.5)) for path, used in state.kept["used"].items()}
        return {"floats": sum(e.size for e in state.kept["embeddings"].values())} | used

    return plain._replace(init=init, begin=begin, step=step, end=end, predict=predict, held=held)


def masked(table: Layers, params: Params, masks: Masks) -> Params:
    """The parameters with every unit scaled by its mask."""
    scaled = {path: kernel * masks[path][None] for path, kernel in capture.kernels(table, params).items()}
    return capture.write_kernels(table, params, scaled)


def shielded(table: Layers, updates: Params, used: Masks) -> Params:
    """Updates times 1 - min(used of the input unit, of the output unit); inputs of the first layer count as used."""
    before, scaled = jnp.ones(1), {}
    for path, update in capture.kernels(table, updates).items():
        inputs = jnp.tile(before, len(update) // len(before))
        scaled[path] = update * (1 - jnp.minimum(inputs[:, None], used[path][None]))
        before = used[path]
    return capture.write_kernels(table, updates, scaled)


def _compensated(gradient: Array, embedding: Array, slope: Array) -> Array:
    """The gradient as if the slope were 1 throughout: annealing would leave none."""
    steep = jnp.cosh(jnp.clip(slope * embedding, -COSH, COSH)) + 1
    return gradient * STEEPEST / slope * steep / (jnp.cosh(embedding) + 1)


def _check(table: Layers) -> None:
    if not table:
        raise ValueError("no layer is left beside the heads.")
    before = None
    for path, layer in table.items():
        if layer.lead or (before and layer.d_in % before):
            raise ValueError(
                f"hat takes plain sequences of layers; {path!r} has {layer.d_in} inputs after {before} units."
            )
        before = layer.d_out
