"""One seed: the classifier, its spiking networks by encoder and number of steps, what each reaches and costs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier, spiking
from experiments.families.spiking import Run, Setting
from experiments.harness import runner
from subspace_jax import data, nn, training
from subspace_jax.spiking import encode, network
from subspace_jax.spiking.network import Spiking

if TYPE_CHECKING:
    from experiments.spiking_dct.experiment import Config

Arrays = dict[str, np.ndarray]


def setup(config: Config) -> classifier.Setup:
    """The data with images in [-1, 1], blocks expanded; the recipe is the classifier's."""
    shared = classifier.setup(spiking.classic(config))
    if shared.columns.get("image") is None or shared.columns["image"].ndim != 4:
        raise ValueError(f"--data {config.data} has no images: frequencies are those of images.")
    cut = {"block": config.block, "stride": config.stride}
    columns, test = (
        {**part, "image": np.asarray(encode.expand(part["image"], **cut))} for part in (shared.columns, shared.test)
    )
    return spiking.scaled(shared._replace(columns=columns, test=test))


def setting(config: Config, encoder: str, steps: int, **rest: Any) -> Setting:
    """Blocks as the run's flags cut them."""
    return spiking.setting(config, encoder, steps, block=config.block, per_batch=config.per_batch, **rest)


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> Arrays:
    """All arrays of one seed, read back where they are there."""
    return runner.stage(config, f"seed{seed}", functools.partial(computed, config, shared, seed))


def computed(config: Config, shared: classifier.Setup, seed: int) -> dict[str, Any]:
    """Train or load the classifier; convert, tune and evaluate; count."""
    task = classifier.task(config, shared, seed)
    net = classifier.trained(spiking.classic(config), shared, task, seed)
    snn = network.spiking(net.model, net.variables)
    frames = encode.dct_frames(task.x[: config.calibration], block=config.block, stride=config.block)
    key = jax.random.fold_in(jax.random.key(seed), spiking.ENCODE_KEY)
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
        found |= reached(run, tuned, rows, own, name)
    return found


def budgets(config: Config) -> list[str]:
    """The budgets of the encoders that are asked for."""
    return [name for name in config.budgets if name.split("_")[0] in config.encoder]


def main_course(run: Run[Config], snn: Spiking, encoder: str) -> dict[str, Any]:
    """Converted and tuned at --timesteps; of the DCT also with fewer frequencies, rates, thresholds and pictures."""
    config = run.config
    own = setting(config, encoder, config.timesteps)
    rows = spiking.balanced(run, snn, own)
    found = reached(run, snn, rows, own, f"{encoder}_conversion")
    tuned = spiking.tune(run, snn, spiking.volts(rows), own, encoder)
    found |= reached(run, tuned, rows, own, encoder, spikes=True)
    if encoder != "dct":
        return found
    for keep in config.keep:
        found |= reached(run, tuned, rows, own._replace(steps=keep, keep=keep), f"keep_{keep}")
    for keep in config.swept:
        found |= reached(run, tuned, rows, own._replace(keep=keep), f"keep_{keep}_at_{config.timesteps}")
    for row in rows:
        found |= {f"{kind}/{row.path}": getattr(row, kind) for kind in ("threshold", "largest", "rate", "dead")}
    return found | pictures(run, tuned, rows, own)


def course(run: Run[Config], snn: Spiking, own: Setting, name: str) -> tuple[list[Any], Spiking]:
    """Thresholds of a setting, and the network tuned with it."""
    rows = spiking.balanced(run, snn, own)
    return rows, spiking.tune(run, snn, spiking.volts(rows), own, name)


def reached(
    run: Run[Config], snn: Spiking, rows: list[Any], own: Setting, name: str, *, spikes: bool = False
) -> dict[str, Any]:
    """What a network reaches and costs, by its name."""
    found, mean = spiking.evaluated(run, snn, spiking.volts(rows), own, name)
    return found | ({f"spikes_per_pixel/{own.encoder}": float(mean[snn.layers[0].path].mean())} if spikes else {})


def pictures(run: Run[Config], snn: Spiking, rows: list[Any], own: Setting) -> dict[str, Any]:
    """The first test image: frames, spikes, and what each layer reads at each step."""
    x, limits = jnp.asarray(run.task.test_x[:1]), jnp.asarray(run.limits)
    frames = encode.dct_frames(x, block=own.block, stride=own.block)
    spikes = encode.dct_encode(frames, *run.limits, steps=own.steps)
    read = network.trace(snn, spiking.volts(rows), spiking.encoded(own, run.key, x, run.test_index[:1], limits),
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
