"""One seed of memorization: train or load its network, score every sample on the way."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained, scored
from experiments.harness import runner, timing
from subspace_jax import nn, training
from subspace_jax.memorization import dynamics, epoch_average, scores

if TYPE_CHECKING:
    from experiments.memorization.experiment import Config


AVERAGED = ("fd_norm", "ggn_exact", "hv_norm", "input_grad")
MANY_CLASSES = 20  # beyond which ggn_exact, one backward pass a class, is computed only when asked for
LONG = 30  # seconds of scoring a seed that are announced
SWEEP_STEPS, SWEEP_PROBES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1), (1, 2, 3, 5, 10, 20)
SWEEP_EVERY, SWEEP_SAMPLES = 5, 5000  # the sensitivity curves use every fifth scored epoch and the first samples
Hooks = dict[str, training.Hook]


def score_run(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """All scores of one seed: arrays (n,) by name, seconds, curves."""
    network, hooks = shared.network, hooks_of(config, shared.network, task, seed, shared.classes)
    if config.checkpoint:
        variables, carries = scored.visit_checkpoints(config, hooks, seed)
    else:
        epoch_fn, hooks["training"] = scored.clocked(classifier.epoch(config, shared), config.epochs)
        net = classifier.trained(
            config, shared, task, seed, hooks=hooks, epoch_fn=epoch_fn, save_every=config.save_every,
            keep_every=config.keep_every,
        )  # fmt: skip
        variables, carries = net.variables, net.carries
    arrays = collect(carries)
    arrays["predicted"] = training.predict(network.apply, variables, task.x).argmax(-1)
    if len(task.test_label):
        arrays["test_accuracy"] = training.evaluate(network.apply, variables, task.test_x, task.test_label)
    if config.refits and not config.checkpoint:
        for name, part in retrained.scores(config, shared, task, seed).items():
            arrays |= runner.stage(config, f"seed{seed}_{name}", part)
    return arrays


def check_names(config: Config) -> None:
    """Refuse scores that there are not.

    Raises:
      ValueError: names the first of them and all that there are.
    """
    for name in config.scores:
        if name not in scores.TABLE:
            raise ValueError(f"--scores: no score {name!r}; there are {', '.join(scores.TABLE)}.")


def averaged(config: Config, classes: int) -> list[str]:
    """The scores that are averaged over the epochs; the loss comes from the forward pass of every epoch anyway."""
    few = [name for name in AVERAGED if name != "ggn_exact" or classes <= MANY_CLASSES]
    return [name for name in dict.fromkeys((*(config.scores or few), config.score)) if name != "loss"]


def announce(config: Config, shared: classifier.Setup, task: classifier.Task) -> None:
    """Say before a long run which score takes how long, by one call of each on a new network."""
    variables = jax.jit(shared.network.init)(jax.random.key(0), task.x[:1])
    passes, size = max(1, config.epochs // config.score_every), min(64, len(task.x))
    seconds = {}
    for name in averaged(config, shared.classes):
        options = {"step": config.step, "probes": config.probes, "precision": config.precision}
        fn = scores.scorer(name, shared.network.apply, **options)
        rows = tuple(np.asarray(part[:size]) for part in (task.x, task.label))
        call = functools.partial(training.score_dataset, jax.random.key(0), fn, variables, rows, label=name)
        call()  # compiles
        seconds[name] = timing.timed(call)[1] * passes * len(task.x) / size
    if sum(seconds.values()) > LONG:
        listed = ", ".join(f"{name} {spent:.0f} s" for name, spent in seconds.items())
        print(f"scoring takes about {listed} per seed; --scores names fewer.", file=sys.stderr)
        if config.refits and not config.checkpoint:
            print("seven further networks are trained after it; --no-refits leaves them out.", file=sys.stderr)


def hooks_of(config: Config, network: nn.Model, task: classifier.Task, seed: int, classes: int) -> Hooks:
    """One accumulator a score, one for the training dynamics, and on the first seed those of the sensitivity curves."""
    own: dict[str, Any] = {"epochs": config.epochs, "every": config.score_every, "step": config.step}
    own |= {"probes": config.probes, "precision": config.precision, "batch": config.score_batch}

    def hook(name, **options):
        return scored.score_hook(name, network, task, seed, **own | options)

    hooks = {name: hook(name) for name in averaged(config, classes)}
    hooks["dynamics"] = scored.dynamics_hook(network, task, config.epochs)
    every = config.score_every * SWEEP_EVERY
    if config.sweep and seed == config.seed and not config.checkpoint and every <= config.epochs:
        options = {"every": every, "samples": min(SWEEP_SAMPLES, len(task.x))}
        hooks |= {f"step_{step:g}": hook("fd_norm", step=step, **options) for step in SWEEP_STEPS}
        hooks |= {f"probes_{probes}": hook("fd_norm", probes=probes, **options) for probes in SWEEP_PROBES}
    return hooks


def collect(carries: dict[str, Any]) -> dict[str, Any]:
    """Arrays by "<what>/<name>" from the accumulators; seconds are median pass x passes, so without compilation."""
    arrays = {f"metrics/{name}": rows for name, rows in carries["metrics"].items()}
    for name, carry in carries.items():
        if name.startswith(("step_", "probes_")):
            arrays[f"sweep/{name}"] = epoch_average.finalize(carry["average"])
        elif name != "metrics":
            passes = int(np.count_nonzero(~np.isnan(carry["seconds"])))
            arrays |= collect_one(name, carry, passes, float(np.nanmedian(carry["seconds"]) * passes))
    return arrays


def collect_one(name: str, carry: dict[str, Any], passes: int, seconds: float) -> dict[str, Any]:
    """What one accumulator gives: a score, the scores of the dynamics, or only the time of the training."""
    if name == "training":
        return {"seconds/training": seconds}
    if name == "dynamics":
        found = dynamics.finalize(carry["dynamics"])
        return {f"score/{k}": v for k, v in found.items()} | {f"seconds/{k}": seconds for k in found}
    average = carry["average"]
    arrays = {f"score/{name}": epoch_average.finalize(average), f"seconds/{name}": seconds}
    if name == "fd_norm":
        arrays |= {"score/fd_norm_last": average.last, "seconds/fd_norm_last": seconds / passes}
    return arrays | {f"history/{name}": average.history[:passes]}
