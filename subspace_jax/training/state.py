"""The training state and the training step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import losses
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Int, Key, PyTree, Shaped, Variables


class TrainState(NamedTuple):
    """All arrays of a run. `key` is constant: shuffling folds the epoch into it, augmentation and dropout the step."""

    step: Int[Array, "*models"]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    key: Key[Array, "*models"]


def create(
    key: Key[Array, ""], model: Model, tx: optax.GradientTransformation, x: Shaped[Array | np.ndarray, "b ..."]
) -> TrainState:
    """Initial state; `x` is one batch of inputs as the model sees them (its values do not matter)."""
    key = as_key(key)
    fresh = model.init(key, x)
    return TrainState(jnp.int32(0), fresh["params"], fresh["batch_stats"], tx.init(fresh["params"]), key)


def variables(state: TrainState) -> Variables:
    """The variables {"params", "batch_stats"} that `Model.apply` takes."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def train_step(
    model: Model,
    tx: optax.GradientTransformation,
    *,
    prepare: Callable | None = None,
    objective: Callable | None = None,
) -> Callable:
    """One step of mean cross-entropy: (state, x, y) -> (state, {"loss", "accuracy"} of the batch before the update).

    Args:
      model: the network.
      tx: any optax chain.
      prepare: (key, x) -> x, run on the device before the network: augmentation, scaling of uint8 pixels.
      objective: another loss, as `minimise` takes it: (params, batch_stats, ((x, y),), None, key) -> (loss, new
        batch_stats); the accuracy is then NaN.
    """

    def loss_fn(params, batch_stats, x, y, key):
        if objective:
            loss, batch_stats = objective(params, batch_stats, ((x, y),), None, key)
            return loss, (batch_stats, {"loss": loss, "accuracy": jnp.full((), jnp.nan)})
        logits, batch_stats = model.train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        loss = losses.mean(losses.softmax_cross_entropy(logits, y))
        return loss, (batch_stats, {"loss": loss, "accuracy": (logits.argmax(-1) == y).mean()})

    def step(state: TrainState, x, y):
        prepare_key, model_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x = prepare(prepare_key, x) if prepare else x
        grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, x, y, model_key
        )
        updates, opt_state = tx.update(losses.uphill(grads), state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.key), metrics

    return step
