"""Experience replay: every step also learns from a reservoir of earlier samples. Chaudhry et al., 2019 (ER-Res)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual.protocol import Learner, State, descend, learner, own_head
from subspace_jax.core import losses
from subspace_jax.core.checks import check_count, check_labels
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model

Buffer = dict[str, Any]  # x (capacity, ...), y, t (capacity,), seen (): samples of all tasks so far


def er_learner(model: Model, tx: optax.GradientTransformation, *, capacity: int, told: bool = False) -> Learner:
    """Training on the mean loss of a batch of the task plus that of an equally large batch from the reservoir.

    The reservoir is a uniform sample of all earlier tasks; samples of the current task are added after it.

    Args:
      model: the network.
      tx: the optimiser.
      capacity: samples kept, at least 1; to match a projection method's memory, its floats / the floats of one sample.
      told: whether the network has one head per task.

    Raises:
      ValueError: capacity below 1.
    """

    def loss(params, state, batches, key):
        x, y, t = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        logits, batch_stats = model.train_apply(state.variables | {"params": params}, x, key)
        each = losses.softmax_cross_entropy(own_head(logits, t), y)
        n = len(batches[0][0])
        replayed = jnp.where(state.kept["seen"] > 0, each[n:].mean(), 0.0)
        return losses.mean(each[:n]) + replayed, batch_stats

    def step(state, batches, t, key):
        params = state.variables["params"]
        check_labels(batches[0][1])  # booleans would become integers beside those of the reservoir
        (x, y), drawn = batches[0], draw(jax.random.fold_in(key, 1), state.kept, len(batches[0][0]))
        both = ((x, y, jnp.full(len(x), t)), drawn)
        return descend(tx, state, *jax.grad(loss, has_aux=True)(params, state, both, key))

    return with_buffer(learner(model, tx, told=told), capacity)._replace(step=step)


def with_buffer(plain: Learner, capacity: int) -> Learner:
    """The learner with a reservoir in `kept`, filled after every task."""
    if capacity < 1:
        raise ValueError(f"the reservoir keeps at least 1 sample; got {capacity}.")

    def init(key, x):
        shape = (capacity, *x.shape[1:])
        empty = {"x": np.zeros(shape, np.float32), "y": np.zeros(capacity, np.int32), "t": np.zeros(capacity, np.int32)}
        return plain.init(key, x)._replace(kept=jax.device_put(empty | {"seen": np.int32(0)}))

    def end(key, state: State, task, t):
        seed = np.asarray(jax.random.key_data(key))
        return state._replace(kept=jax.device_put(fill(np.random.default_rng(seed), state.kept, task, t)))

    def held(state: State) -> dict[str, int]:
        return {"floats": sum(state.kept[name].size for name in "xyt")}

    return plain._replace(init=init, end=end, held=held)


def fill(rng: np.random.Generator, buffer: Buffer, task, t: int) -> Buffer:
    """Reservoir sampling: each sample seen so far is in the buffer with the same probability."""
    kept = {name: np.array(part) for name, part in buffer.items()}
    seen, capacity = int(kept["seen"]), len(kept["y"])
    for place, i in enumerate(rng.permutation(len(task.x)), start=seen):
        at = place if place < capacity else int(rng.integers(place + 1))
        if at < capacity:
            kept["x"][at], kept["y"][at], kept["t"][at] = task.x[i], task.y[i], t
    return kept | {"seen": np.int32(seen + len(task.x))}


def draw(key: Any, buffer: Buffer, count: int) -> tuple:
    """(x, y, t) of so many samples of the buffer, with replacement; zeros while it is empty."""
    key = as_key(key)
    check_count("the number of samples", count, 0)
    filled = jnp.clip(buffer["seen"], 1, len(buffer["y"]))
    rows = jax.random.randint(key, (count,), 0, filled)
    return buffer["x"][rows], buffer["y"][rows], buffer["t"][rows]
