"""One seed: the classifier, its spiking networks by encoder and number of steps, what each reaches and costs."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.spiking_dct import methods
from experiments.spiking_dct.methods import Setting
from subspace_jax import data, nn, training
from subspace_jax.spiking import encode, energy, network, thresholds
from subspace_jax.spiking.network import Spiking

if TYPE_CHECKING:
    from experiments.spiking_dct.experiment import Config

CALL = 8000  # samples times steps of a call, at most, where networks are evaluated
DRAWS = 3  # of Poisson spikes, over which an evaluation is averaged
ENCODE_KEY, TUNE_KEY = 10, 11  # folded into the seed's key
Arrays = dict[str, np.ndarray]


class Run(NamedTuple):
    """What the spiking networks of one seed share: samples, limits of the DCT's accumulators, the seed's key."""

    config: Config
    task: classifier.Task
    test_index: np.ndarray
    limits: tuple[float, float]
    key: Any


def setup(config: Config) -> classifier.Setup:
    """The data with images in [-1, 1], blocks expanded; the recipe is the classifier's."""
    own = classic(config)
    shared = classifier.setup(own)
    if shared.columns.get("image") is None or shared.columns["image"].ndim != 4:
        raise ValueError(f"--data {config.data} has no images: frequencies are those of images.")
    cut = {"block": config.block, "stride": config.stride}
    columns, test = (
        {**part, "image": np.asarray(encode.expand(part["image"], **cut))} for part in (shared.columns, shared.test)
    )
    channels = columns["image"].shape[-1]
    scaling = data.Scaling(shared.scaling.divisor, (0.5,) * channels, (0.5,) * channels)
    prepare = training.prepare(scaling, augment=False)
    return shared._replace(columns=columns, test=test, scaling=scaling, prepare=prepare)


def classic(config: Config) -> Config:
    """The flags of the classifier's training: its own number of epochs."""
    return dataclasses.replace(config, epochs=config.ann_epochs)


def setting(config: Config, encoder: str, steps: int, *, order: Any = None, keep: int | None = None) -> Setting:
    return Setting(
        encoder, steps, order or config.order, config.leak, config.block, config.surrogate, config.dropout,
        config.dtype, keep,
    )  # fmt: skip


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> Arrays:
    """All arrays of one seed, read back where they are there."""
    return runner.stage(config, f"seed{seed}", functools.partial(computed, config, shared, seed))


def computed(config: Config, shared: classifier.Setup, seed: int) -> dict[str, Any]:
    """Train or load the classifier; convert, tune and evaluate; count."""
    task = classifier.task(config, shared, seed)
    net = classifier.trained(classic(config), shared, task, seed)
    snn = network.spiking(net.model, net.variables)
    frames = encode.dct_frames(task.x[: config.calibration], block=config.block, stride=config.block)
    key = jax.random.fold_in(jax.random.key(seed), ENCODE_KEY)
    run = Run(config, task, shared.test["index"], encode.encoder_thresholds(frames), key)
    found: dict[str, Any] = {"accuracy/ann": float(training.evaluate(net.model.apply, net.variables, task.test_x,
                                                                     task.test_label))}  # fmt: skip
    for encoder in config.encoder:
        if encoder != "direct":
            found |= main_course(run, snn, encoder)
    for name in budgets(config):
        encoder, steps = name.split("_")
        own = setting(config, encoder, int(steps), order="update_first")
        rows, tuned = course(run, snn, own, name)
        found |= evaluated(run, tuned, rows, own, name)
    return found


def budgets(config: Config) -> list[str]:
    """The budgets of the encoders that are asked for."""
    return [name for name in config.budgets if name.split("_")[0] in config.encoder]


def main_course(run: Run, snn: Spiking, encoder: str) -> dict[str, Any]:
    """Converted and tuned at --timesteps; of the DCT also with fewer frequencies, rates, thresholds and pictures."""
    config = run.config
    own = setting(config, encoder, config.timesteps)
    rows = balanced(run, snn, own)
    found = evaluated(run, snn, rows, own, f"{encoder}_conversion")
    tuned = tune(run, snn, rows, own, encoder)
    found |= evaluated(run, tuned, rows, own, encoder, spikes=True)
    if encoder != "dct":
        return found
    for keep in config.keep:
        found |= evaluated(run, tuned, rows, own._replace(steps=keep, keep=keep), f"keep_{keep}")
    for keep in config.swept:
        found |= evaluated(run, tuned, rows, own._replace(keep=keep), f"keep_{keep}_at_{config.timesteps}")
    for row in rows:
        found |= {f"{kind}/{row.path}": getattr(row, kind) for kind in ("threshold", "largest", "rate", "dead")}
    return found | pictures(run, tuned, rows, own)


def course(run: Run, snn: Spiking, own: Setting, name: str) -> tuple[list[Any], Spiking]:
    """Thresholds of a setting, and the network tuned with it."""
    rows = balanced(run, snn, own)
    return rows, tune(run, snn, rows, own, name)


def balanced(run: Run, snn: Spiking, own: Setting) -> list[thresholds.Threshold]:
    """The thresholds, on the first training samples."""
    count = run.config.calibration
    frames = methods.encoded(own, run.key, run.task.x[:count], run.task.index[:count], jnp.asarray(run.limits))
    return thresholds.balance(snn, frames, order=own.order, leak=own.leak, hold=own.hold)


def volts(rows: list[Any]) -> jax.Array:
    return jnp.asarray([row.threshold for row in rows], jnp.float32)


def tune(run: Run, snn: Spiking, rows: list[Any], own: Setting, name: str) -> Spiking:
    """All weights by back-propagation through time; thresholds stay."""
    config, task = run.config, run.task
    tuned = training.minimise(
        jax.random.fold_in(run.key, TUNE_KEY), methods.objective(own, snn.layers, snn.apply),
        methods.adam(config.tuning_lr, config.tuning_decay), {"params": snn.params, "batch_stats": {}},
        [(task.x, task.label)], steps=config.epochs * (len(task.x) // config.batch), batch=config.batch,
        constants=(volts(rows), jnp.asarray(run.limits)), label=name,
    )  # fmt: skip
    return snn._replace(params=tuned["params"])


def evaluated(
    run: Run, snn: Spiking, rows: list[Any], own: Setting, name: str, *, spikes: bool = False
) -> dict[str, Any]:
    """Accuracy and energy ratios on the test set, of Poisson spikes the mean over draws; the exact count is checked."""
    program = methods.evaluation(own._replace(dropout=0.0), snn.layers, snn.apply)
    x, label, index, total, right = run.task.test_x, run.task.test_label, run.test_index, {}, 0.0
    draws = DRAWS if own.encoder == "poisson" else 1
    for draw in range(draws):
        key = jax.random.fold_in(run.key, draw)
        for part in np.array_split(np.arange(len(x)), -(-len(x) * own.steps // CALL)):
            logits, read = program(snn.params, volts(rows), jnp.asarray(run.limits), key, x[part], index[part])
            right += float((np.asarray(logits).argmax(1) == label[part]).sum())
            total = {path: total.get(path, 0.0) + np.asarray(count, np.float64) for path, count in read.items()}
    mean = {path: count / (draws * len(x)) for path, count in total.items()}
    check(snn, mean)
    analog = own.steps if own.encoder == "direct" else 0
    ratio = {count: energy.spiking_energy(snn, mean, count=count, analog_steps=analog).ratio  # type: ignore[arg-type]
             for count in ("events", "rate")}  # fmt: skip
    found = {
        f"accuracy/{name}": right / (draws * len(x)),
        f"energy_ratio/{name}": ratio["events"],
        f"energy_ratio_rate/{name}": ratio["rate"],
    }
    if own.encoder == "direct":
        found[f"energy_ratio/{name}_once"] = energy.spiking_energy(snn, mean, analog_steps=1).ratio
    if spikes:
        found[f"spikes_per_pixel/{own.encoder}"] = float(mean[snn.layers[0].path].mean())
    return found


def check(snn: Spiking, mean: Arrays) -> None:
    """The count of events from positions is that of a product with ones."""
    kernels = {layer.path: snn.params[layer.path.split("/")[0]]["kernel"].shape for layer in snn.layers}
    slow = energy.events_by_product(snn, mean)
    for layer in snn.layers:
        fast = energy.events(layer, kernels[layer.path], mean[layer.path])
        np.testing.assert_allclose(fast, slow[layer.path], rtol=1e-4, err_msg=f"additions of {layer.path}")


def pictures(run: Run, snn: Spiking, rows: list[Any], own: Setting) -> dict[str, Any]:
    """The first test image: frames, spikes, and what each layer reads at each step."""
    x, limits = jnp.asarray(run.task.test_x[:1]), jnp.asarray(run.limits)
    frames = encode.dct_frames(x, block=own.block, stride=own.block)
    spikes = encode.dct_encode(frames, *run.limits, steps=own.steps)
    read = network.trace(snn, volts(rows), methods.encoded(own, run.key, x, run.test_index[:1], limits),
                         leak=own.leak, order=own.order)  # fmt: skip
    shown = {f"raster/{path}": np.asarray(own)[:, 0].reshape(own.shape[0], -1) for path, own in read.items()}
    return {"frames": frames[:, 0], "spikes": spikes[:, 0], "image": x[0]} | shown


def layers(config: Config, shared: classifier.Setup) -> list[str]:
    """Names of the layers; refuses a network that cannot spike before anything is trained."""
    one = jax.ShapeDtypeStruct((1, *data.inputs(shared.columns).shape[1:]), "float32")
    made = nn.build(config.model, **classifier.network_arguments(config, shared.classes))
    snn = network.spiking(made, jax.eval_shape(made.init, jax.random.key(0), one))
    for steps in (config.timesteps, *config.keep):
        network.check_steps(snn, steps, config.order)
    return [layer.path.removesuffix("/kernel") for layer in snn.layers]
