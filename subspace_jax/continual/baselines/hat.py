"""Hard attention to the task (HAT): near-binary masks over units are learned, and protect the weights of earlier tasks.

Serra, Suris, Miron, Karatzoglou, ICML 2018. The masks a = sigmoid(s e) of a layer's units multiply the columns of its
kernel and its bias, which for ReLU is the same as masking its outputs. For plain sequences of layers: the units of one
are the inputs of the next, channels last.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.continual import projection
from subspace_jax.continual.protocol import Learner, State, compiled, learner, own_head
from subspace_jax.core import capture, losses
from subspace_jax.core.capture import Layers
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Params

STEEPEST = 400.0  # s_max, the slope of the masks at test
COSH, EMBEDDING = 50.0, 6.0  # the authors' bounds against overflow
Masks = dict[str, Float[Array, " units"]]


def hat_learner(
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
      model: a network with one head per task, without biases or norms.
      tx: the optimiser.
      table: `capture.layers` of the network, in the order of execution.
      tasks: in the whole sequence.
      period: steps over which the slope rises: one pass over a task.
      sparsity: the paper's c, at least 0.
      heads: leaves of the heads, by path or path prefix.

    Raises:
      ValueError: a period below 1 or negative sparsity; a layer whose inputs are no multiple of the units before it.
    """
    if period < 1 or not sparsity >= 0:
        raise ValueError(f"period is at least 1 step and sparsity at least 0; got {period} and {sparsity}.")
    own = projection.beside(table, heads)
    _check(own)
    plain = learner(model, tx, told=True)
    made = Hat(model, tx, own, plain, tasks, period, sparsity)
    return plain._replace(
        init=made.init, begin=made.begin, step=made.step, end=made.end, predict=made.predict, held=made.held
    )


class Hat(NamedTuple):
    """The settings of one HAT learner; its methods are those of `Learner`.

    `State.kept` holds the embeddings {layer: (tasks, units)}, the largest mask of earlier tasks by layer ("used"), and
    the step within the task.

    Attributes:
      model: as in `hat_learner`, like tx, tasks, period and sparsity.
      tx: see model.
      own: the layers with masks, in the order of execution.
      plain: training without masks.
      tasks: see model.
      period: see model.
      sparsity: see model.
    """

    model: Model
    tx: optax.GradientTransformation
    own: Layers
    plain: Learner
    tasks: int
    period: int
    sparsity: float

    def init(self, key, x):
        """Random embeddings, nothing used."""
        state, own = self.plain.init(key, x), self.own
        keys = jax.random.split(jax.random.fold_in(key, 7), len(own))
        embeddings = {p: jax.random.normal(k, (self.tasks, own[p].d_out)) for k, p in zip(keys, own, strict=True)}
        kept = {"embeddings": embeddings, "used": {p: jnp.zeros(own[p].d_out) for p in own}, "step": jnp.int32(0)}
        return self.fresh(state._replace(kept=kept), 0)

    def fresh(self, state: State, t: int) -> State:
        """The optimiser anew, for the parameters and the embeddings of task t."""
        trained = state.variables["params"], of_task(state.kept["embeddings"], t)
        return state._replace(opt_state=self.tx.init(trained))

    def begin(self, key, state, task, t):
        """The optimiser and the count of the steps start anew."""
        return self.fresh(state._replace(kept=state.kept | {"step": jnp.int32(0)}), t)

    def slope(self, step):
        """The slope s of the masks at a step: a linear rise from 1 / s_max to s_max in each period."""
        share = (step % self.period) / max(self.period - 1, 1)
        return 1 / STEEPEST + (STEEPEST - 1 / STEEPEST) * share

    def loss(self, trained, state, x, y, t, slope, key):
        """Mean cross-entropy + sparsity * share of the units not used before that the task uses; new batch_stats."""
        params, embeddings = trained
        masks = {path: jax.nn.sigmoid(slope * e) for path, e in embeddings.items()}
        variables = state.variables | {"params": masked(self.own, params, masks)}
        logits, stats = self.model.train_apply(variables, x, key)
        free = {path: 1 - used for path, used in state.kept["used"].items()}
        budget = sum(jnp.sum(free[path]) for path in self.own)
        spent = sum(jnp.sum(masks[path] * free[path]) for path in self.own)
        mean = losses.mean(losses.softmax_cross_entropy(own_head(logits, t), y))
        return mean + self.sparsity * spent / jnp.maximum(budget, 1.0), stats

    def step(self, state, batches, t, key):
        """Update the kernels, scaled down where earlier tasks use them, and the embeddings of the task."""
        (x, y), kept = batches[0], state.kept
        slope, embeddings = self.slope(kept["step"]), of_task(kept["embeddings"], t)
        trained = state.variables["params"], embeddings
        (grads, by_mask), stats = jax.grad(self.loss, has_aux=True)(trained, state, x, y, t, slope, key)
        by_mask = {path: _compensated(g, embeddings[path], slope) for path, g in by_mask.items()}
        stepped: Any = self.tx.update((losses.uphill(grads), by_mask), state.opt_state, trained)
        (updates, moved), opt_state = stepped
        params = optax.apply_updates(trained[0], shielded(self.own, updates, kept["used"]))
        new = {path: jnp.clip(e + moved[path], -EMBEDDING, EMBEDDING) for path, e in embeddings.items()}
        learned = {path: kept["embeddings"][path].at[t].set(e) for path, e in new.items()}
        kept = kept | {"embeddings": learned, "step": kept["step"] + 1}
        return State({"params": params, "batch_stats": stats}, opt_state, kept)

    def end(self, key, state, task, t):
        """The units of the task join those that are used."""
        masks = final(state.kept, t)
        used = {path: jnp.maximum(used, masks[path]) for path, used in state.kept["used"].items()}
        return state._replace(kept=state.kept | {"used": used})

    def at_test(self, state, t):
        """The parameters with which task t runs."""
        return masked(self.own, state.variables["params"], final(state.kept, t))

    def predict(self, state, x, t):
        """Logits of task t through its masks."""
        params = compiled(self.at_test)(state, t)
        return self.plain.predict(state._replace(variables=state.variables | {"params": params}), x, t)

    def held(self, state):
        """Floats of the embeddings, and the share of each layer's units that are used."""
        used = {f"used/{path}": float(jnp.mean(used > 0.5)) for path, used in state.kept["used"].items()}
        return {"floats": sum(e.size for e in state.kept["embeddings"].values())} | used


def of_task(embeddings: dict[str, Array], t: Any) -> dict[str, Array]:
    """The embeddings of one task."""
    return {path: e[t] for path, e in embeddings.items()}


def final(kept: dict[str, Any], t: Any) -> Masks:
    """The masks of one task at test."""
    return {path: jax.nn.sigmoid(STEEPEST * e) for path, e in of_task(kept["embeddings"], t).items()}


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
    """The paper's rescaled gradient of an embedding; without it the changing slope lets almost none through."""
    steep = jnp.cosh(jnp.clip(slope * embedding, -COSH, COSH)) + 1
    return gradient * STEEPEST / slope * steep / (jnp.cosh(embedding) + 1)


def _check(table: Layers) -> None:
    if not table:
        raise ValueError("no layer is left beside the heads.")
    capture.check_writes(table, "not masked in training")
    before = None
    for path, layer in table.items():
        if layer.lead or (before and layer.d_in % before):
            raise ValueError(
                f"hat takes plain sequences of layers; {path!r} has {layer.d_in} inputs after {before} units."
            )
        before = layer.d_out
