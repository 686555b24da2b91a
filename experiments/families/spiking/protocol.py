"""From a trained classifier to a tuned spiking network: flags, thresholds, tuning, accuracy and energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.families.spiking import methods
from experiments.families.spiking.methods import Setting
from subspace_jax import data, training
from subspace_jax.spiking import energy, thresholds
from subspace_jax.spiking.network import Spiking

CALL = 8000  # samples times steps of a call, at most, where networks are evaluated
DRAWS = 3  # of Poisson spikes, over which an evaluation is averaged
ENCODE_KEY, TUNE_KEY, NOISE_KEY = 10, 11, 12  # folded into the seed's key


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Flags of the experiments that convert one classifier into spiking networks."""

    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    network_args: tuple[str, ...] = ("use_bias=false", 'pool="average"')
    """Further arguments of the network as NAME=VALUE."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser of the classifier."""
    lr: float = 2e-3
    """Learning rate of the classifier."""
    weight_decay: float = 0.0
    """L2 penalty of the classifier."""
    ann_epochs: int = 15
    """Passes over the training set for the classifier."""
    epochs: int = 10
    """Passes for each spiking network."""
    tuning_lr: float = 1e-3
    """Learning rate of the spiking networks (Adam)."""
    tuning_decay: float = 0.0
    """L2 penalty of the spiking networks."""
    order: Literal["spike_first", "update_first"] = "spike_first"
    """Whether a neuron fires before the drive of its step arrives, one step later, or after it."""
    leak: float = 0.9901
    """Share of the membrane that stays from step to step."""
    surrogate: Literal["triangle", "sigmoid", "arctan"] = "triangle"
    """Derivative of a spike."""
    dropout: float = 0.0
    """Share of neurons dropped while tuning, the same ones at every step."""
    calibration: int = 512
    """Training samples from which thresholds are read."""


C = TypeVar("C", bound=Config)


class Run(NamedTuple, Generic[C]):
    """What the spiking networks of one seed share: samples, limits of the DCT's accumulators, the seed's key."""

    config: C
    task: classifier.Task
    test_index: np.ndarray
    limits: tuple[Any, Any]
    key: Any


def adopt(config: C, preset: C) -> C:
    """The flags of the classifier at --checkpoint; --epochs stays what it is, those of the spiking networks."""
    found = classifier.adopt(dataclasses.replace(config, epochs=preset.epochs))
    return dataclasses.replace(found, ann_epochs=found.epochs, epochs=config.epochs)


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    if not 0 < config.leak <= 1 or not 0 <= config.dropout < 1 or min(config.calibration, config.epochs) < 1:
        raise ValueError(
            "--leak is in (0, 1], --dropout in [0, 1), --calibration and --epochs are at least 1; got "
            f"{config.leak}, {config.dropout}, {config.calibration} and {config.epochs}."
        )


def classic(config: C) -> C:
    """The flags of the classifier's training: its own number of epochs."""
    return dataclasses.replace(config, epochs=config.ann_epochs)


def scaled(shared: classifier.Setup) -> classifier.Setup:
    """The same images in [-1, 1]."""
    channels = shared.columns["image"].shape[-1]
    scaling = data.Scaling(shared.scaling.divisor, (0.5,) * channels, (0.5,) * channels)
    return shared._replace(scaling=scaling, prepare=training.prepare(scaling, augment=False))


def setting(
    config: Config, encoder: str, steps: int, *, order: Any = None, block: int = 0, per_batch: bool = False
) -> Setting:
    """How a network spikes by the run's flags."""
    return Setting(
        encoder, steps, order or config.order, config.leak, block, config.surrogate, config.dropout, config.dtype,
        per_batch=per_batch,
    )  # fmt: skip


def balanced(run: Run, snn: Spiking, own: Setting) -> list[thresholds.Threshold]:
    """The thresholds, on the first training samples."""
    count = run.config.calibration
    frames = methods.encoded(own, run.key, run.task.x[:count], run.task.index[:count], jnp.asarray(run.limits))
    return thresholds.balance(snn, frames, order=own.order, leak=own.leak, hold=own.hold)


def volts(rows: Sequence[thresholds.Threshold]) -> jax.Array:
    """The thresholds as an array."""
    return jnp.asarray([row.threshold for row in rows], jnp.float32)


def tune(run: Run, snn: Spiking, threshold: Any, own: Setting, name: str, *, epochs: int | None = None) -> Spiking:
    """All weights by back-propagation through time; thresholds stay."""
    config, task = run.config, run.task
    tuned = training.minimise(
        jax.random.fold_in(run.key, TUNE_KEY), methods.objective(own, snn.layers, snn.apply),
        methods.adam(config.tuning_lr, config.tuning_decay), {"params": snn.params, "batch_stats": {}},
        [(task.x, task.label)], steps=(epochs or config.epochs) * (len(task.x) // config.batch), batch=config.batch,
        constants=(threshold, jnp.asarray(run.limits)), label=name,
    )  # fmt: skip
    return snn._replace(params=tuned["params"])


def measured(
    run: Run, snn: Spiking, threshold: Any, own: Setting, *, sigma: float = 0.0
) -> tuple[float, dict[str, np.ndarray]]:
    """Accuracy on the test set and mean spikes that each layer reads; of Poisson spikes the mean over draws."""
    program = methods.evaluation(own._replace(dropout=0.0), snn.layers, snn.apply)
    label, index, right = run.task.test_label, run.test_index, 0.0
    total: dict[str, Any] = {}
    draws = DRAWS if own.encoder == "poisson" else 1
    for draw in range(draws):
        key, x = jax.random.fold_in(run.key, draw), noisy(run, draw, sigma)
        for part in np.array_split(np.arange(len(x)), -(-len(x) * own.steps // CALL)):
            logits, read = program(snn.params, threshold, jnp.asarray(run.limits), key, x[part], index[part])
            right += float((np.asarray(logits).argmax(1) == label[part]).sum())
            total = {path: total.get(path, 0.0) + np.asarray(count, np.float64) for path, count in read.items()}
    return right / (draws * len(label)), {path: count / (draws * len(label)) for path, count in total.items()}


def noisy(run: Run, draw: int, sigma: float) -> Any:
    """The scaled test images with normal noise, clipped to [-1, 1] again: the same for every network."""
    x = run.task.test_x
    if not sigma:
        return x
    key = jax.random.fold_in(jax.random.fold_in(run.key, NOISE_KEY), draw)
    return np.clip(np.asarray(x + sigma * jax.random.normal(key, np.shape(x)), np.float32), -1, 1)


def evaluated(
    run: Run, snn: Spiking, threshold: Any, own: Setting, name: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Accuracy and energy ratios by name, and the mean spikes behind them; the exact count is checked."""
    accuracy, mean = measured(run, snn, threshold, own)
    check_events(snn, mean)
    analog = own.steps if own.encoder == "direct" else 0
    ratio = {count: energy.spiking_energy(snn, mean, count=count, analog_steps=analog).ratio  # type: ignore[arg-type]
             for count in ("events", "rate")}  # fmt: skip
    found = {
        f"accuracy/{name}": accuracy,
        f"energy_ratio/{name}": ratio["events"],
        f"energy_ratio_rate/{name}": ratio["rate"],
    }
    if own.encoder == "direct":
        found[f"energy_ratio/{name}_once"] = energy.spiking_energy(snn, mean, analog_steps=1).ratio
    return found, mean


def check_events(snn: Spiking, mean: dict[str, np.ndarray]) -> None:
    """The count of events from positions is that of a product with ones."""
    kernels = {layer.path: snn.params[layer.path.split("/")[0]]["kernel"].shape for layer in snn.layers}
    slow = energy.events_by_product(snn, mean)
    for layer in snn.layers:
        fast = energy.events(layer, kernels[layer.path], mean[layer.path])
        np.testing.assert_allclose(fast, slow[layer.path], rtol=1e-4, err_msg=f"additions of {layer.path}")
