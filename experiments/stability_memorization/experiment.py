"""How much would each sample be forgotten if it had not been trained on? Many networks, each on half of the data.

    uv run python -m experiments.stability_memorization         (digits, 10 % wrong labels, 64 networks, 3 seeds)
    expected: memorization of wrong labels >= .7, of clean ones <= .15, Pearson with curvature >= .85
    paper:    share of training samples with memorization >= .3: CIFAR-100 23 %, MNIST .45 % (arXiv 2008.03703; from
              memory of it); curvature against these scores on CIFAR-100: cosine .69, Pearson .49 (ICML 2025 follow-up)

The run leaves stability.csv and stability.npz: memorization with its standard error, C-score and curvature per sample.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import plots, report, runner
from subspace_jax import nn, training
from subspace_jax.core import curvature, losses, metrics
from subspace_jax.memorization import epoch_average, stability


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train many networks on random subsets, compare who knows a sample with who was trained on it."""

    models: int = 64
    """Networks trained."""
    ratio: float = 0.5
    """Share of the samples each is trained on; .7 is nearer to the full data, .5 has the least variance."""
    group: int = 64
    """Networks trained at a time; a finished group is saved."""
    score_every: int = 4
    """Epochs between curvature scorings of all networks."""
    probes: int = 10
    """Random directions per sample."""
    score_batch: int = 512
    """Samples per scoring call."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, models=4, group=2, epochs=4, batch=32, probes=2),
    "cpu": Config(epochs=40, batch=32),
    "gpu": Config(
        data="cifar10", samples=10_000, model="lenet5", noise=0.1, models=240, group=48, epochs=40, batch=128, lr=0.05,
        schedule="one_cycle", score_every=10,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.models < 2 or config.group < 1:
        raise ValueError(f"--models must be at least 2 and --group at least 1; got {config.models} and {config.group}.")
    shared = classifier.setup(config)
    network = shared.network
    found = []
    for seed in range(config.seed, config.seed + config.seeds):
        task = classifier.task(config, shared, seed)
        one_seed = functools.partial(one_network, config, shared, network, task, seed)
        arrays = many_networks(config, shared, network, task, seed) | runner.stage(config, f"seed{seed}_one", one_seed)
        found.append((seed, task, arrays))
    figures, std = runner.over_seeds([judge(config, task, arrays) for _, task, arrays in found])
    write_table(config, found)
    rows = [{"seed": s, "train_accuracy": float(a["train_accuracy"])} for s, _, a in found]
    return runner.Summary(figures, std, claims(config, figures), sections(config, shared, figures, *found[0][1:]), rows)


def many_networks(config: Config, shared: classifier.Setup, network: nn.Model, task: classifier.Task, seed: int):
    """Sums over all groups of networks: counts of outcomes, curvature, accuracy; test outcomes for the influence."""
    key = jax.random.key(seed)
    subsets = stability.subset_tables(key, len(task.x), models=config.models, ratio=config.ratio)
    parts = []
    for first in range(0, config.models, config.group):
        rows = slice(first, first + config.group)
        group = functools.partial(train_group, config, shared, network, task, seed, subsets, rows)
        parts.append(runner.stage(config, f"seed{seed}_group{first // config.group}", group))
    groups = [stability.Sums(*(jnp.asarray(part[f"sums/{name}"]) for name in stability.Sums._fields)) for part in parts]
    sums = functools.reduce(stability.merge, groups)
    weights = [len(part["test_outcome"]) for part in parts]
    names = "fd_norm", "loss", "train_accuracy"
    mean = {name: np.average([part[name] for part in parts], axis=0, weights=weights) for name in names}
    estimate = stability.estimate(sums)
    test_outcome = np.concatenate([part["test_outcome"] for part in parts])
    return mean | {
        "memorization": np.asarray(estimate.value[0]),
        "stderr": np.asarray(estimate.stderr[0]),
        "cscore": np.asarray(stability.cscore(sums)),
        "test_outcome": test_outcome,
        "mask": subsets.mask,
        "test_accuracy": test_outcome.mean(),
    }


def train_group(config, shared, network, task: classifier.Task, seed: int, subsets: stability.Subsets, rows: slice):
    """Train the networks of some rows of the table; what remains of them are sums over networks."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY), rows.start)
    variables, averages = train(config, shared, network, task, key, subsets.index[rows], label=f"seed {seed}, networks")
    right = outcomes(network.apply, variables, task.x, task.label)
    sums = stability.memorization_sums(right, subsets.mask[rows])
    fitted = sums.right_members.sum() / sums.members.sum()
    if fitted < 1.5 / shared.classes:
        found = f"the networks fit {fitted:.0%} of their own samples"
        warnings.warn(f"{found}: labels out of order, lr too high, or epochs too few.", stacklevel=2)
    test_outcome = outcomes(network.apply, variables, task.test_x, task.test_label)
    sums = {f"sums/{name}": value for name, value in sums._asdict().items()}
    return sums | averages | {"train_accuracy": fitted, "test_outcome": test_outcome}


def one_network(config, shared, network, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Curvature and loss of one network trained on all data: what one run tells of the many."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    everyone = np.arange(len(task.x))[None]
    _, averages = train(config, shared, network, task, key, everyone, label=f"seed {seed}, all data")
    return {f"{name}_one": values for name, values in averages.items()}


def train(config, shared, network, task: classifier.Task, key: Any, table: np.ndarray, *, label: str):
    """Networks on the rows of the table: (stacked variables, {"fd_norm", "loss"} averaged over networks and epochs)."""
    score = scores_of_all(network, config.probes)

    def update(carry, states, epoch):
        values = training.score_dataset(
            jax.random.fold_in(key, epoch), score, training.variables(states), (task.x, task.label), index=task.index,
            batch=config.score_batch, label="fd_norm",
        )  # fmt: skip
        return {name: epoch_average.update(carry[name], values[name]) for name in carry}

    blank = epoch_average.init(len(task.x))
    hook = training.Hook({"fd_norm": blank, "loss": blank}, update, config.score_every)
    states, carries = training.train_many(
        key, network, training.optimizer(shared.recipe, config.epochs * (table.shape[1] // config.batch)),
        (task.image, task.label), table, epochs=config.epochs, batch=config.batch,
        prepare=classifier.prepare(shared.scaling, augment=config.augment), hooks={"scores": hook}, label=label,
    )  # fmt: skip
    return training.variables(states), {k: epoch_average.finalize(v) for k, v in carries["scores"].items()}


@functools.lru_cache  # one function object, and so one compilation
def scores_of_all(network: nn.Model, probes: int):
    """fn(keys, stacked variables, x, y) -> {"fd_norm", "loss"} averaged over the networks."""
    loss = losses.cross_entropy(network.apply)

    def one(variables, keys, x, y):
        fd_norm = curvature.fd_norm(keys, loss, variables, x, y, probes=probes).value
        return {"fd_norm": fd_norm, "loss": loss(variables, x, y)}

    def fn(keys, variables, x, y):
        per_model = jax.vmap(one, in_axes=(0, None, None, None))(variables, keys, x, y)
        return jax.tree.map(lambda values: values.mean(axis=0), per_model)

    return fn


def judge(config: Config, task: classifier.Task, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Memorization of wrong and clean labels, and its agreement with the cheap scores."""
    mem = arrays["memorization"]
    defined = ~np.isnan(mem)
    agreement = {
        "pearson/fd_norm": pearson(mem[defined], arrays["fd_norm"][defined]),
        "pearson/fd_norm_one": pearson(mem[defined], arrays["fd_norm_one"][defined]),
        "spearman/fd_norm": spearman(mem[defined], arrays["fd_norm"][defined]),
        "spearman/loss": spearman(mem[defined], arrays["loss"][defined]),
        "pearson/loss": pearson(mem[defined], arrays["loss"][defined]),
    }
    figures = {name: float(value) for name, value in agreement.items()}
    if task.noisy.any():
        noisy = task.noisy[defined]
        figures["memorization/noisy"] = float(mem[defined][noisy].mean())
        figures["auroc/memorization"] = float(auroc(mem[defined], noisy))
        figures["auroc/fd_norm"] = float(auroc(arrays["fd_norm"], task.noisy))
    figures["memorization/clean"] = float(mem[defined & ~task.noisy].mean())
    figures["memorized_share"] = float((mem[defined] >= 0.3).mean())
    figures["stderr"] = float(np.nanmean(arrays["stderr"]))
    accuracy = {name: float(arrays[name]) for name in ("train_accuracy", "test_accuracy")}
    return figures | accuracy | {"models": float(config.models)}


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show."""
    if config.preset != "cpu" or config.data != "digits" or config.noise != 0.1:
        return []
    return [
        runner.Claim("memorization/noisy", figures["memorization/noisy"], 0.7),
        runner.Claim("minus memorization/clean", -figures["memorization/clean"], -0.15),
        runner.Claim("auroc/memorization", figures["auroc/memorization"], 0.95),
        runner.Claim("pearson/fd_norm", figures["pearson/fd_norm"], 0.85),
        runner.Claim("spearman/loss", figures["spearman/loss"], 0.7),
    ]


def write_table(config: Config, found) -> None:
    """stability.npz and stability.csv, one row a sample and seed."""
    tables = []
    for seed, task, arrays in found:
        columns = {"seed": np.full(len(task.x), seed), "index": task.index, "given_label": task.label}
        columns |= {"true_label": task.true if task.noisy.any() else np.full(len(task.x), -1)}
        names = ("memorization", "stderr", "cscore", "fd_norm", "loss", "fd_norm_one", "loss_one")
        tables.append(columns | {name: arrays[name] for name in names})
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    runner.write_table(config, "stability", whole)


def sections(config: Config, shared, figures, task: classifier.Task, arrays) -> list[report.Section]:
    """Histogram, agreement, extremes and pairs of the first seed."""
    mem, noisy = np.nan_to_num(arrays["memorization"]), task.noisy
    groups = {"clean": mem[~noisy]} | ({"wrong label": mem[noisy]} if noisy.any() else {})
    histogram = plots.histograms(config.workdir, "memorization", groups, x="memorization")
    clouds = {
        name: (arrays["fd_norm"][m], mem[m]) for name, m in (("clean", ~noisy), ("wrong label", noisy)) if m.any()
    }
    cloud = plots.scatter(
        config.workdir, "agreement", clouds, x="fd_norm, mean over networks and epochs", y="memorization"
    )
    order = np.argsort(-mem, kind="stable")
    rows = [
        (title, [(task.image[i], f"{task.label[i]}: {mem[i]:.2f}", bool(noisy[i])) for i in chosen])
        for title, chosen in (("most", order[:10]), ("clean, most", order[~noisy[order]][:10]), ("least", order[-10:]))
    ]
    extremes = plots.gallery(config.workdir, "extremes", rows)
    text = (
        f"{config.models} networks on {config.ratio:.0%} of {len(mem)} samples; standard error {figures['stderr']:.3f}."
    )
    return [
        report.Section("Memorization", text, (histogram,)),
        report.Section("Against curvature", f"Pearson {figures['pearson/fd_norm']:.3f} over the seeds.", (cloud,)),
        report.Section("Extremes", "Label and memorization; red: the label is known to be wrong.", (extremes,)),
        pairs(config, shared, task, arrays),
    ]


def pairs(config: Config, shared, task: classifier.Task, arrays) -> report.Section:
    """The training samples that test samples lean on most."""
    listed = stability.high_influence(
        jnp.asarray(arrays["test_outcome"]), arrays["mask"], task.label, task.test_label, arrays["memorization"]
    )
    text = f"{len(listed)} pairs with memorization >= .25 and influence >= .15; the strongest, training sample above."
    if not listed:
        return report.Section("Influence", text)
    shown = listed[:10]
    above = [(task.image[i], f"#{task.index[i]}", bool(task.noisy[i])) for i, _, _ in shown]
    below = [(shared.test["image"][j], f"{value:.2f}", False) for _, j, value in shown]
    figure = plots.gallery(config.workdir, "influence", [("training", above), ("test", below)])
    return report.Section("Influence", text, (figure,))


outcomes = jax.jit(stability.outcomes, static_argnums=0)
auroc, pearson, spearman = jax.jit(metrics.auroc), jax.jit(metrics.pearson), jax.jit(metrics.spearman)
