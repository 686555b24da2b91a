"""Train or load the network of a run, and save edited networks as checkpoints that any experiment can load."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from experiments.families.classifier import data
from subspace_jax import checkpoint, nn, training
from subspace_jax.core.inference import check_inference
from subspace_jax.typing import Variables

SAVED_RECIPE = "optimizer", "lr", "schedule", "weight_decay", "epochs", "batch", "augment"
C = TypeVar("C", bound=data.Config)
create = jax.jit(training.create, static_argnums=(1, 2))


class Trained(NamedTuple):
    """A network on scaled inputs, the config of its checkpoint, and what the hooks of its training carried."""

    model: nn.Model
    variables: Variables
    config: dict[str, Any]
    carries: dict[str, Any]


def adopt(config: C) -> C:
    """The flags with which the network at --checkpoint was trained, so that the same wrong labels are planted."""
    seeds = checkpoint.seeds(config.checkpoint)
    _, _, saved = checkpoint.load_model(config.checkpoint, seed=seeds[0], epoch=config.epoch)
    kwargs = saved["model"]["kwargs"]
    same = {"data": saved["data"], "samples": saved["samples"], "model": saved["model"]["name"]}
    same |= {name: saved["recipe"][name] for name in SAVED_RECIPE} | saved["corruption"]
    own = "classes", "dtype", "widths"  # the rest are further arguments
    same |= {"dtype": kwargs.get("dtype", "float32"), "widths": tuple(kwargs.get("widths", ()))}
    same |= {"network_args": tuple(f"{name}={json.dumps(kwargs[name])}" for name in kwargs if name not in own)}
    known = {field.name for field in dataclasses.fields(config)}
    if lost := {name: value for name, value in same.items() if name not in known and value}:
        raise ValueError(f"the network at {config.checkpoint} was trained with {lost}, which this experiment lacks.")
    same = {name: value for name, value in same.items() if name in known}
    return dataclasses.replace(config, seed=seeds[0], seeds=len(seeds), **same)


def epoch(config: data.Config, shared: data.Setup) -> Callable:
    """One epoch by the run's recipe, the same function for every seed."""
    steps = config.epochs * (len(shared.columns["label"]) // config.batch)
    return training.train_epoch(
        shared.network, training.optimizer(shared.recipe, steps), batch=config.batch, prepare=shared.prepare
    )


def trained(
    config: data.Config, shared: data.Setup, task: data.Task, seed: int, *, hooks: Any = None,
    epoch_fn: Callable | None = None, save_every: int = 10, keep_every: int | None = None,
) -> Trained:  # fmt: skip
    """The network of one seed: loaded from --checkpoint, or trained by the run's recipe with the hooks, resumable."""
    if config.checkpoint:
        loaded = Trained(*checkpoint.load_model(config.checkpoint, seed=seed, epoch=config.epoch), {})
        check_inference(loaded.model.apply, loaded.variables, task.x[:8])
        return loaded
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    key = jax.random.fold_in(jax.random.key(seed), data.TRAIN_KEY)
    saved = data.checkpoint_config(config, shared, seed)
    state, carries = checkpoint.resumable_fit(
        f"{config.workdir}/checkpoints/seed{seed}", epoch_fn or epoch(config, shared),
        create(key, shared.network, tx, task.x[:1]), (task.image, task.label), epochs=config.epochs, config=saved,
        hooks=hooks, save_every=save_every, keep_every=keep_every, label=f"seed {seed}",
    )  # fmt: skip
    return Trained(shared.network, training.variables(state), saved, carries)


def save_edited(config: data.Config, seed: int, original: Trained, variables: Variables, **edit: Any) -> None:
    """Write the edited network to <workdir>/edited: a checkpoint of the same model, with one more entry in `edits`."""
    state = training.TrainState(jax.numpy.int32(0), **variables, opt_state={}, key=jax.random.key(seed))
    saved = original.config | {"edits": [*original.config["edits"], edit | {"seed": seed}]}
    epoch = saved.pop("epoch", saved["recipe"]["epochs"])
    with checkpoint.manager(f"{config.workdir}/edited/seed{seed}") as to:
        if epoch not in to.all_steps():  # a resumed run wrote it before
            checkpoint.save(to, epoch, state, config=saved)
