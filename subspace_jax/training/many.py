"""Train many models at once on different subsets, as memorization, membership and influence estimates need.

Several processes share the models, and each of them gets the states of all: what comes next, a score of every sample by
every model, is shared by samples, and a checkpoint is written by one.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax import trees
from subspace_jax.core import meshes, processes
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training.fit import Hook, fit, likes_scan, scan_epoch, train_epoch
from subspace_jax.training.state import TrainState, create, train_step
from subspace_jax.typing import Array, Int, Key, PyTree, Variables


def train_many(
    key: Key[Array, ""],
    model: Model,
    tx: optax.GradientTransformation,
    data: tuple[Any, Any],
    table: Int[Any, "models m"],
    *,
    epochs: int,
    batch: int,
    loop: Literal["vmap", "map"] = "vmap",
    chunk: int | None = None,
    first: int = 0,
    prepare: Callable | None = None,
    start: Variables | None = None,
    hooks: dict[str, Hook] | None = None,
    label: str = "models",
) -> tuple[TrainState, dict[str, PyTree]]:
    """Train model t on the samples table[t], all with one compiled program.

    Model t depends on (key, t, table[t]) alone, not on `loop`, `chunk`, the devices or processes, up to rounding. Every
    process must call this, with the same arguments.

    Args:
      key: fold_in(key, first + t) gives the initialisation and sample order of model t.
      model: the network.
      tx: any optax chain, the same for every model.
      data: (x, y), whole.
      table: positions in the data of each model's samples, one row per model.
      epochs: passes over a model's own samples.
      batch: samples per step and model.
      loop: "vmap" trains all side by side (pays for MLPs and small networks), "map" one after the other in one program
        (pays for convolutions on a GPU). Ignored for convolutional networks on a CPU, which are trained one by one.
      chunk: models trained at a time; all when None. They are split over the processes, and in each over as many of its
        devices as divide them.
      first: number of the first model, where these are some of a larger study.
      prepare: (key, x) -> x on the device, see `train_step`.
      start: stacked variables to start from; fresh ones when None.
      hooks: as for `fit`, on the stacked states of the whole chunk; carries are passed on from one to the next.
      label: name beside the progress bar.

    Returns:
      States with a leading axis over the models, and the hooks' carries.

    Raises:
      ValueError: fewer samples a model than `batch`, or sample numbers outside the data.
    """
    key = as_key(key)
    models, size = table.shape
    if size < batch:
        raise ValueError(
            f"each model trains on {size} samples, fewer than batch {batch}; lower batch or raise the ratio."
        )
    if np.min(table) < 0 or np.max(table) >= len(data[0]):
        raise ValueError(f"table names samples {np.min(table)}..{np.max(table)} of a data set of {len(data[0])}.")
    example, fresh = _example(data[0], prepare), _fresh(model, tx)
    run = _epoch(model, tx, batch=batch, loop=loop, prepare=prepare)
    done, carries = [], None
    for begin in range(0, models, chunk or models):
        count = min(chunk or models, models - begin)
        rows = begin + processes.part(count)
        mesh = _mesh(len(rows))
        own = meshes.brought(key, mesh)
        with meshes.within(mesh):
            states = fresh(own, first + rows, example)
            if start is not None:
                states = states._replace(**jax.tree.map(lambda leaf, rows=rows: leaf[rows], start))
            part = jnp.asarray(table[rows])

            def one_epoch(states, x, y, part=part, count=count):
                states, metrics = run(states, x, y, part)
                return states, processes.stacked(metrics, count)

            states, carries = fit(
                one_epoch, states, data, epochs=epochs, hooks=_of_all(hooks, count), carries=carries,
                label=f"{label} {first + begin + 1}-{first + begin + count}",
            )  # fmt: skip
        done.append(meshes.returned(processes.stacked(states, count)))
    return done[0] if len(done) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *done), carries or {}


def _of_all(hooks: dict[str, Hook] | None, count: int) -> dict[str, Hook] | None:
    """Hooks that see the models of all processes."""
    if jax.process_count() == 1 or hooks is None:
        return hooks

    def widened(hook: Hook) -> Hook:
        return hook._replace(
            update=lambda carry, states, epoch: hook.update(carry, processes.stacked(states, count), epoch)
        )

    return {name: widened(hook) for name, hook in hooks.items()}


def _mesh(models: int) -> Mesh:
    """As many devices of this process as divide its models."""
    return Mesh(np.array(jax.local_devices()[: math.gcd(models, jax.local_device_count())]), ("models",))


def _example(x: Any, prepare: Callable | None) -> Any:
    """One blank input as the network sees it."""
    shape = jax.eval_shape(prepare, jax.random.key(0), x[:1]) if prepare else x[:1]
    return np.zeros(shape.shape, shape.dtype)


@lru_cache(maxsize=16)  # the same network and optimiser are compiled once
def _fresh(model: Model, tx: optax.GradientTransformation) -> Callable:
    """(key, numbers of the models, one input) -> their states before the first step."""

    def one(key, t, x):
        return create(jax.random.fold_in(key, t), model, tx, x)

    return jax.jit(jax.vmap(one, (None, 0, None)))


@lru_cache(maxsize=16)  # the same network, optimiser and batch are compiled once
def _epoch(model: Model, tx: optax.GradientTransformation, *, batch: int, loop: str, prepare: Callable | None):
    """(states, x, y, table) -> (states, metrics): one epoch of every model."""
    one = scan_epoch(train_step(model, tx, prepare=prepare), batch)
    single = train_epoch(model, tx, batch=batch, prepare=prepare)

    def sweep(states, x, y, table):
        if loop == "vmap":
            return jax.vmap(one, in_axes=(0, None, None, 0))(states, x, y, table)
        return jax.lax.map(lambda model: one(model[0], x, y, model[1]), (states, table))

    specs = PartitionSpec("models"), PartitionSpec(), PartitionSpec(), PartitionSpec("models")

    @partial(jax.jit, static_argnums=0)
    def spread(mesh, *arguments):
        return jax.shard_map(sweep, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*arguments)

    def run(states, x, y, table):
        if likes_scan(jax.eval_shape(lambda params: jax.tree.map(lambda leaf: leaf[0], params), states.params)):
            mesh = _mesh(len(table))
            places = tuple(NamedSharding(mesh, spec) for spec in specs)
            return spread(mesh, *jax.device_put((states, x, y, table), places))
        pairs = [single(s, x[rows], y[rows]) for s, rows in zip(trees.unstack(states), table, strict=True)]
        return trees.stack([s for s, _ in pairs]), trees.stack([m for _, m in pairs])

    return run
