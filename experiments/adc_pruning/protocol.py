"""One seed: the classifier, then every pruned network: trained on with its penalty, cut, trained on, counted."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.adc_pruning import methods
from experiments.adc_pruning.methods import Bench, Case
from experiments.families import classifier
from experiments.harness import runner
from subspace_jax import nn, training
from subspace_jax.core import capture
from subspace_jax.hardware import adc_pruning, conversion, snapping, sram
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.adc_pruning.experiment import Config

PRUNE_KEY = 10  # beside those of the classifier family
CALL = 120  # images of a batch through converters
KINDS = ("accuracy", "improvement", "improvement_weighted", "sparsity", "penalty", "accuracy_adc",
         "accuracy_adc_exact")  # fmt: skip
Arrays = dict[str, np.ndarray]


def one_seed(config: Config, shared: classifier.Setup, bench: Bench, seed: int) -> dict[str, Arrays]:
    """{network: its arrays}, read back where they are there."""
    task = classifier.task(config, classifier.own(config, shared, seed), seed)
    net = functools.cache(lambda: classifier.trained(config, shared, task, seed))
    found = runner.stage(config, f"seed{seed}_dense", lambda: dense(config, bench, task, net()))
    networks = {"dense": found}
    for bits, saved in methods.clipped(config).items():
        networks[f"clip_{bits}"] = {"accuracy": found[f"clip/{bits}"], "improvement": np.array(saved)}
    percentiles = {path: float(found[f"percentile/{path}"]) for path in bench.layers}
    for case in methods.cases(config):
        compute = functools.partial(pruned, config, shared, bench, task, seed, case, percentiles)
        networks[case.name] = runner.stage(config, f"seed{seed}_{case.name}", lambda compute=compute: compute(net()))
    return networks


def dense(config: Config, bench: Bench, task: classifier.Task, net: classifier.Trained) -> dict[str, Any]:
    """The network as it was trained, through converters of few bits; what each layer bears."""
    kernels = host(bench.layers, net.variables)
    found = counted(config, bench, {path: snapping.bins(kernel, config.rows) for path, kernel in kernels.items()})
    found |= {"accuracy": accuracy(net.model, net.variables, task), "penalty": bench.penalty(net.variables)}
    for bits in config.clip_bits:
        each = {path: np.full_like(found[f"bins/{path}"], bits) for path in kernels}
        found[f"clip/{bits}"] = converted(config, net.model, net.variables, task, each)
    percentiles = config.percentiles or tuple(scanned(config, bench, task, net).values())
    found |= {f"percentile/{path}": share for path, share in zip(kernels, percentiles, strict=True)}
    return found | {"sparsity": share_of_zeros(kernels), "zeros": pattern(kernels)}


def scanned(config: Config, bench: Bench, task: classifier.Task, net: classifier.Trained) -> dict[str, float]:
    """What each layer bears on training images."""
    x, y = task.x[: config.calibration], task.label[: config.calibration]
    apply, layers = net.model.apply, bench.layers
    return snapping.sensitivity(apply, net.variables, layers, x, y, max_drop=config.max_drop).percentiles


def pruned(
    config: Config, shared: classifier.Setup, bench: Bench, task: classifier.Task, seed: int, case: Case,
    percentiles: Mapping[str, float], net: classifier.Trained,
) -> dict[str, Any]:  # fmt: skip
    """Train on, cut, train on, save, count."""
    key = jax.random.fold_in(jax.random.key(seed), PRUNE_KEY)
    variables, history, penalty = net.variables, np.zeros(0), np.nan
    for part in filter(None, (case.before, case)):
        if part.kind:
            variables, history = regularised(config, shared, bench, task, part, jax.random.fold_in(key, 0), variables)
        penalty = bench.penalty(variables)
        variables = cut(config, shared, bench, task, part, percentiles, jax.random.fold_in(key, 1), variables)
    kernels = host(bench.layers, variables)
    bins = {path: snapping.bins(kernel, config.rows) for path, kernel in kernels.items()}
    save(config, seed, case, net, variables, kernels)
    found = counted(config, bench, bins) | {"accuracy": accuracy(net.model, variables, task)}
    if case.kind:
        found |= {"penalty": penalty, "history": history}
    if case.converted:
        bits = {path: conversion.adc_bits(own, config.rows) for path, own in bins.items()}
        found["accuracy_adc"] = converted(config, net.model, variables, task, bits)
        more = {path: own + 1 for path, own in bits.items()}
        found["accuracy_adc_exact"] = converted(config, net.model, variables, task, more)
    return found | {"sparsity": share_of_zeros(kernels), "zeros": pattern(kernels)}


def regularised(
    config: Config, shared: classifier.Setup, bench: Bench, task: classifier.Task, case: Case, key: Any,
    variables: Variables,
) -> tuple[Variables, np.ndarray]:  # fmt: skip
    """Variables after the epochs with a penalty, and its value before and after each of them.

    Raises:
      ValueError: a penalty that is no number any more.
    """
    assert case.kind
    params, per_epoch = variables["params"], len(task.label) // config.batch
    blank = jnp.full(config.prune_epochs, jnp.nan)
    params, batch_stats, _, _, watched = training.repeat(
        key, bench.steps[case.kind], (params, variables["batch_stats"], bench.prune.init(params), jnp.int32(0), blank),
        [(task.image, task.label)], steps=config.prune_epochs * per_epoch, batch=config.batch, params=params,
        constants={"strength": jnp.float32(case.strength), "per_epoch": jnp.int32(per_epoch)}, label=case.name,
    )  # fmt: skip
    after = {"params": params, "batch_stats": batch_stats}
    history = np.array([bench.penalty(variables), *watched[:-1], bench.penalty(after)])
    if not np.isfinite(history).all():
        raise ValueError(
            f"the penalty of {case.name} is {history[-1]} in epoch {np.flatnonzero(~np.isfinite(history))[0]}: lower "
            f"its strength {case.strength:g} or --prune-lr {config.prune_lr:g}."
        )
    return after, history


def cut(
    config: Config, shared: classifier.Setup, bench: Bench, task: classifier.Task, case: Case,
    percentiles: Mapping[str, float], key: Any, variables: Variables,
) -> Variables:  # fmt: skip
    """The zeros of a case, and epochs of training that keep them."""
    made = methods.cut(config, case, host(bench.layers, variables), percentiles)
    variables = adc_pruning.write(bench.layers, variables, made.kernels)
    steps = config.finetune_epochs * (len(task.label) // config.batch)
    if not steps:
        return variables
    return training.minimise(
        key, training.mean_loss(shared.network.train_apply), bench.finetune, variables, [(task.image, task.label)],
        steps=steps, batch=config.batch, prepare=shared.prepare, label=f"{case.name}, fine-tuning",
    )  # fmt: skip


def counted(config: Config, bench: Bench, bins: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the converters of these bins save, and the bins."""
    weights = {path: float(own.rows) for path, own in bench.layers.items()}
    saved = functools.partial(conversion.improvement, bins, config.rows, model=config.adc_model)
    found: dict[str, Any] = {"improvement": saved(), "improvement_weighted": saved(weights=weights)}
    return found | {f"bins/{path}": own for path, own in bins.items()}


def converted(
    config: Config, model: nn.Model, variables: Variables, task: classifier.Task, bits: Mapping[str, np.ndarray]
) -> float:
    """Accuracy with so many bits in the converters of each tile, 4 bits of weights and inputs; the rest is digital."""
    calibration = sram.calibrate(model.apply, variables, task.x[: config.calibration])
    x, label, right = task.test_x[: config.adc_images], task.test_label[: config.adc_images], 0
    for start in range(0, len(x), CALL):
        part = slice(start, start + CALL)
        logits = conversion.run_converted(model.apply, variables, calibration, bits, x[part], rows=config.rows)
        right += int((np.asarray(logits).argmax(1) == label[part]).sum())
    return right / len(x)


def accuracy(model: nn.Model, variables: Variables, task: classifier.Task) -> float:
    """On the test set."""
    return float(training.evaluate(model.apply, variables, task.test_x, task.test_label))


def host(layers: capture.Layers, variables: Variables) -> dict[str, np.ndarray]:
    """The kernels in NumPy, in the order of execution."""
    return {path: np.asarray(kernel) for path, kernel in adc_pruning.kernels(layers, variables).items()}


def share_of_zeros(kernels: Mapping[str, np.ndarray]) -> float:
    """Of all kernels in crossbars."""
    return sum((kernel == 0).sum() for kernel in kernels.values()) / sum(kernel.size for kernel in kernels.values())


def pattern(kernels: Mapping[str, np.ndarray]) -> np.ndarray:
    """What is left of the last kernel, as crossbars hold it: (outputs, inputs)."""
    kernel = list(kernels.values())[-1]
    return np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1) != 0


def save(
    config: Config, seed: int, case: Case, net: classifier.Trained, variables: Variables,
    kernels: Mapping[str, np.ndarray],
) -> None:  # fmt: skip
    """The pruned network as a checkpoint of the same model: pruned/<name>; its masks lie in its last edit."""
    masks = {path: base64.b64encode(np.packbits(kernel != 0).tobytes()).decode() for path, kernel in kernels.items()}
    edit = {
        "method": case.name, "rows": config.rows, "strength": case.strength, "layers": list(kernels), "masks": masks,
        "shapes": {path: list(kernel.shape) for path, kernel in kernels.items()}, "data": config.data, "seed": seed,
    }  # fmt: skip
    saved = net.config | {"edits": [*net.config["edits"], edit]}
    classifier.save_network(f"{config.workdir}/pruned/{case.name}/seed{seed}", seed, variables, saved)
