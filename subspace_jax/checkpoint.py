"""Checkpoints {variables, state, config}: a run resumes from them bit for bit, any experiment loads the model.

`variables` is what `Model.apply` takes, `state` the rest of the training state and everything that was accumulated,
`config` plain JSON: enough to rebuild the model, its inputs' scale, its labels and its training.
"""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from subspace_jax import nn
from subspace_jax.nn import Model
from subspace_jax.training import Hook, TrainState, fit, initial_carries, variables
from subspace_jax.typing import PyTree, Variables

ITSELF = -1  # stands for the seed where a path names one folder of checkpoints
LIBRARIES = ("subspace_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of the libraries a result depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found


def manager(
    directory: str | pathlib.Path, *, keep: int | None = 1, keep_every: int | None = None, best: str | None = None
) -> ocp.CheckpointManager:
    """Open a folder of checkpoints, one per epoch.

    Args:
      directory: made when missing; what an interrupted save left there is ignored.
      keep: newest (or best) checkpoints to keep; all when None.
      keep_every: also keep epochs that are multiples of this for good (1: all, to score them later).
      best: name of a metric given to `save`; the `keep` highest are then kept instead of the newest.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        keep_period=keep_every,
        best_fn=(lambda metrics: metrics[best]) if best else None,
        keep_checkpoints_without_metrics=not best,
    )
    return ocp.CheckpointManager(pathlib.Path(directory).resolve(), options=options)


def save(
    to: ocp.CheckpointManager,
    epoch: int,
    state: TrainState,
    *,
    config: dict[str, Any],
    carries: PyTree = None,
    metrics: dict[str, float] | None = None,
) -> None:
    """Write one checkpoint in the background: the one before stays whole until this one is.

    Several processes save together, never one alone; what each has whole the first one writes.
    """
    rest = {"step": state.step, "opt_state": state.opt_state, "key": state.key, "carries": carries or {}}
    items = {
        "variables": ocp.args.StandardSave(_on_host(variables(state))),
        "state": ocp.args.StandardSave(_on_host(rest)),
        "config": ocp.args.JsonSave(config | {"epoch": epoch, "versions": versions()}),
    }
    to.save(epoch, args=ocp.args.Composite(**items), metrics=metrics, force=True)


def restore(
    source: ocp.CheckpointManager, state: TrainState, carries: PyTree = None, *, epoch: int | None = None
) -> tuple[int, TrainState, PyTree] | None:
    """(epochs done, state, carries) of the latest checkpoint, or None where there is none.

    Args:
      source: from `manager`.
      state: a fresh state of the same run; only its shapes are used.
      carries: the carries of the same run before its first epoch; only their shapes are used.
      epoch: another checkpoint than the latest.
    """
    epoch = source.latest_step() if epoch is None else epoch
    if epoch is None:
        return None
    rest = {"step": state.step, "opt_state": state.opt_state, "key": state.key, "carries": carries or {}}
    shapes = [jax.tree.map(ocp.utils.to_shape_dtype_struct, _on_host(tree)) for tree in (variables(state), rest)]
    items = {name: ocp.args.StandardRestore(shape) for name, shape in zip(("variables", "state"), shapes, strict=True)}
    found = source.restore(epoch, args=ocp.args.Composite(**items))
    restored = TrainState(**found["variables"], **{k: found["state"][k] for k in ("step", "opt_state", "key")})
    return epoch, restored, found["state"]["carries"]


def _on_host(tree: PyTree) -> PyTree:
    """NumPy for what each of several processes has whole, keys as their data: Orbax refuses arrays of one process."""
    if jax.process_count() == 1:
        return tree

    def host(leaf):
        if not isinstance(leaf, jax.Array) or not leaf.is_fully_addressable:
            return leaf
        return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(host, tree)


def resumable_fit(
    directory: str | pathlib.Path,
    epoch_fn: Callable,
    state: TrainState,
    data: tuple[Any, Any],
    *,
    epochs: int,
    config: dict[str, Any],
    hooks: dict[str, Hook] | None = None,
    save_every: int = 10,
    keep_every: int | None = None,
    label: str = "training",
) -> tuple[TrainState, dict[str, PyTree]]:
    """`training.fit` from the latest checkpoint in `directory`, saving every `save_every` epochs and the last.

    Killed at any moment and called again, it ends with the same state and carries, bit for bit on the same devices.
    """
    start, carries = 0, None
    with manager(directory, keep_every=keep_every) as to:
        if found := restore(to, state, initial_carries(hooks or {}, epochs)):
            start, state, carries = found

        def after_epoch(done, state, carries):
            if done % save_every == 0 or done == epochs:
                save(to, done, state, config=config, carries=carries)

        return fit(
            epoch_fn, state, data, epochs=epochs, start=start, hooks=hooks, carries=carries, after_epoch=after_epoch,
            label=label,
        )  # fmt: skip


def load_model(
    path: str | pathlib.Path, *, seed: int = 0, epoch: int | None = None, model: Model | None = None
) -> tuple[Model, Variables, dict[str, Any]]:
    """Rebuild a saved network: (model, variables, config).

    The model takes inputs scaled as in training: `data.scale(image, data.Scaling(**config["scaling"]))`.

    Args:
      path: a run's workdir, its `checkpoints` folder, or one folder of checkpoints.
      seed: which of several networks of a workdir.
      epoch: which checkpoint; the latest when None.
      model: the network, needed where `nn.build` does not know config["model"]["name"].

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: unknown model name and no `model`, or variables of other shapes than the model's.
    """
    source = manager(_folder(path, seed), keep=None)
    epoch = source.latest_step() if epoch is None else epoch
    config = source.restore(epoch, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
    model = model or _built(path, config["model"])
    blank = jax.ShapeDtypeStruct((1, *config["input_shape"]), "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), blank)
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, shapes)
    try:
        items = ocp.args.Composite(variables=ocp.args.StandardRestore(template))
        return model, source.restore(epoch, args=items)["variables"], config
    except ValueError as error:
        raise ValueError(
            f"the checkpoint at {path} does not fit model {json.dumps(config['model'])}: {error}"
        ) from error


def _built(path: str | pathlib.Path, saved: dict[str, Any]) -> Model:
    try:
        return _same(saved["name"], json.dumps(saved["kwargs"], sort_keys=True))
    except ValueError as error:
        raise ValueError(f"{error} The checkpoint at {path} needs load_model(path, model=...) from Python.") from error


@lru_cache(maxsize=16)  # the same functions for all seeds, and so one compilation
def _same(name: str, kwargs: str) -> Model:
    return nn.build(name, **json.loads(kwargs))


def epochs(path: str | pathlib.Path, *, seed: int = 0) -> list[int]:
    """The epochs of which a run kept a checkpoint, ascending; arguments and errors as `load_model`."""
    return sorted(manager(_folder(path, seed), keep=None).all_steps())


def seeds(path: str | pathlib.Path) -> list[int]:
    """The seeds of a run's networks, ascending; of one folder of checkpoints the one its config names."""
    found = _folders(pathlib.Path(path))
    if ITSELF not in found:
        return sorted(found) or [0]
    source = manager(found[ITSELF], keep=None)
    items = ocp.args.Composite(config=ocp.args.JsonRestore())
    return [source.restore(source.latest_step(), args=items)["config"]["seed"]]


def _folders(path: pathlib.Path) -> dict[int, pathlib.Path]:
    """Folders of numbered checkpoints by seed; under ITSELF when `path` is one."""

    def holds(folder):
        return folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir())

    if holds(path):
        return {ITSELF: path}
    named = [folder for parent in (path, path / "checkpoints") for folder in parent.glob("seed[0-9]*")]
    return {int(folder.name.removeprefix("seed")): folder for folder in named if holds(folder)}


def _folder(path: str | pathlib.Path, seed: int) -> pathlib.Path:
    found = _folders(pathlib.Path(path))
    if ITSELF not in found and seed not in found:
        there = f"there are seeds {sorted(found)}" if found else "give a run's workdir or its checkpoints folder"
        raise FileNotFoundError(f"no checkpoint of seed {seed} at {path}; {there}.")
    return found[ITSELF if ITSELF in found else seed]
