"""Can a network that learned wrong labels be corrected after training, by one edit from a few trusted samples?

    uv run python -m experiments.label_correction          (digits, 40 % wrong labels, 300 of 1,000 trusted, 3 seeds)
    uv run python -m experiments.label_correction --trusted low_curvature
    uv run python -m experiments.label_correction --checkpoint runs/memorization/1        (trained with --samples)
    expected: test accuracy .66 before, >= .86 after, alpha chosen by noisy labels; under 5 min on 2 cores
    paper:    CIFAR-10, ResNet-18, 25 % symmetric noise, 1,000 trusted samples: .784 -> .870, with SAM .838 -> .877
              (arXiv 2403.08618)

Read it beside test_accuracy/trusted_only, a new network trained on the trusted samples alone (on digits that is
better), and early_stopping, which needs no trusted sample.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax

from experiments.families import classifier
from experiments.harness import runner
from experiments.label_correction import protocol, report
from subspace_jax import training
from subspace_jax.core import losses
from subspace_jax.label_noise import early_stopping

COUNTS = 20, 50, 100, 300  # of trusted samples, for the curve of the report
observe = jax.jit(early_stopping.update)


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train on labels of which some are wrong, correct the network by Verifix, and by what it is compared with."""

    samples: int | None = 1000
    """Use the first so many training samples; alpha is chosen on others."""
    noise: float = 0.4
    """Share of wrong labels classifier."""
    widths: tuple[int, ...] = (256, 256, 256)
    """Hidden layers of an mlp or lenet5; those of nn.build when empty."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """See training.Recipe, also for the next flags."""
    lr: float = 1e-3
    """Learning rate, the peak of a schedule."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 134
    """Passes over the training set."""
    trusted: Literal["clean_members", "random_members", "low_curvature", "unseen"] = "clean_members"
    """Who is trusted: training samples with a right label, any, those of lowest curvature, or some never trained on."""
    trusted_count: int = 300
    """Trusted samples, the same number of each class."""
    selection_count: int = 200
    """Samples, never trained on, whose labels are as noisy as those of the training set: they choose alpha."""
    alphas: tuple[float, ...] = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)
    """Strengths to try."""
    skip: float = 0.0
    """Share of each class, lowest curvature first, that low_curvature leaves out."""


PRESETS = {
    "smoke": Config(
        seeds=1,
        samples=200,
        widths=(64,),
        lr=1e-2,
        epochs=40,
        batch=32,
        trusted_count=50,
        selection_count=100,
        alphas=(1e2, 1e3, 1e4),
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10",
        samples=45_000,
        noise=0.25,
        model="resnet18",
        widths=(),
        dtype="bfloat16",
        augment=True,
        optimizer="sgd",
        lr=0.1,
        schedule="one_cycle",
        weight_decay=5e-4,
        epochs=60,
        batch=256,
        trusted_count=1000,
        selection_count=4000,
        alphas=(1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6),
    ),
}


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    shared = classifier.setup(config)
    check(config, shared)
    found = [one_seed(config, shared, seed) for seed in range(config.seed, config.seed + config.seeds)]
    figures, std = runner.over_seeds([judge(config, parts) for *_, parts in found])
    rows = [row for seed, _, parts in found for row in report.metric_rows(config, seed, parts)]
    return runner.Summary(figures, std, claims(config, figures), report.sections(config, figures, found), rows)


def check(config: Config, shared: classifier.Setup) -> None:
    """Refuse, before anything is trained, what cannot end well."""
    left, classes = len(shared.unseen["label"]), shared.classes
    if not 1 <= config.selection_count <= left - classes:
        raise ValueError(
            f"--selection-count {config.selection_count} and at least {classes} samples to trust are taken from the "
            f"{left} training samples that are left out: lower it, or train with --samples so that more are left."
        )
    if config.trusted_count < classes:
        raise ValueError(f"--trusted-count is at least {classes}, one sample a class; got {config.trusted_count}.")
    if not config.alphas or not all(0 < alpha < math.inf for alpha in config.alphas):
        raise ValueError(f"--alphas are positive and finite, such as 10 100 1000; got {config.alphas}.")
    if not 0 <= config.skip < 1:
        raise ValueError(f"--skip is a share of each class, in [0, 1); got {config.skip}.")


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> report.Found:
    """Train or load the network of one seed, correct it, and do everything else that could be done."""
    case = protocol.case(config, shared, seed)
    sets = protocol.random_sets(case, config.trusted_count)  # refused, if at all, before the training
    original, stopped = vanilla(case)

    def stage(name, compute, *arguments, **options):
        return runner.stage(config, f"seed{seed}_{name}", functools.partial(compute, case, *arguments, **options))

    rows = stage("low_curvature_rows", protocol.low_curvature, original)["rows"]
    sets["low_curvature"] = protocol.trust(case, case.members, rows)
    given = sets[config.trusted]
    parts = {"before": stage("before", before, original, stopped)}
    for name in protocol.SETS:
        parts[name] = stage(name, protocol.verifix, original, sets[name], save=name == config.trusted)
    for name, run in protocol.baselines(case, original, given).items():
        also = given if name in protocol.CORRECTED else None
        parts[name] = stage(name, protocol.baseline, original.model, run, also)
    if seed == config.seed:
        for count in (c for c in COUNTS if shared.classes <= c < config.trusted_count):
            fewer = protocol.random_sets(case, count)["clean_members"]
            parts[f"count{count}"] = stage(f"count{count}", protocol.verifix, original, fewer)
    return seed, case, parts


def vanilla(case: protocol.Case) -> tuple[classifier.Trained, early_stopping.EarlyStopping | None]:
    """The network of a seed, and what early stopping would have kept of its training; None where it is loaded."""
    config, shared, task, seed = case[:4]
    x, label = protocol.scaled(case, case.selection), case.selection.label
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    blank = classifier.create(case.key, shared.network, tx, task.x[:1])

    def update(carry, state, epoch):
        variables = training.variables(state)
        logits = training.predict(shared.network.apply, variables, x)
        return observe(carry, variables, losses.softmax_cross_entropy(logits, label).mean())

    hooks = {"early_stopping": training.Hook(early_stopping.init(training.variables(blank)), update)}
    original = classifier.trained(config, shared, task, seed, hooks=hooks)
    return original, original.carries.get("early_stopping")


def before(case: protocol.Case, original: classifier.Trained, stopped: Any) -> dict[str, Any]:
    """What the network does without a correction, and what it did at its early stop."""
    apply, task = original.model.apply, case.task
    arrays = {
        "train_accuracy": training.evaluate(apply, original.variables, task.x, task.label),
        "predicted": training.predict(apply, original.variables, task.test_x).argmax(-1),
    }
    if stopped is None:
        return arrays
    accuracy = training.evaluate(apply, stopped.variables, task.test_x, task.test_label)
    return arrays | {"early_stopping": accuracy, "early_stopping_epoch": stopped.best}


def judge(config: Config, parts: report.Parts) -> dict[str, float]:
    """Every figure of one seed; alpha 0 says that no edit was better than none."""
    main, start = parts[config.trusted], parts["before"]
    accuracy = {"before": main["test"][0], "verifix": report.chosen(main)}
    accuracy |= {f"verifix_{name}": report.chosen(parts[name]) for name in protocol.SETS}
    accuracy["verifix_clean_selection"] = report.chosen(main, by="clean_selection")
    for name in protocol.BASELINES:
        accuracy[name] = parts[name]["accuracy"]
        if name in protocol.CORRECTED:
            accuracy[f"{name}_verifix"] = report.chosen(parts[name])
    if "early_stopping" in start:
        accuracy["early_stopping"] = start["early_stopping"]
    figures = {f"test_accuracy/{name}": value for name, value in accuracy.items()}
    figures |= {"train_accuracy/before": start["train_accuracy"], "alpha": report.alpha(config, main)}
    for name in protocol.SETS:
        figures[f"trusted_clean_share/{name}"] = parts[name]["clean"]
        figures[f"trusted_count/{name}"] = len(parts[name]["index"])
    timed = {"verifix": main, **{name: parts[name] for name in protocol.BASELINES}}
    figures |= {f"seconds/{name}": part["seconds"] for name, part in timed.items()}
    return {name: float(value) for name, value in figures.items()}


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset must show on digits; other noise, data or trust: nothing is claimed."""
    asked = config.data, config.model, config.noise, config.noise_kind, config.trusted
    if config.preset == "smoke" or asked != ("digits", "mlp", 0.4, "symmetric", "clean_members"):
        return []
    above = figures["test_accuracy/verifix_clean_members"] - figures["test_accuracy/verifix_random_members"]
    return [
        runner.Claim("test_accuracy/verifix", figures["test_accuracy/verifix"], 0.86),
        runner.Claim("verifix (clean members) above random members", above, 0.0),
    ]
