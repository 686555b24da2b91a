"""Shadow models: many networks, each trained on some of the samples, and what every one of them says of all samples.

    keep = masks.shadow_masks(key, 64, len(y))
    found = shadows.train(key, model, tx, (x, y), keep, "folder", epochs=40, batch=32)
    found["logits"]                                     # (models, queries, n, classes), memory-mapped

The folder holds one .npy file an array, which other programs read too, and progress.json. A run that was stopped goes
on behind the last group of models that was finished; a finished one is read. Several processes share the models and the
inputs; the first one writes, in a folder that all of them see.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import training
from subspace_jax.core import checks, processes
from subspace_jax.core.keys import as_key
from subspace_jax.files import reserve, written
from subspace_jax.nn import Model
from subspace_jax.typing import ApplyFn, Array, Bool, Float, Key, Shaped, Variables

QUERIES = 2  # every input as it is, and mirrored
Loop = Literal["vmap", "map"]


def train(
    key: Key[Array, ""],
    model: Model,
    tx: optax.GradientTransformation,
    data: tuple[Any, Any],
    keep: Bool[np.ndarray, "models n"],
    directory: str | os.PathLike,
    *,
    epochs: int,
    batch: int,
    inputs: Any | None = None,
    queries: int = 1,
    group: int | None = None,
    loop: Loop = "vmap",
    prepare: Callable | None = None,
    measures: Mapping[str, Callable[[Variables], Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    label: str = "shadow models",
) -> dict[str, np.ndarray]:
    """Train a model on each row of a mask and keep on disk what it says of every input; the models are not kept.

    Model t depends on (key, t, keep[t]) alone, not on `group` or `loop`, up to rounding.

    Args:
      key: as in `training.train_many`.
      model: the network.
      tx: any optax chain, the same for every model.
      data: (x, y) to train on, whole.
      keep: who is trained on what, such as `masks.shadow_masks`; rows of equally many samples.
      directory: where the arrays go; a run with the same arguments that was stopped there is continued.
      epochs: passes over a model's own samples.
      batch: samples per step and model.
      inputs: what the models are asked about, as the network sees it; data[0] when None. There may be more of them than
        training samples, such as a test set behind these.
      queries: 1: every input as it is; 2: images also mirrored left to right.
      group: models trained at a time, and written together; all when None.
      loop: as in `train_many`; where they are asked, too, models run side by side or one after the other.
      prepare: as in `train_many`.
      measures: further arrays by name: (stacked variables of a group) -> (models of the group, ...). See `ask`.
      recipe: what else decides the result, as plain values: a run with another one is not continued.
      label: name beside the progress bar.

    Returns:
      Arrays by name, models on axis 0, memory-mapped for reading: "logits", float32 (models, queries, inputs, classes),
      and the measures.

    Raises:
      ValueError: a mask that is not boolean (models, n), fewer than 2 models, rows of unequal numbers; mirrored queries
        of what is no image; labels, inputs and batch as `train_many`; a directory with another run in it.
    """
    key = as_key(key)
    x, y = data
    inputs = x if inputs is None else inputs
    _check(x, y, keep, inputs, queries)
    shapes = jax.eval_shape(model.init, key, inputs[:1])
    settings = {"epochs": epochs, "batch": batch, "queries": queries, "measures": sorted(measures or {})}
    settings |= {
        "recipe": dict(recipe or {}),
        "network": _digest(str(shapes)),
        "key": _digest(jax.random.key_data(key)),
    }
    settings |= {"data": _digest(x, y), "keep": _digest(keep), "inputs": _digest(inputs)}
    store = _Store(pathlib.Path(directory), len(keep), settings)
    table, group = np.nonzero(keep)[1].reshape(len(keep), -1), group or len(keep)
    apply = stacked(model.apply, loop)
    for start in range(processes.told(store.done), len(keep), group):
        states, _ = training.train_many(
            key, model, tx, data, table[start : start + group], epochs=epochs, batch=batch, loop=loop, first=start,
            prepare=prepare, label=label,
        )  # fmt: skip
        own = training.variables(states)
        found = {"logits": logits(apply, own, inputs, queries)}
        found |= {name: measure(own) for name, measure in (measures or {}).items()}
        if processes.first():
            store.write(start, found)
    processes.finished()
    return store.read()


@lru_cache(maxsize=16)  # one function object, and so one compilation, per network
def stacked(apply: ApplyFn, loop: Loop = "vmap") -> ApplyFn:
    """Several networks, their variables stacked on axis 0, as one: (variables, x) -> logits (b, models, classes).

    On a CPU they answer one after the other whatever `loop` says: for the MLP of 64 inputs four times as fast.
    """

    def one_by_one(several, x):
        return jnp.moveaxis(jax.lax.map(lambda own: apply(own, x), several), 0, 1)

    def together(several, x):
        return jax.vmap(apply, in_axes=(0, None), out_axes=1)(several, x)

    return one_by_one if loop == "map" or jax.default_backend() == "cpu" else together


def logits(
    network: ApplyFn, variables: Variables, inputs: Shaped[Any, "n ..."], queries: int = 1
) -> Float[np.ndarray, "models queries n classes"]:
    """What several networks, see `stacked`, say of every query."""
    return ask(lambda part: np.moveaxis(np.asarray(training.predict(network, variables, part)), 1, 0), inputs, queries)


@checks.on_host
def ask(fn: Callable, inputs: Shaped[Any, "n ..."], queries: int = 1) -> Shaped[np.ndarray, "models queries n ..."]:
    """What fn(inputs) -> (models, n, ...) says of every query: the inputs, and for queries = 2 their mirror images."""
    _check_queries(inputs, queries)
    asked = [inputs, *([inputs[:, :, ::-1]] if queries == QUERIES else [])]
    return np.stack([np.asarray(fn(part)) for part in asked], axis=1)


def _check_queries(inputs: Any, queries: int) -> None:
    if queries not in (1, QUERIES):
        raise ValueError(f"queries is 1, or 2 for images and their mirror images; got {queries}.")
    if queries == QUERIES and np.ndim(inputs) != 4:
        raise ValueError(f"queries = 2 mirrors images (n, h, w, channels); got inputs of shape {np.shape(inputs)}.")


def _check(x: Any, y: Any, keep: Any, inputs: Any, queries: int) -> None:
    if np.ndim(keep) != 2 or keep.dtype != bool or keep.shape[1] != len(x):
        raise ValueError(
            f"keep is boolean (models, {len(x)}), True where a model is trained on a sample; got {keep.dtype} "
            f"{keep.shape}."
        )
    used = keep.sum(axis=1)
    if len(keep) < 2 or used.min() != used.max() or not used.min():
        raise ValueError(
            f"shadow models are 2 or more that train on equally many samples; got {len(keep)} with {used.min()} to "
            f"{used.max()}: draw them by masks.shadow_masks."
        )
    _check_queries(inputs, queries)
    checks.check_labels(y)
    checks.check_lengths(x=x, y=y)
    checks.check_finite("inputs", inputs)


def _digest(*values: Any) -> str:
    found = hashlib.blake2b(digest_size=12)
    for value in values:
        array = np.ascontiguousarray(value if not isinstance(value, str) else np.frombuffer(value.encode(), np.uint8))
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()


class _Store:
    """Arrays over all models in one folder, filled group by group; `done` models are whole."""

    def __init__(self, folder: pathlib.Path, models: int, settings: dict[str, Any]) -> None:
        self.folder, self.models, self.done = folder, models, 0
        self.settings = json.loads(json.dumps(settings))  # as they are read back
        self.names = ["logits", *settings["measures"]]
        self.progress = folder / "progress.json"
        if not self.progress.exists():
            return
        try:
            saved = json.loads(self.progress.read_text())
        except ValueError as error:
            raise ValueError(f"{self.progress} is damaged ({error}): remove {folder} and train anew.") from None
        if differ := [name for name in settings if saved["settings"].get(name) != self.settings[name]]:
            raise ValueError(f"{folder} holds shadow models with another {differ[0]}: give another directory.")
        self.done = saved["done"]

    def write(self, start: int, found: dict[str, Any]) -> None:
        """The rows of one group, and only then that they are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in found.items():
            rows, path = np.asarray(rows), self.folder / f"{name}.npy"
            if start:
                array = np.lib.format.open_memmap(path, "r+")
            else:
                array = np.lib.format.open_memmap(path, "w+", rows.dtype, (self.models, *rows.shape[1:]))
                reserve(path)
            array[start : start + len(rows)] = rows
            array.flush()
        self.done = start + len(found["logits"])
        with written(self.progress) as file:
            json.dump({"settings": self.settings, "done": self.done}, file, indent=2)

    def read(self) -> dict[str, np.ndarray]:
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.names}
