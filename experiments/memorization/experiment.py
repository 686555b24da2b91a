"""What did the network memorize? Every training sample scored by input-loss curvature while one network trains.

    uv run python -m experiments.memorization                       (digits, 10 % wrong labels, 3 seeds)
    uv run python -m experiments.memorization --data mnist --data-dir DIR
    uv run python -m experiments.memorization --data mine --data-dir DIR --noise 0 --duplicates 0     (suspects only)
    expected: mislabel AUROC of fd_norm >= .97, >= .03 above its last-epoch version; under 2 min on 2 cores
    paper:    CIFAR-10, ResNet-18, 10 % symmetric noise: fd_norm .982, epoch-mean loss .987 (arXiv 2307.05831 and
              its authors' follow-up, ICML 2025)

The run leaves scores.csv and scores.npz in its folder: index, given, true and predicted label, every score, the rank.
"""

import dataclasses
import functools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained
from experiments.harness import runner
from experiments.memorization import report
from subspace_jax import checkpoint, nn, training
from subspace_jax.memorization import dynamics, epoch_average, scores

AVERAGED = ("fd_norm", "ggn_exact", "hv_norm", "input_grad")
SWEEP_STEPS, SWEEP_PROBES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1), (1, 2, 3, 5, 10, 20)
SWEEP_EVERY, SWEEP_SAMPLES = 5, 5000  # the sensitivity curves use every fifth scored epoch and the first samples


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train on labels of which some are wrong, score all samples every few epochs, find the wrong ones."""

    duplicates: int = 25
    """Pairs planted: the same image under two labels."""
    score: Literal[
        "fd_norm", "fd_sqnorm", "fd_quad", "hutchinson", "hv_norm", "ggn_exact", "ggn_probe", "input_grad"
    ] = "fd_norm"
    """The score that ranks the table and the galleries."""
    score_every: int = 0
    """Epochs between scorings, over which a score is averaged; 0: every 2nd on digits, a tenth of the run elsewhere."""
    probes: int = 10
    """Random directions per sample."""
    step: float = 1e-3
    """Finite-difference step, in units of the scaled inputs."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of the matrix products in the scores; default is faster on GPU and TPU, and as good there on real networks."""
    score_batch: int = 512
    """Samples per scoring call."""
    sweep: bool = True
    """Measure the sensitivity to step and probes (first seed only)."""
    save_every: int = 10
    """Epochs between checkpoints."""
    keep_every: int | None = None
    """Keep the checkpoints of every so many epochs, to score them later with --checkpoint."""


PRESETS = {
    "smoke": Config(seeds=1, samples=500, epochs=6, duplicates=5, sweep=False, save_every=3),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10",
        model="resnet18",
        dtype="bfloat16",
        augment=True,
        lr=0.1,
        schedule="one_cycle",
        batch=256,
        weight_decay=5e-4,
        epochs=60,
        duplicates=250,
        score_every=5,
        precision="default",
        score_batch=1000,
    ),
}
observe = jax.jit(dynamics.update)
THRESHOLDS = {  # mislabel AUROC, duplicates AUROC at 10 % symmetric noise
    ("digits", "mlp"): (0.97, None),
    ("cifar10", "resnet18"): (0.97, 0.90),
}


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    if config.score_every == 0:
        config = dataclasses.replace(config, score_every=2 if config.data == "digits" else max(1, config.epochs // 10))
    if not 1 <= config.score_every <= config.epochs:
        raise ValueError(f"--score-every is in [1, {config.epochs}], the epochs; got {config.score_every}.")
    shared = classifier.setup(config)
    network = shared.network
    tx = training.optimizer(shared.recipe, shared.recipe.epochs * (len(shared.columns["label"]) // shared.recipe.batch))
    epoch_fn = training.train_epoch(
        network, tx, batch=shared.recipe.batch, prepare=classifier.prepare(shared.scaling, augment=config.augment)
    )
    runs, found = [], []
    for seed in range(config.seed, config.seed + config.seeds):
        task = classifier.task(config, shared, seed)
        one_seed = functools.partial(score_run, config, shared, network, tx, epoch_fn, task, seed)
        found.append((seed, task, runner.stage(config, f"seed{seed}", one_seed)))
        runs.append(report.judge(config, task, found[-1][2]))
    figures, std = runner.over_seeds(runs)
    report.write_table(config, found)
    rows = [row for seed, _, arrays in found for row in report.metric_rows(seed, arrays)]
    return runner.Summary(figures, std, claims(config, figures), report.sections(config, figures, found), rows)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the preset must show; other noise, other data: nothing is claimed."""
    known = THRESHOLDS.get((config.data, config.model))
    if (
        known is None
        or config.preset == "smoke"
        or "auroc/fd_norm_last" not in figures
        or (config.noise, config.noise_kind) != (0.1, "symmetric")
    ):
        return []
    fd, last = figures["auroc/fd_norm"], figures.get("auroc/fd_norm_last", np.nan)
    listed = [
        runner.Claim("auroc/fd_norm", fd, known[0]),
        runner.Claim("fd_norm above its last-epoch version", fd - last, 0.03),
        runner.Claim("fd_norm above ggn_exact", fd - figures["auroc/ggn_exact"], 0.0),
        runner.Claim("epoch-mean loss at least fd_norm", figures["auroc/loss"] - fd, 0.0),
    ]
    if known[1] and config.duplicates:
        listed.append(runner.Claim("duplicates_auroc/fd_norm", figures["duplicates_auroc/fd_norm"], known[1]))
    return listed


def score_run(config, shared, network, tx, epoch_fn, task: classifier.Task, seed: int) -> dict[str, Any]:
    """All scores of one seed: arrays (n,) by name, seconds, curves."""
    hooks = hooks_of(config, network, task, seed)
    if config.checkpoint:
        variables, carries = visit_checkpoints(config, hooks, seed)
    else:
        epoch_fn, hooks["training"] = clocked(epoch_fn, config.epochs)
        key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
        state, carries = checkpoint.resumable_fit(
            f"{config.workdir}/checkpoints/seed{seed}", epoch_fn,
            classifier.create(key, network, tx, task.x[:1]), (task.image, task.label),
            epochs=config.epochs, hooks=hooks, save_every=config.save_every, keep_every=config.keep_every,
            config=classifier.checkpoint_config(config, shared, seed),
            label=f"seed {seed}",
        )  # fmt: skip
        variables = training.variables(state)
    arrays = collect(carries)
    arrays["predicted"] = training.predict(network.apply, variables, task.x).argmax(-1)
    arrays["test_accuracy"] = training.evaluate(network.apply, variables, task.test_x, task.test_label)
    if not config.checkpoint:
        for name, part in retrained.scores(config, shared, network, task, seed).items():
            arrays |= runner.stage(config, f"seed{seed}_{name}", part)
    return arrays


def hooks_of(config: Config, network: nn.Model, task: classifier.Task, seed: int) -> dict[str, training.Hook]:
    """One accumulator a score, one for the training dynamics, and on the first seed those of the sensitivity curves."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.SCORE_KEY)

    def hook(name, *, step=config.step, probes=config.probes, every=config.score_every, samples=None):
        fn = scores.scorer(name, network.apply, step=step, probes=probes, precision=config.precision)
        arrays = tuple(part[:samples] for part in (task.x, task.label))
        samples = len(arrays[0])

        def update(carry, state, epoch):
            started = time.perf_counter()
            values = training.score_dataset(
                jax.random.fold_in(key, epoch), fn, training.variables(state), arrays,
                index=task.index[:samples], batch=config.score_batch, label=name,
            )  # fmt: skip
            values = scores.refuse_nan(jax.block_until_ready(values), name=name, epoch=epoch + 1)
            seconds = carry["seconds"].at[carry["average"].count].set(time.perf_counter() - started)
            return {"average": epoch_average.update(carry["average"], values), "seconds": seconds}

        passes = max(1, config.epochs // every)
        carry = {"average": epoch_average.init(samples, history=passes), "seconds": jnp.full(passes, jnp.nan)}
        return training.Hook(carry, update, every)

    hooks = {name: hook(name) for name in dict.fromkeys((*AVERAGED, config.score))}
    hooks["dynamics"] = dynamics_hook(config, network, task)
    every = config.score_every * SWEEP_EVERY
    if config.sweep and seed == config.seed and not config.checkpoint and every <= config.epochs:
        options = {"every": every, "samples": min(SWEEP_SAMPLES, len(task.x))}
        hooks |= {f"step_{step:g}": hook("fd_norm", step=step, **options) for step in SWEEP_STEPS}
        hooks |= {f"probes_{probes}": hook("fd_norm", probes=probes, **options) for probes in SWEEP_PROBES}
    return hooks


def dynamics_hook(config: Config, network: nn.Model, task: classifier.Task) -> training.Hook:
    """Loss, margin, learning time and forgetting, from one forward pass after every epoch."""

    def update(carry, state, epoch):
        started = time.perf_counter()
        logits = training.predict(network.apply, training.variables(state), task.x)
        new = jax.block_until_ready(observe(carry["dynamics"], logits, jnp.asarray(task.label)))
        return {"dynamics": new, "seconds": carry["seconds"].at[epoch].set(time.perf_counter() - started)}

    return training.Hook({"dynamics": dynamics.init(len(task.x)), "seconds": jnp.full(config.epochs, jnp.nan)}, update)


def clocked(epoch_fn, epochs: int):
    """The same function, and a hook that keeps how long its latest call took."""
    latest = [0.0]

    def timed(*arguments):
        started = time.perf_counter()
        result = jax.block_until_ready(epoch_fn(*arguments))
        latest[0] = time.perf_counter() - started
        return result

    def update(carry, state, epoch):
        return {"seconds": carry["seconds"].at[epoch].set(latest[0])}

    return timed, training.Hook({"seconds": jnp.full(epochs, jnp.nan)}, update)


def visit_checkpoints(config: Config, hooks, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the hooks on the saved networks instead of training one: (last variables, carries)."""
    carries, variables = training.initial_carries(hooks, config.epochs), {}
    for number, epoch in enumerate(checkpoint.epochs(config.checkpoint, seed=seed)):
        _, variables, _ = checkpoint.load_model(config.checkpoint, seed=seed, epoch=epoch)
        state = training.TrainState(jnp.int32(0), **variables, opt_state=None, key=jax.random.key(seed))
        carries |= {name: hook.update(carries[name], state, number) for name, hook in hooks.items()}
    return variables, carries


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
