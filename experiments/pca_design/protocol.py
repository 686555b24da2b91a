"""One seed: the full network measured, trained and untrained, then every smaller network trained once."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.pca_design import methods
from experiments.pca_design.methods import Network
from subspace_jax import checkpoint, nn, training
from subspace_jax.compression import pca_design
from subspace_jax.compression.pca_design import Design, LayerSpectrum
from subspace_jax.core import capture, costs
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.pca_design.experiment import Config

CALL = 500  # images a call, at most, where responses are measured
FRESH = 100  # added to the seed for the initial values of a design
CHANCE = 1.5  # times the accuracy of guessing, up to which a network counts as untrained
Arrays = dict[str, np.ndarray]


class Found(NamedTuple):
    """One seed: spectra of the trained and the untrained network, the designs, and {network: what came of it}."""

    seed: int
    measured: list[LayerSpectrum]
    untrained: list[LayerSpectrum]
    designs: dict[str, Design]
    networks: dict[str, Arrays]


def one_seed(config: Config, shared: classifier.Setup, full: Network, seed: int) -> Found:
    """Measure the full network, propose, and train what is proposed and its controls."""
    task = classifier.task(config, shared, seed)

    def stage(name: str, compute: Any, *arguments: Any) -> Arrays:
        return runner.stage(config, f"seed{seed}_{name}", functools.partial(compute, config, shared, task, *arguments))

    arrays = stage("full", full_network, seed)
    table, measured = layers(shared.network, task.x), read(arrays, "trained")
    designs = methods.designs(config, measured)
    widths = {name: design.widths for name, design in designs.items()}
    widths |= methods.controls(config, table, designs, seed)
    networks = {"full": {name: arrays[name] for name in ("accuracy", "parameters", "macs", "widths")}}
    for name, own in widths.items():
        same = next((other for other in networks if other != "full" and widths[other] == own), None)
        networks[name] = networks[same] if same else stage(name, smaller, seed, name, methods.narrowed(full, own))
    untrained = read(arrays, "untrained") if "untrained" in config.controls else []
    return Found(seed, measured, untrained, designs, networks)


def full_network(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Train or load the full network; the spectra of its responses, and those of its initial values."""
    net = classifier.trained(config, shared, task, seed)
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    fresh = training.variables(classifier.create(key, net.model, tx, task.x[:1]))
    found = outcome(net.model, net.variables, task)
    if found["accuracy"] <= CHANCE / shared.classes:
        warnings.warn(
            f"accuracy {found['accuracy']:.3f} is near chance: the counts are those of an untrained network.",
            stacklevel=2,
        )
    kwargs = net.config["model"]["kwargs"] | {"dtype": "float32"}  # bfloat16 would add noise to small eigenvalues
    wide = nn.build(net.config["model"]["name"], **kwargs)
    for name, variables in {"trained": net.variables, "untrained": fresh}.items():
        found |= written(name, pca_design.spectra(wide, variables, parts(task.x)))
    return found


def smaller(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, name: str, network: Network
) -> dict[str, Any]:
    """Train another network from fresh values by the same recipe; its checkpoint opens in every experiment."""
    rest = {key: value for key, value in network.arguments.items() if key not in ("classes", "dtype", "widths")}
    own = dataclasses.replace(
        config, model=network.name, widths=tuple(network.arguments["widths"]),
        network_args=tuple(f"{key}={json.dumps(value)}" for key, value in rest.items()),
    )  # fmt: skip
    made = shared._replace(network=nn.build(own.model, **classifier.network_arguments(own, shared.classes)))
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    key = jax.random.fold_in(jax.random.key(seed + FRESH), classifier.TRAIN_KEY)
    state, _ = checkpoint.resumable_fit(
        f"{config.workdir}/designs/{name}/checkpoints/seed{seed}", classifier.epoch(own, made),
        classifier.create(key, made.network, tx, task.x[:1]), (task.image, task.label), epochs=config.epochs,
        config=classifier.checkpoint_config(own, made, seed), label=f"seed {seed}, {name}",
    )  # fmt: skip
    return outcome(made.network, training.variables(state), task)


def outcome(model: nn.Model, variables: Variables, task: classifier.Task) -> dict[str, Any]:
    """What is said of every network."""
    table = layers(model, task.x)
    return {
        "accuracy": float(training.evaluate(model.apply, variables, task.test_x, task.test_label)),
        "parameters": costs.parameters(variables["params"]),
        "macs": costs.macs(table),
        "widths": [layer.d_out for layer in table.values()][:-1],
    }


def layers(model: nn.Model, x: Any) -> capture.Layers:
    """The table of a network, for one image."""
    one = jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), "float32")
    return capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), one), one)


def parts(x: Any) -> list[Any]:
    """The images in calls of nearly equal size, so that two programs at most are compiled."""
    return np.array_split(np.asarray(x), -(-len(x) // CALL))


def written(name: str, found: list[LayerSpectrum]) -> dict[str, Any]:
    """Spectra as arrays of a stage."""
    return {f"{name}/{one.path}/{field}": value for one in found for field, value in one._asdict().items()}


def read(arrays: Arrays, name: str) -> list[LayerSpectrum]:
    """The spectra that `written` wrote."""
    paths = [key.removeprefix(f"{name}/").removesuffix("/path") for key in arrays
             if key.startswith(f"{name}/") and key.endswith("/path")]  # fmt: skip
    found = []
    for path in paths:
        own: dict[str, Any] = {field: arrays[f"{name}/{path}/{field}"] for field in LayerSpectrum._fields}
        found.append(LayerSpectrum(**{field: value if value.ndim else value.item() for field, value in own.items()}))
    return found
