"""Train or load the network of a run, and save edited networks as checkpoints that any experiment can load."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from experiments.families.classifier import data
from experiments.harness import flags
from subspace_jax import checkpoint, nn, training
from subspace_jax.core import capture, moments
from subspace_jax.core.inference import check_inference
from subspace_jax.typing import Variables

SAVED_RECIPE = "optimizer", "lr", "schedule", "weight_decay", "epochs", "batch", "augment"
MEASURED = 256  # samples of a batch whose layer inputs are measured
C = TypeVar("C", bound=data.Config)
create = jax.jit(training.create, static_argnums=(1, 2))


class Trained(NamedTuple):
    """A network on scaled inputs, the config of its checkpoint, and what the hooks of its training carried."""

    model: nn.Model
    variables: Variables
    config: dict[str, Any]
    carries: dict[str, Any]


def adopt(config: C) -> C:
    """The flags with which the network at --checkpoint was trained, so that the same wrong labels are planted.

    Raises:
      ValueError: training that this experiment lacks, or a flag that contradicts it.
    """
    seeds = checkpoint.seeds(config.checkpoint)
    saved = checkpoint.load_config(config.checkpoint, seed=seeds[0], epoch=config.epoch)
    kwargs = saved["model"]["kwargs"]
    same = {"data": saved["data"], "samples": saved["samples"], "model": saved["model"]["name"]}
    same |= {name: saved["recipe"][name] for name in SAVED_RECIPE} | saved["corruption"]
    same["pool"] = tuple(same.get("pool", ()))
    own = "classes", "dtype", "widths"  # the rest are further arguments
    same |= {"dtype": kwargs.get("dtype", "float32"), "widths": tuple(kwargs.get("widths", ()))}
    same |= {"network_args": tuple(f"{name}={json.dumps(kwargs[name])}" for name in kwargs if name not in own)}
    known = {field.name for field in dataclasses.fields(config)}
    if lost := {name: value for name, value in same.items() if name not in known and value}:
        raise ValueError(f"the network at {config.checkpoint} was trained with {lost}, which this experiment lacks.")
    same = {name: value for name, value in same.items() if name in known}
    described = same.keys() - {"network_args", "widths"}  # these name more than was given
    flags.refuse_others(config, {name: same[name] for name in described})
    return dataclasses.replace(config, seed=seeds[0], seeds=len(seeds), **same)


def subset(config: data.Config, seed: int) -> list[int] | None:
    """The numbers of the samples that the network at --checkpoint was trained on; None where it names none."""
    if not config.checkpoint:
        return None
    return checkpoint.load_config(config.checkpoint, seed=seed, epoch=config.epoch).get("subset")


def own(config: data.Config, shared: data.Setup, seed: int, *, whole: bool = False) -> data.Setup:
    """The part that the network at --checkpoint was trained on, where it names one, and the test set of its classes.

    Args:
      config: the run's flags.
      shared: all samples.
      seed: of the network.
      whole: also the samples of these classes that it was not trained on.

    Raises:
      ValueError: a sample that there is not.
    """
    named = subset(config, seed)
    if named is None:
        return shared
    index = shared.columns["index"]
    if len(unknown := np.setdiff1d(named, index)):
        raise ValueError(f"the network at {config.checkpoint} was trained on sample {unknown[0]}, which is not here.")
    rows = np.flatnonzero(np.isin(index, named))
    found = data.part(shared, rows)
    if not whole:
        return found
    return data.part(shared, np.flatnonzero(np.isin(shared.columns["label"], found.columns["label"])))


def epoch(config: data.Config, shared: data.Setup) -> Callable:
    """One epoch by the run's recipe, the same function for every seed."""
    steps = config.epochs * (len(shared.columns["label"]) // config.batch)
    return training.train_epoch(
        shared.network, training.optimizer(shared.recipe, steps), batch=config.batch, prepare=shared.prepare
    )


def trained(
    config: data.Config, shared: data.Setup, task: data.Task, seed: int, *, hooks: Any = None,
    epoch_fn: Callable | None = None, save_every: int = 10, keep_every: int | None = None, folder: str = "",
    about: dict[str, Any] | None = None,
) -> Trained:  # fmt: skip
    """The network of one seed: loaded from --checkpoint, or trained by the run's recipe with the hooks, resumable.

    It is saved in checkpoints/<folder> (seed<seed> when not given), with what `about` says beside its recipe.
    """
    if config.checkpoint:
        loaded = Trained(*checkpoint.load_model(config.checkpoint, seed=seed, epoch=config.epoch), {})
        check_inference(loaded.model.apply, loaded.variables, task.x[:8])
        return loaded
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    key = jax.random.fold_in(jax.random.key(seed), data.TRAIN_KEY)
    saved = data.checkpoint_config(config, shared, seed) | (about or {})
    state, carries = checkpoint.resumable_fit(
        f"{config.workdir}/checkpoints/{folder or f'seed{seed}'}", epoch_fn or epoch(config, shared),
        create(key, shared.network, tx, task.x[:1]), (task.image, task.label), epochs=config.epochs, config=saved,
        hooks=hooks, save_every=save_every, keep_every=keep_every, label=f"seed {seed}",
    )  # fmt: skip
    return Trained(shared.network, training.variables(state), saved, carries)


def save_edited(config: data.Config, seed: int, original: Trained, variables: Variables, **edit: Any) -> None:
    """Write the edited network to <workdir>/edited: a checkpoint of the same model, with one more entry in `edits`."""
    saved = original.config | {"edits": [*original.config["edits"], edit | {"seed": seed}]}
    save_network(f"{config.workdir}/edited/seed{seed}", seed, variables, saved)


def save_network(folder: str, seed: int, variables: Variables, saved: dict[str, Any], carries: Any = None) -> None:
    """Write a network that was not trained by epochs, once: a resumed run leaves it as it is."""
    state = training.TrainState(jax.numpy.int32(0), **variables, opt_state={}, key=jax.random.key(seed))
    saved = dict(saved)
    epoch = saved.pop("epoch", saved["recipe"]["epochs"])
    with checkpoint.manager(folder) as to:
        if epoch not in to.all_steps():
            checkpoint.save(to, epoch, state, config=saved, carries=carries)


def measure(
    apply: Callable, variables: Variables, x: np.ndarray, *, layers: list[str] | None = None
) -> dict[str, moments.Moments]:
    """Moments of the inputs of these layers, of all when None, in float64."""
    batches = (x[start : start + MEASURED] for start in range(0, len(x), MEASURED))
    return capture.collect(apply, variables, batches, layers=layers, dtype="float64")


@functools.lru_cache  # one function object, and so one compilation
def penultimate(features: Callable) -> Callable:
    """(variables, x) -> what the head reads."""
    return lambda variables, x: features(variables, x)["penultimate"]
