"""One seed: the base network measured, every narrower one trained, time steps, bits and noise swept."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier, spiking
from experiments.families.spiking import Run, Setting
from experiments.harness import runner
from experiments.spiking_pruning import methods
from experiments.spiking_pruning.methods import Design
from subspace_jax import checkpoint, data, nn, training, trees
from subspace_jax.core import costs, moments
from subspace_jax.core.moments import Moments
from subspace_jax.core.subspace import significant_dims
from subspace_jax.spiking import energy, network, pruning, temporal_pruning
from subspace_jax.spiking.network import Spiking

if TYPE_CHECKING:
    from experiments.spiking_pruning.experiment import Config

FRESH = 100  # added to the seed for the initial values of a narrower network
RANK = 1e-6  # of the largest eigenvalue, below which one is rounding of float32 potentials
Arrays = dict[str, np.ndarray]


def setup(config: Config) -> classifier.Setup:
    """The data with images in [-1, 1]; the recipe is the classifier's."""
    shared = classifier.setup(spiking.classic(config))
    if shared.columns.get("image") is None or shared.columns["image"].ndim != 4:
        raise ValueError(f"--data {config.data} has no images: convolutions read images.")
    if len(shared.columns["label"]) < config.counted:
        raise ValueError(
            f"--counted {config.counted}: there are {len(shared.columns['label'])} training samples; lower it."
        )
    return spiking.scaled(shared)


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> Arrays:
    """All arrays of one seed, each network read back where it is there."""
    task = classifier.task(config, shared, seed)
    key = jax.random.fold_in(jax.random.key(seed), spiking.ENCODE_KEY)
    run = Run(config, task, shared.test["index"], (0.0, 0.0), key)
    net = classifier.trained(spiking.classic(config), shared, task, seed)

    def stage(name: str, compute: Any, *arguments: Any) -> Arrays:
        return runner.stage(config, f"seed{seed}_{name}", functools.partial(compute, run, shared, *arguments))

    found = stage("base", base, net, seed)
    snn = network.spiking(net.model, net.variables)
    wanted = methods.designs(config, snn, read_moments(found), key)
    for name, design in wanted.items():
        own = stage(name, narrow, seed, name, design)
        found = found | {key: value for key, value in own.items() if not key.startswith(("params/", "volts"))}
    first = f"tau_{config.tau[0]}"
    if len(config.timesteps) > 1:
        found = found | stage("steps", shorter, stage(first, narrow, seed, first, wanted[first]), wanted[first])
    return compared(found)


def base(run: Run[Config], shared: classifier.Setup, net: classifier.Trained, seed: int) -> dict[str, Any]:
    """The classifier converted and tuned; its potentials, bits, noise, rates and one sample's spikes."""
    config, own = run.config, at(run.config, run.config.timesteps[0])
    snn = network.spiking(net.model, net.variables)
    rows = spiking.balanced(run, snn, own)
    volts, tuned = spiking.volts(rows), spiking.tune(run, snn, spiking.volts(rows), own, "base")
    found = {"accuracy/ann": classified(run, net.model, net.variables)} | told(run, tuned, volts, own, "base")
    potentials = measured(run, tuned, volts, own)
    found |= written(potentials[config.accumulate]) | dimensions(config, potentials, "dims")
    if "untrained" in config.controls:
        found |= untrained(run, shared, own, seed)
    for bits in config.bits:
        few = tuned._replace(params=pruning.quantise_weights(tuned.params, bits))
        found[f"accuracy/bits_{bits}"], _ = spiking.measured(run, few, volts, own)
    found |= swept(run, net.model, net.variables, tuned, volts, own, ("ann", "base"))
    for path, kernel in trees.flatten(tuned.params).items():
        found[f"fan_in/{path}"] = kernel.size // kernel.shape[-1]
    for row in rows:
        found |= {f"{kind}/{row.path}": getattr(row, kind) for kind in ("threshold", "largest", "rate", "dead")}
    x, index = jnp.asarray(run.task.test_x[:1]), run.test_index[:1]
    read = network.trace(
        tuned, volts, spiking.encoded(own, run.key, x, index, jnp.zeros(2)), leak=own.leak, order=own.order
    )
    return found | {f"raster/{path}": np.asarray(one)[:, 0].reshape(len(one), -1) for path, one in read.items()}


def untrained(run: Run[Config], shared: classifier.Setup, own: Setting, seed: int) -> dict[str, Any]:
    """Counts of the network before its classifier was trained, with thresholds of its own."""
    tx = training.optimizer(shared.recipe, 1)
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    fresh = training.variables(classifier.create(key, shared.network, tx, run.task.x[:1]))
    snn = network.spiking(shared.network, fresh)
    volts = spiking.volts(spiking.balanced(run, snn, own))
    return dimensions(run.config, measured(run, snn, volts, own), "dims_untrained")


def narrow(run: Run[Config], shared: classifier.Setup, seed: int, name: str, design: Design) -> dict[str, Any]:
    """Another network by the whole recipe, classifier first; of the first design also what noise does to it."""
    config, own = run.config, at(run.config, run.config.timesteps[0])
    less = dataclasses.replace(spiking.classic(config), widths=design.widths)
    made = shared._replace(network=nn.build(less.model, **classifier.network_arguments(less, shared.classes)))
    tx = training.optimizer(shared.recipe, less.epochs * (len(run.task.x) // less.batch))
    key = jax.random.fold_in(jax.random.key(seed + FRESH), classifier.TRAIN_KEY)
    state = classifier.create(key, made.network, tx, run.task.x[:1])
    state = state._replace(params=design.start()) if design.start else state
    state, _ = checkpoint.resumable_fit(
        f"{config.workdir}/designs/{name}/checkpoints/seed{seed}", classifier.epoch(less, made), state,
        (run.task.image, run.task.label), epochs=less.epochs, config=classifier.checkpoint_config(less, made, seed),
        label=f"seed {seed}, {name}",
    )  # fmt: skip
    variables = training.variables(state)
    snn = network.spiking(made.network, variables)
    volts = spiking.volts(spiking.balanced(run, snn, own))
    tuned = spiking.tune(run, snn, volts, own, name)
    found = told(run, tuned, volts, own, name)
    found |= {f"accuracy_ann/{name}": classified(run, made.network, variables), f"widths/{name}": design.widths}
    if name == f"tau_{config.tau[0]}":
        found |= swept(run, made.network, variables, tuned, volts, own, ("ann_pruned", "pruned"))
    kept = {"tuned": tuned.params, "converted": snn.params}
    leaves = {f"params/{kind}/{path}": leaf for kind, own in kept.items() for path, leaf in trees.flatten(own).items()}
    return found | leaves | {"volts": volts}


def shorter(run: Run[Config], shared: classifier.Setup, arrays: Arrays, design: Design) -> dict[str, Any]:
    """The first design at fewer time steps: annealed, trained there at once, and as it is."""
    config = run.config
    less = dataclasses.replace(config, widths=design.widths)
    model = nn.build(less.model, **classifier.network_arguments(less, shared.classes))
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(run.task.x[:1]))["params"]

    def read(kind: str) -> Spiking:
        return network.spiking(
            model, {"params": trees.map_with_path(lambda path, _: arrays[f"params/{kind}/{path}"], like)}
        )

    tuned, converted = read("tuned"), read("converted")
    volts, found = jnp.asarray(arrays["volts"]), {}

    def train(key: Any, params: Any, volts: Any, steps: int, samples: Any) -> Any:
        own = run._replace(key=key, task=run.task._replace(x=samples[0], label=samples[1]))
        started = tuned._replace(params=params)
        return spiking.tune(own, started, volts, at(config, steps), "annealed", epochs=config.stage_epochs).params

    method = temporal_pruning.shorten(tuned, volts, config.timesteps[1:], train, order=config.order)
    state = method.init(run.key, {"params": tuned.params})
    for stage, steps in enumerate(config.timesteps[1:], 1):
        own = at(config, steps)
        state, _ = method.step(jax.random.fold_in(run.key, stage), state, (run.task.x, run.task.label))
        epochs = config.epochs + stage * config.stage_epochs
        direct = spiking.tune(run, converted, volts, own, f"direct_{steps}", epochs=epochs)
        found |= told(run, tuned._replace(params=state.params), state.thresholds, own, f"annealed_{steps}")
        found |= told(run, direct, volts, own, f"direct_{steps}") | told(run, tuned, volts, own, f"untuned_{steps}")
    return found


def told(run: Run[Config], snn: Spiking, volts: Any, own: Setting, name: str) -> dict[str, Any]:
    """What is said of every network."""
    found, mean = spiking.evaluated(run, snn, volts, own, name)
    hidden = [mean[layer.path] for layer in snn.layers[1:]]
    spikes, neurons = sum(own.sum() for own in hidden), sum(own.size for own in hidden)
    return found | {
        f"spikes/{name}": spikes,
        f"spikes_per_neuron/{name}": spikes / neurons,
        f"macs/{name}": sum(energy.layer_macs(snn, mean).values()),
        f"parameters/{name}": costs.parameters(snn.params),
    }


def compared(found: Arrays) -> Arrays:
    """The same with every network's size and energy beside those of the base network and its classifier."""
    more: dict[str, Any] = {}
    for name in (key.removeprefix("macs/") for key in found if key.startswith("macs/")):
        more[f"parameters_ratio/{name}"] = found[f"parameters/{name}"] / found["parameters/base"]
        more[f"energy_ratio_unpruned/{name}"] = (
            found[f"energy_ratio/{name}"] * found["macs/base"] / found[f"macs/{name}"]
        )
    return found | more


def measured(run: Run[Config], snn: Spiking, volts: Any, own: Setting) -> dict[str, dict[str, Moments]]:
    """{mode: {path: moments of the potentials}} over the first --counted training samples."""
    program = methods.potentials(own, snn.layers, snn.apply)
    parts = np.array_split(np.arange(run.config.counted), -(-run.config.counted * own.steps // spiking.CALL))
    batches = [program(snn.params, volts, run.key, run.task.x[part], run.task.index[part]) for part in parts]
    return {mode: pruning.channel_moments(batch[mode] for batch in batches) for mode in methods.MODES}


def dimensions(config: Config, potentials: dict[str, dict[str, Moments]], name: str) -> dict[str, Any]:
    """Counts of the chosen potential, its rank and spectrum; counts of the others beside them."""
    found: dict[str, Any] = {}
    for path, own in potentials[config.accumulate].items():
        values = np.linalg.eigvalsh(moments.covariance(own))[::-1]
        found[f"spectrum_{name}/{path}"] = values
        if name == "dims":
            found[f"rank/{path}"] = int((values > RANK * values[0]).sum())
    for mode, of in potentials.items():
        for path, own in of.items():
            values = np.linalg.eigvalsh(moments.covariance(own))
            for tau in config.tau:
                key = (
                    f"{name}/{path}/tau_{tau}" if mode == config.accumulate else f"mode_{mode}/{name}/{path}/tau_{tau}"
                )
                found[key] = int(significant_dims(values, tau=tau))
    return found


def written(measured: dict[str, Moments]) -> dict[str, Any]:
    """Moments as arrays of a stage."""
    return {
        f"moments/{path}/{field}": value for path, own in measured.items() for field, value in own._asdict().items()
    }


def read_moments(arrays: Arrays) -> dict[str, Moments]:
    """The moments that `written` wrote."""
    paths = [key.removeprefix("moments/").removesuffix("/gram") for key in arrays
             if key.startswith("moments/") and key.endswith("/gram")]  # fmt: skip
    return {path: Moments(*(arrays[f"moments/{path}/{field}"] for field in Moments._fields)) for path in paths}


def swept(
    run: Run[Config], model: nn.Model, variables: Any, snn: Spiking, volts: Any, own: Setting, names: tuple[str, str]
) -> dict[str, Any]:
    """Accuracy of a classifier and its spiking network on the same noisy images."""
    found = {}
    for sigma in run.config.pixel_noise:
        draws = [classified(run, model, variables, spiking.noisy(run, draw, sigma)) for draw in range(spiking.DRAWS)]
        found[f"accuracy_noise/{sigma}/{names[0]}"] = float(np.mean(draws))
        found[f"accuracy_noise/{sigma}/{names[1]}"], _ = spiking.measured(run, snn, volts, own, sigma=sigma)
    return found


def classified(run: Run[Config], model: nn.Model, variables: Any, x: Any = None) -> float:
    """Accuracy of a classifier on the test images."""
    return float(training.evaluate(model.apply, variables, run.task.test_x if x is None else x, run.task.test_label))


def at(config: Config, steps: int) -> Setting:
    """Poisson spikes for so many steps."""
    return spiking.setting(config, "poisson", steps)


def layers(config: Config, shared: classifier.Setup) -> list[str]:
    """Names of the layers; refuses a network that cannot spike before anything is trained."""
    one = jax.ShapeDtypeStruct((1, *data.inputs(shared.columns).shape[1:]), "float32")
    snn = network.spiking(shared.network, jax.eval_shape(shared.network.init, jax.random.key(0), one))
    network.check_steps(snn, config.timesteps[-1], config.order)
    return [layer.path.removesuffix("/kernel") for layer in snn.layers]
