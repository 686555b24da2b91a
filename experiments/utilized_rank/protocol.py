"""One trained network cut to the ranks that its layers use: every figure of a cut, the baselines, and the pictures."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from experiments.harness.timing import timed
from subspace_jax import nn, training
from subspace_jax.compression import baselines, eigenpairs, factorised, utilized_rank
from subspace_jax.core import capture
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.utilized_rank.experiment import Config

REFERENCE = 0.999  # the tau of the figures utilization/... and of the saved network
COMPARED = "tau_0.99", "tau_0.999", "search"  # where the baselines run, at the same ranks
METHODS = "plain_svd", "input_only", "output_only", "whitened_svd", "random_subspaces", "magnitude_pruning"
FINETUNE_KEY, RANDOM_KEY = 10, 11  # folded into the seed's key
BATCH, TIMED, TURNS = 500, 1024, 15  # samples of a capture call; samples and turns of the timed inference


class Case(NamedTuple):
    """The network of one seed; `solve` gives the eigenpairs of its layers and the seconds, when first asked."""

    seed: int
    task: classifier.Task
    net: classifier.Trained
    table: capture.Layers
    before: float
    solve: Callable

    def accuracy_change(self, model: nn.Model, variables: Variables) -> float:
        """On the test set, against the network as it was."""
        return accuracy(model, variables, self.task.test_x, self.task.test_label) - self.before


def case(config: Config, shared: classifier.Setup, table: capture.Layers, task: classifier.Task, seed: int) -> Case:
    """Train or load the network of one seed; its layers are measured when a stage needs them."""
    net = classifier.trained(config, shared, task, seed)
    x = task.x[: config.calibration]

    @functools.cache
    def solve():
        started = time.perf_counter()
        batches = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
        moments = capture.collect(net.model.apply, net.variables, batches, dtype="float64")
        captured = time.perf_counter()
        solved = eigenpairs.spectra(table, net.variables, moments)
        return solved, {"seconds/capture": captured - started, "seconds/spectra": time.perf_counter() - captured}

    before = accuracy(net.model, net.variables, task.test_x, task.test_label)
    return Case(seed, task, net, table, before, solve)


def use(config: Config, one: Case) -> dict[str, Any]:
    """What each layer uses at the reference tau, and its spectra; the network cut there is saved."""
    solved, seconds = one.solve()
    used = utilized_rank.utilization(one.table, one.net.variables, solved, energy=REFERENCE)
    edited = utilized_rank.project(one.table, one.net.variables, solved, energy=REFERENCE)
    classifier.save_edited(
        config, one.seed, one.net, edited, method="utilized_rank", layers=list(used), ranks=utilized_rank.ranks(used),
        tau=REFERENCE, data=config.data,
    )  # fmt: skip
    found = seconds | {"utilization/mean": utilized_rank.mean_utilization(used), "test_accuracy/before": one.before}
    kernels = capture.kernels(one.table, one.net.variables)
    for path, layer in used.items():
        found[f"utilization/{path}"] = layer.share.mean()
        found[f"effective_rank/{path}"] = np.minimum(layer.effective_inputs, layer.effective_outputs).mean()
        found[f"ranks/{path}"] = [np.linalg.matrix_rank(kernels[path]).max(), layer.inputs.max(), layer.outputs.max()]
        for side in ("inputs", "outputs"):
            energies = getattr(solved[path], side).energies
            found[f"{side}/{path}"] = energies.reshape(-1, energies.shape[-1]).mean(0)
    return found


def searched(config: Config, one: Case) -> dict[str, Any]:
    """The lowest tau of each layer that keeps the accuracy on the calibration samples."""
    x, y = one.task.x[: config.calibration], one.task.label[: config.calibration]
    started = time.perf_counter()
    found = utilized_rank.search_energy(
        one.table, one.net.variables, one.solve()[0], lambda variables: accuracy(one.net.model, variables, x, y),
        max_drop=config.max_drop,
    )  # fmt: skip
    energies = [found.get(path, 0.0) for path in one.table]  # 0: the layer stays
    return {"energies": energies, "seconds/search": time.perf_counter() - started}


def cut(config: Config, shared: classifier.Setup, one: Case, name: str, energy: float | Mapping[str, float]):
    """The network cut to its spaces: projected, factorised, fine-tuned; the baselines at the same ranks."""
    table, net, solved = one.table, one.net, one.solve()[0]
    arguments, seconds = (table, net.variables["params"], solved), {}
    used = utilized_rank.utilization(*arguments, energy=energy)
    ranks = utilized_rank.ranks(used, multiple=config.multiple)
    projected, seconds["seconds/project"] = timed(lambda: utilized_rank.project(*arguments, energy=energy))
    thin = factorised.factorised_model(net.model, ranks)
    factors, seconds["seconds/factorise"] = timed(
        lambda: utilized_rank.factorise(*arguments, energy=energy, multiple=config.multiple)
    )
    start = net.variables | {"params": factors}
    end, seconds["seconds/finetune"] = timed(lambda: finetune(config, shared, one, thin, start))
    figures = {
        "parameters_ratio": utilized_rank.parameters_ratio(table, ranks),
        "accuracy_change": one.accuracy_change(net.model, net.variables | {"params": projected}),
        "accuracy_change_finetuned": one.accuracy_change(thin, end),
        "inference_time": inference_time(thin, start, net, one.task.test_x[:TIMED]),
    }
    found: dict[str, Any] = {f"{figure}/{name}": value for figure, value in figures.items()}
    found["shares"] = [used[path].share.mean() if path in used else 1.0 for path in table]
    for method in METHODS if name in COMPARED else ():
        edited = net.variables | {"params": peer(method, one, solved, ranks)}
        found[f"accuracy_change/{method}_{name}"] = one.accuracy_change(net.model, edited)
    return found | seconds


def peer(method: str, one: Case, solved: dict, ranks: dict[str, int]) -> Any:
    """The parameters by a baseline at these ranks; pruning leaves the head alone, whose columns are the classes."""
    table, params, fn = one.table, one.net.variables["params"], getattr(baselines, method)
    if method == "random_subspaces":
        return fn(jax.random.fold_in(jax.random.key(one.seed), RANDOM_KEY), table, params, ranks=ranks)
    if method == "magnitude_pruning":
        ranks = {path: rank for path, rank in ranks.items() if path != list(table)[-1]}
    measured = () if method in ("plain_svd", "magnitude_pruning") else (solved,)
    return fn(table, params, *measured, ranks=ranks)


def finetune(config: Config, shared: classifier.Setup, one: Case, thin: nn.Model, start: Variables) -> Variables:
    """The factorised network after some more epochs on the same labels."""
    steps = config.finetune_epochs * (len(one.task.x) // config.batch)
    recipe = training.Recipe(lr=config.finetune_lr, weight_decay=config.weight_decay, batch=config.batch)
    return training.minimise(
        jax.random.fold_in(jax.random.key(one.seed), FINETUNE_KEY), training.mean_loss(thin.train_apply),
        training.optimizer(recipe, steps), start, [(one.task.image, one.task.label)], steps=steps, batch=config.batch,
        prepare=shared.prepare, label=f"seed {one.seed}, fine-tuning",
    )  # fmt: skip


def accuracy(model: nn.Model, variables: Variables, x: Any, y: Any) -> float:
    return float(training.evaluate(model.apply, variables, x, y))


def inference_time(thin: nn.Model, factorised: Variables, net: classifier.Trained, x: Any) -> float:
    """Time of the factorised network over that of the dense one on one batch, median of turns, without compilation."""
    pairs = (thin, factorised), (net.model, net.variables)
    calls = [functools.partial(jax.jit(model.apply), *jax.device_put((v, x))) for model, v in pairs]
    turns = np.zeros((TURNS + 1, 2))
    for turn in turns:
        for i, call in enumerate(calls):
            _, turn[i] = timed(call)
    return float(np.median(turns[1:, 0] / turns[1:, 1]))  # the first turn compiles
