"""Load a network from a checkpoint, for use in any experiment."""

import json
import pathlib
import warnings
from typing import Any

import jax
import orbax.checkpoint as ocp

from subspace_jax import nn
from subspace_jax.checkpoint.folder import Manager, lacking, listed, reader, whole
from subspace_jax.checkpoint.reading import SPLIT, check_kept, read
from subspace_jax.nn import Model
from subspace_jax.typing import PyTree, Variables

ITSELF = -1  # stands for the seed where a path names one folder of checkpoints


def load_model(
    path: str | pathlib.Path, *, seed: int = 0, epoch: int | None = None, model: Model | None = None
) -> tuple[Model, Variables, dict[str, Any]]:
    """Rebuild a saved network: (model, variables, config).

    The model takes inputs scaled as in training: `data.scale(image, data.Scaling(**config["scaling"]))`.

    Args:
      path: a run's workdir, its `checkpoints` folder, or one folder of checkpoints.
      seed: which network of a run with several seeds.
      epoch: which checkpoint; when None the latest complete one, with a warning where a later one lacks a part.
      model: the network; required where `nn.build` does not know config["model"]["name"].

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: an epoch that was not kept, damaged files (the message names the newest intact epoch), unknown model
        name and no `model`, variables of other shapes than the model's, or parameters that are not arrays.
    """
    folder, epoch = _found(path, seed, epoch)
    with reader(folder) as source:
        config = _config(source, folder, epoch)
        owner = "the given model" if model else f"model {json.dumps(config['model'])}"
        model = model or _built(path, config["model"])
        template = _template(model, config["input_shape"])
        return model, read(source, epoch, "variables", template, way_out=_give_epoch, owner=owner), config


def load_config(path: str | pathlib.Path, *, seed: int = 0, epoch: int | None = None) -> dict[str, Any]:
    """The config of a saved network alone; arguments and errors as `load_model`."""
    folder, epoch = _found(path, seed, epoch)
    with reader(folder) as source:
        return _config(source, folder, epoch)


def _found(path: str | pathlib.Path, seed: int, epoch: int | None) -> tuple[pathlib.Path, int]:
    """The folder of checkpoints, and an epoch that was kept there."""
    folder = _folder(path, seed)
    epoch = _latest(folder) if epoch is None else epoch
    check_kept(folder, epoch)
    return folder, epoch


def _config(source: Manager, folder: pathlib.Path, epoch: int) -> dict[str, Any]:
    config = read(source, epoch, "config", None, way_out=_give_epoch)
    if absent := [key for key in ("model", "input_shape") if key not in config]:
        lacks = " and no ".join(absent)
        raise ValueError(f"{folder} holds the state of a run, not a network: its config has no {lacks}.")
    return config


def _give_epoch(damaged: int, newest: int | None) -> str:
    return "train it again" if newest is None else f"give epoch={newest} (--epoch {newest})"


def _template(model: Model, shape: list[int]) -> PyTree:
    blank = jax.ShapeDtypeStruct((1, *shape), "float32")
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), blank)
    except TypeError as error:
        if "valid JAX type" not in str(error):
            raise
        raise ValueError(f"a model's parameters are arrays, and its init gives others too; {SPLIT}.") from error
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, shapes)


def _built(path: str | pathlib.Path, saved: dict[str, Any]) -> Model:
    try:
        return nn.build(saved["name"], **saved["kwargs"])
    except ValueError as error:
        raise ValueError(f"{error} The checkpoint at {path} needs load_model(path, model=...) from Python.") from error


def epochs(path: str | pathlib.Path, *, seed: int = 0) -> list[int]:
    """The epochs with a complete checkpoint, ascending; arguments and errors as `load_model`."""
    return whole(_folder(path, seed))


def seeds(path: str | pathlib.Path) -> list[int]:
    """The seeds of a run's networks, ascending; for a single folder of checkpoints, the seed in its config."""
    found = _folders(pathlib.Path(path))
    if ITSELF not in found:
        return sorted(found) or [0]
    with reader(found[ITSELF]) as source:
        return [read(source, _latest(found[ITSELF]), "config", None, way_out=_give_epoch).get("seed", 0)]


def _latest(folder: pathlib.Path) -> int:
    """The newest complete checkpoint, with a warning where a newer one lacks a part."""
    kept = whole(folder)
    newest = max(int(child.name) for child in folder.iterdir() if child.name.isdigit())
    parts = lacking(folder / str(newest))
    if not kept:
        raise FileNotFoundError(f"no epoch in {folder} is whole: {newest} lacks {listed(parts)}.")
    if parts:
        warnings.warn(f"{folder / str(newest)} lacks {listed(parts)}; epoch {kept[-1]} is used.", stacklevel=3)
    return kept[-1]


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
