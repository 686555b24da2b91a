"""Sequences of tasks: what a continual method is, how it is trained and tested, and how forgetting is measured.

R[t, i] is the test accuracy on task i after t tasks were learned; row 0 is the untrained network.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import training
from subspace_jax.continual.tasks import Task, check_tasks
from subspace_jax.core import losses, shares
from subspace_jax.core.checks import as_real, check_axes, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Key, PyTree, Variables

TEST_BATCH = 100  # samples per test batch, in order, never padded: with `norm="minibatch"` the accuracy depends on it

Matrix = Float[np.ndarray, "rows tasks"]


class State(NamedTuple):
    """State of a sequence in training; arrays only, so that a checkpoint saves all of it.

    Attributes:
      variables: what `Model.apply` takes.
      opt_state: of the optimiser, including the bases of a projection.
      kept: what else the method keeps of earlier tasks.
    """

    variables: Variables
    opt_state: PyTree
    kept: PyTree


class Learner(NamedTuple):
    """A continual method.

    Attributes:
      init: (key, x) -> State before the first task.
      begin: (key, state, task, t) -> State, before task t; not compiled as a whole.
      step: (state, batches, t, key) -> State, one compiled training step; batches is ((x, y),).
      end: (key, state, task, t) -> State, after task t: what the method measures and keeps; not compiled as a whole.
      predict: (state, x, t) -> logits (n, classes).
      held: (state) -> {"floats": how many numbers are stored beside the network, name: other scalar recorded per task}.
      told: whether `predict` uses t: the method is told the task at test.
    """

    init: Callable
    begin: Callable
    step: Callable
    end: Callable
    predict: Callable
    held: Callable
    told: bool


class Learned(NamedTuple):
    """A finished sequence.

    Attributes:
      state: after the last task.
      matrix: R.
      held: {name: (tasks,)}, `Learner.held` after each task.
    """

    state: State
    matrix: Matrix
    held: dict[str, Float[np.ndarray, " tasks"]]


class Measures(NamedTuple):
    """Summary of R, as fractions; for a single task all but accuracy and anytime are 0.

    Attributes:
      accuracy: ACC, mean over the tasks at the end.
      backward_transfer: BWT, mean over all tasks but the last of accuracy at the end minus right after learning it.
      forward_transfer: mean over all tasks but the first of accuracy just before learning it minus untrained.
      forgetting: mean over all tasks but the last of the highest accuracy before the end minus that at the end.
      anytime: mean over t of the mean accuracy on the first t tasks after t tasks were learned.
    """

    accuracy: float
    backward_transfer: float
    forward_transfer: float
    forgetting: float
    anytime: float


@on_host
def measures(matrix: Matrix) -> Measures:
    """All `Measures` of R.

    Raises:
      ValueError: a matrix that is not (tasks + 1, tasks), or with entries that are no accuracies.
    """
    matrix = as_real("R", matrix)
    tasks = matrix.shape[-1]
    if matrix.ndim != 2 or matrix.shape != (tasks + 1, tasks) or not ((matrix >= 0) & (matrix <= 1)).all():
        raise ValueError(f"R is (tasks + 1, tasks) of accuracies, row 0 untrained; got {matrix.shape}.")
    after, before, last = np.diagonal(matrix[1:]), np.diagonal(matrix), matrix[-1]
    anytime = [row[: t + 1].mean() for t, row in enumerate(matrix[1:])]
    if tasks == 1:
        return Measures(float(last[0]), 0.0, 0.0, 0.0, anytime[0])
    highest = matrix[1:-1].max(axis=0)  # before the end
    means = (last, (last - after)[:-1], (before - matrix[0])[1:], (highest - last)[:-1], anytime)
    return Measures(*(float(np.mean(values)) for values in means))


def learner(model: Model, tx: optax.GradientTransformation, *, told: bool = False) -> Learner:
    """Plain training on each task in turn (finetune); other methods replace the functions in which they differ.

    The optimiser's state is reset before every task. A network with one head per task gives logits (n, tasks, classes),
    of which those of the task at hand are used: pass told=True.
    """
    fresh, init_model, forward = jax.jit(tx.init), jax.jit(model.init), jax.jit(model.apply)

    def init(key, x):
        variables = init_model(key, x[:1])
        return State(variables, fresh(variables["params"]), {})

    def begin(key, state, task, t):
        return state._replace(opt_state=fresh(state.variables["params"]))

    def predict(state, x, t):
        batches = (x[i : i + TEST_BATCH] for i in range(0, len(x), TEST_BATCH))
        return own_head(jnp.concatenate([forward(state.variables, batch) for batch in batches]), t)

    return Learner(
        init,
        begin,
        descent(task_loss(model), tx),
        lambda key, state, task, t: state,
        predict,
        lambda state: {"floats": 0},
        told,
    )


@functools.lru_cache(maxsize=256)
def compiled(method: Callable) -> Callable:
    """`jax.jit(method)`, cached: for methods of the tuple of a learner's settings, called for every task and seed.

    A bound method equals another only if both belong to the same object, so that each learner has programs of its own.
    """
    return jax.jit(method)


def own_head(logits: Any, t: Any) -> Any:
    """Select logits (n, classes) of task t, an int or one per sample, from (n, tasks, classes); (n, classes) pass.

    Under `jit` a task that has no head gives NaN.

    Raises:
      ValueError: logits of several heads and no task, or (where it is known) a task that has none.
    """
    check_axes("logits", logits, 2)
    if logits.ndim == 2:
        return logits
    if t is None or (isinstance(t, int) and not 0 <= t < logits.shape[1]):
        raise ValueError(f"the network has {logits.shape[1]} heads, one a task: say which one; got {t}.")
    own = logits[jnp.arange(len(logits)), t]
    if isinstance(t, int):
        return own
    there = (jnp.asarray(t) >= 0) & (jnp.asarray(t) < logits.shape[1])
    return own * jnp.where(there, 1.0, jnp.nan).astype(own.dtype).reshape(-1, 1)


def task_loss(model: Model) -> Callable:
    """(params, state, x, y, t, key) -> (mean cross-entropy on task t, new batch_stats)."""

    def loss(params, state, x, y, t, key):
        logits, batch_stats = model.train_apply(state.variables | {"params": params}, x, key)
        return losses.mean(losses.softmax_cross_entropy(own_head(logits, t), y)), batch_stats

    return loss


def descend(tx: optax.GradientTransformation, state: State, grads: PyTree, batch_stats: PyTree) -> State:
    """The state after one update of the optimiser."""
    params = state.variables["params"]
    updates, opt_state = tx.update(losses.uphill(grads), state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    return state._replace(variables=variables, opt_state=opt_state)


def descent(loss: Callable, tx: optax.GradientTransformation) -> Callable:
    """The step of a `Learner` down the gradient of loss(params, state, x, y, t, key) -> (loss, new batch_stats)."""

    def step(state, batches, t, key):
        (x, y), params = batches[0], state.variables["params"]
        return descend(tx, state, *jax.grad(loss, has_aux=True)(params, state, x, y, t, key))

    return step


class Plateau(NamedTuple):
    """Train by epochs until the loss on held-out samples falls no more, and keep the weights where it was lowest.

    The optimiser must carry its `learning_rate` in its state: `optax.inject_hyperparams(optax.sgd)(learning_rate=.01)`.

    Attributes:
      epochs: most epochs per task.
      held_out: share of a task's training samples on which that loss is measured.
      factor: divisor of the learning rate after each `patience` epochs without a lower loss.
      patience: epochs without a lower loss until the learning rate is divided.
      stop: the task ends when the learning rate falls below this.
    """

    epochs: int
    held_out: float = 0.05
    factor: float = 2.0
    patience: int = 6
    stop: float = 1e-5


def run(
    key: Key[Array, ""],
    method: Learner,
    tasks: Sequence[Task],
    *,
    classes: int,
    batch: int,
    length: int | Plateau,
    directory: str | pathlib.Path | None = None,
    config: dict[str, Any] | None = None,
    label: str = "task",
) -> Learned:
    """Learn the tasks in their order; after each, test on all of them.

    Args:
      key: of the initial weights, the order of the samples and whatever is random in the method.
      method: the continual method.
      tasks: see `tasks.check_tasks`.
      classes: outputs of the network, or of each of its heads.
      batch: samples per step.
      length: training steps per task, or a `Plateau`.
      directory: folder for a checkpoint after every task; an interrupted run resumes after the last finished task, and
        its result is bit for bit that of a run without interruption.
      config: stored in these checkpoints.
      label: name beside the progress bar.

    Raises:
      ValueError: as `check_tasks`; steps or batch below 1.
    """
    key = as_key(key)
    check_tasks(tasks, classes=classes)
    count, start = len(tasks), method.init(key, tasks[0].x)
    blank = {name: np.full(count, np.nan) for name in method.held(start)}
    now = Learned(start, np.full((count + 1, count), np.nan), blank)
    now.matrix[0] = _row(method, start, tasks)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_checkpoints().manager(directory)) if directory else None
        done, now = _resumed(folder, key, now)
        for t in range(done, count):
            begin, train, end = jax.random.split(jax.random.fold_in(key, t), 3)
            state = method.begin(begin, now.state, tasks[t], t)
            state = _learn(train, method, state, tasks[t], t, batch, length, f"{label} {t + 1} of {count}")
            now = now._replace(state=method.end(end, state, tasks[t], t))
            now.matrix[t + 1] = _row(method, now.state, tasks)
            for name, value in method.held(now.state).items():
                now.held[name][t] = value
            if folder:
                whole = _whole(key, t + 1, now.state)
                _checkpoints().save(folder, t + 1, whole, config=config or {}, carries=_rest(now))
    return now


def _checkpoints() -> Any:
    """The checkpoint module, imported only by runs that save: Orbax takes a second to load."""
    from subspace_jax import checkpoint

    return checkpoint


def _resumed(folder: Any, key: Key[Array, ""], now: Learned) -> tuple[int, Learned]:
    """Tasks done, and everything as the latest checkpoint has it."""
    found = folder and _checkpoints().restore(folder, _whole(key, 0, now.state), _rest(now))
    if not found:
        return 0, now
    done, whole, carries = found
    state = State(training.variables(whole), whole.opt_state, carries["kept"])
    held = {name: np.array(values) for name, values in carries["held"].items()}
    return done, Learned(state, np.array(carries["matrix"]), held)


def _rest(now: Learned) -> dict[str, Any]:
    return {"kept": now.state.kept, "matrix": now.matrix, "held": now.held}


def _whole(key: Key[Array, ""], t: int, state: State) -> training.TrainState:
    return training.TrainState(jnp.int32(t), **state.variables, opt_state=state.opt_state, key=key)


def _learn(
    key: Key[Array, ""],
    method: Learner,
    state: State,
    task: Task,
    t: int,
    batch: int,
    length: int | Plateau,
    label: str,
) -> State:
    """One task, by steps or until the plateau."""

    def steps(key, state, x, y, count):
        return training.repeat(
            key, method.step, state, [(x, y)], steps=count, batch=batch, constants=jnp.int32(t),
            params=state.variables["params"], label=label,
        )  # fmt: skip

    if isinstance(length, int):
        return steps(key, state, task.x, task.y, length)
    order = np.asarray(jax.random.permutation(key, len(task.x)))
    judges, rest = np.split(order, [max(1, shares.at_most(len(order), length.held_out))])
    lowest, best, bad = np.inf, state, 0
    rates = optax.tree.get_all_with_path(state.opt_state, "learning_rate")
    if not rates:
        raise ValueError("a plateau lowers the rate: make the optimiser by optax.inject_hyperparams(...).")
    rate = float(rates[0][1])
    for epoch in range(length.epochs):
        state = steps(jax.random.fold_in(key, epoch), state, task.x[rest], task.y[rest], max(1, len(rest) // batch))
        logits = method.predict(state, task.x[judges], t)
        loss = float(losses.softmax_cross_entropy(logits, task.y[judges]).mean())
        lowest, best, bad = (loss, state, 0) if loss < lowest else (lowest, best, bad + 1)
        if bad == length.patience:
            rate, bad = rate / length.factor, 0
            if rate < length.stop:
                break
            state = state._replace(opt_state=optax.tree.set(state.opt_state, learning_rate=jnp.float32(rate)))
    return best


def _row(method: Learner, state: State, tasks: Sequence[Task]) -> Float[np.ndarray, " tasks"]:
    return np.array([np.mean(method.predict(state, k.test_x, t).argmax(-1) == k.test_y) for t, k in enumerate(tasks)])
