"""Train one model: epochs of a jitted step, with hooks after epochs as pure functions of the state.

On one device; or data-parallel over a mesh of devices, of one process or of several: all hold the same state, and each
takes its part of every batch. The step stays a function of the whole batch, which the compiler spreads: a mean over the
batch (loss, gradients, the statistics of BatchNorm) is one over all devices, up to rounding.
"""

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import checks, meshes, processes
from subspace_jax.data import epoch_order, prefetch
from subspace_jax.nn import Model
from subspace_jax.training.progress import track
from subspace_jax.training.state import TrainState, train_step
from subspace_jax.typing import PyTree

RESIDENT_BYTES = 8 << 30  # data sets up to this size stay on the device for the whole run
QUEUE = 8  # dispatched steps over a mesh; about 100 abort a process with several simulated devices


class Hook(NamedTuple):
    """Accumulator over epochs: `carry` is saved in checkpoints, pure `update(carry, state, epoch)` gives the next."""

    carry: PyTree
    update: Callable[[Any, TrainState, int], Any]
    every: int = 1


def likes_scan(params: PyTree) -> bool:
    """Whether one program per epoch pays: XLA on CPU runs convolution gradients inside a loop 30 times slower."""
    return jax.default_backend() != "cpu" or all(leaf.ndim < 4 for leaf in jax.tree.leaves(params))


def stays_on_device(params: PyTree, x: Any) -> bool:
    """Whether the data stays on the device for the whole run, with one program per epoch."""
    return likes_scan(params) and x.nbytes <= RESIDENT_BYTES


def scan_epoch(step: Callable, batch: int) -> Callable:
    """(state, x, y, rows) -> (state, mean metrics): a scan over the steps of an epoch on the samples `rows`."""

    def run(state: TrainState, x, y, rows):
        steps = len(rows) // batch
        order = rows[epoch_order(state.key, state.step // steps, len(rows), batch)]
        state, metrics = jax.lax.scan(lambda s, idx: step(s, x[idx], y[idx]), state, order)
        return state, jax.tree.map(jnp.mean, metrics)

    return run


@lru_cache(maxsize=16)  # the same network, optimiser and batch are compiled once
def train_epoch(
    model: Model,
    tx: optax.GradientTransformation,
    *,
    batch: int,
    prepare: Callable | None = None,
    objective: Callable | None = None,
) -> Callable:
    """(state, x, y) -> (state, {"loss", "accuracy"} averaged over the epoch), compiled once for all runs of one shape.

    One program per epoch where the data fits on the device (and, on a CPU, the network has no convolutions); otherwise
    one per step, with prefetched batches. Both take the same batches in the same order: a permutation of the samples by
    (state.key, epoch), the last partial batch dropped.

    Args:
      model: the network.
      tx: any optax chain.
      batch: samples per step, at most the number of samples.
      prepare: (key, x) -> x on the device, see `train_step`.
      objective: another loss than mean cross-entropy, see `train_step`.
    """
    return epoch_of(train_step(model, tx, prepare=prepare, objective=objective), batch)


def epoch_of(step: Callable, batch: int) -> Callable:
    """`train_epoch` of any step (state, x, y) -> (state, metrics by name); the state has `params`, `key` and `step`.

    Each new function object is compiled again: keep what this returns. A state that `fit` has put on a mesh is trained
    there, each batch split over its devices.
    """

    @lru_cache(maxsize=4)
    def programs(mesh):
        return _programs(step, batch, mesh)

    def run(state: TrainState, x, y):
        mesh = meshes.splits_samples(state.params)
        one_step, whole = programs(mesh)
        with meshes.within(mesh) if mesh else contextlib.nullcontext():
            if stays_on_device(state.params, x):
                return whole(state, x, y, np.arange(len(x)))
            return _stepped(one_step, state, x, y, batch, mesh)

    return run


def _programs(step: Callable, batch: int, mesh: Mesh | None) -> tuple[Callable, Callable]:
    """The compiled step, and the compiled epoch of `scan_epoch`."""
    if mesh is None:
        return jax.jit(step), jax.jit(scan_epoch(step, batch))
    if batch % mesh.size:
        raise ValueError(f"a batch of {batch} does not divide over {mesh.size} devices: choose a multiple of them.")
    over, copied = (NamedSharding(mesh, spec) for spec in (PartitionSpec(meshes.SAMPLES), PartitionSpec()))

    def split(state: TrainState, x, y):
        return step(state, *jax.lax.with_sharding_constraint((x, y), over))

    return jax.jit(split, out_shardings=copied), jax.jit(scan_epoch(split, batch), out_shardings=copied)


def _stepped(one_step: Callable, state: TrainState, x, y, batch: int, mesh: Mesh | None):
    """One epoch, a program a step: only the rows of a batch are read, in several processes each its own."""
    key, done = processes.here((state.key, state.step))
    order = np.asarray(epoch_order(key, done // (len(x) // batch), len(x), batch))
    over = None if mesh is None else NamedSharding(mesh, PartitionSpec(meshes.SAMPLES))

    def taken(idx: np.ndarray) -> tuple:
        if over is None or mesh is None or not meshes.several(mesh):
            return x[idx], y[idx]
        return tuple(meshes.from_rows(part, idx, over) for part in (x, y))

    rows = []
    for images, labels in prefetch(map(taken, order), sharding=over):
        state, metrics = one_step(state, images, labels)
        rows.append(metrics)
        if mesh is not None and len(rows) % QUEUE == 0:
            jax.block_until_ready(metrics)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves).mean(), *map(processes.here, rows))


def fit(
    epoch_fn: Callable,
    state: TrainState,
    data: tuple[Any, Any],
    *,
    epochs: int,
    start: int = 0,
    hooks: dict[str, Hook] | None = None,
    carries: dict[str, PyTree] | None = None,
    after_epoch: Callable | None = None,
    label: str = "training",
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, PyTree]]:
    """Run the epochs `start`..`epochs` - 1. Resumed from saved state and carries, the result is the same bit for bit.

    Over a mesh it is that of one device up to rounding; float32 runs drift apart after some dozens of steps.

    Args:
      epoch_fn: from `train_epoch`.
      state: from `create`, or restored from a checkpoint.
      data: (x, y), whole: NumPy or device arrays.
      epochs: passes in total.
      start: epochs that `state` has already been trained for.
      hooks: accumulators by name; each runs every `every` epochs.
      carries: restored carries of the hooks and of "metrics"; initial ones when None.
      after_epoch: (epochs done, state, carries) -> None, for saving.
      label: name beside the progress bar.
      mesh: train data-parallel, each batch split over all devices of this mesh; where they belong to several processes,
        each calls this with the same arguments. What hooks see and what is returned lies on the first device.

    Returns:
      The final state and the carries by name; "metrics" holds {"loss", "accuracy"} (epochs,), NaN where not run.

    Raises:
      ValueError: inputs that are not finite, or not as many as labels; a batch that does not divide over the mesh.
    """
    checks.check_count("epochs", epochs, 0)
    checks.check_lengths(x=data[0], y=data[1])
    checks.check_finite("x", data[0])
    hooks = hooks or {}
    carries = dict(carries or initial_carries(hooks, epochs))
    seen, mesh = state, None if mesh is None else meshes.over_samples(mesh)
    state = state if mesh is None else meshes.copied(state, mesh)
    if stays_on_device(state.params, data[0]):
        data = jax.device_put(data) if mesh is None else meshes.copied(data, mesh)
    for epoch in track(range(start, epochs), label=label, total=epochs, samples=len(data[0]), done=start):
        state, row = epoch_fn(state, *data)
        seen, row = (state, row) if mesh is None else meshes.one_copy((state, row))
        carries["metrics"] = {name: rows.at[epoch].set(row[name].mean()) for name, rows in carries["metrics"].items()}
        for name, hook in hooks.items():
            if (epoch + 1) % hook.every == 0:
                carries[name] = hook.update(carries[name], seen, epoch)
        if after_epoch:
            after_epoch(epoch + 1, seen, carries)
    return seen, carries


def initial_carries(hooks: dict[str, Hook], epochs: int) -> dict[str, PyTree]:
    """The carries before the first epoch; also the template to restore saved ones."""
    blank = jnp.full((epochs,), jnp.nan)
    return {name: hook.carry for name, hook in hooks.items()} | {"metrics": {"loss": blank, "accuracy": blank}}
