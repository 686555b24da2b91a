"""What many networks tell of each sample: figures, table, histogram, extremes, pairs of training and test sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import plots, report, runner
from subspace_jax import data
from subspace_jax.core import metrics
from subspace_jax.memorization import stability

if TYPE_CHECKING:
    from experiments.stability_memorization.experiment import Config

Arrays = dict[str, np.ndarray]


def judge(config: Config, task: classifier.Task, arrays: Arrays) -> dict[str, float]:
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


def write_table(config: Config, found: list[tuple[int, classifier.Task, Arrays]]) -> None:
    """stability.npz and stability.csv, one row a sample and seed."""
    tables = []
    for seed, task, arrays in found:
        columns = {"seed": np.full(len(task.x), seed), "index": task.index, "given_label": task.label}
        columns |= {"true_label": task.true if task.noisy.any() else np.full(len(task.x), -1)}
        names = ("memorization", "stderr", "cscore", "fd_norm", "loss", "fd_norm_one", "loss_one")
        tables.append(columns | {name: arrays[name] for name in names})
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    runner.write_table(config, "stability", whole)


def sections(
    config: Config,
    shared: classifier.Setup,
    figures: dict[str, float],
    task: classifier.Task,
    arrays: Arrays,
) -> list[report.Section]:
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
        (title, [shown(task, i, f"{task.called(task.label[i])}: {mem[i]:.2f}") for i in chosen])
        for title, chosen in (("most", order[:10]), ("clean, most", order[~noisy[order]][:10]), ("least", order[-10:]))
    ]
    text = (
        f"{config.models} networks on {config.ratio:.0%} of {len(mem)} samples; standard error {figures['stderr']:.3f}."
    )
    return [
        report.Section("Memorization", text, (histogram,)),
        report.Section("Against curvature", f"Pearson {figures['pearson/fd_norm']:.3f} over the seeds.", (cloud,)),
        report.gallery(
            "Extremes", "Label and memorization; red: the label is known to be wrong.", config.workdir, "extremes", rows
        ),
        pairs(config, shared, task, arrays),
    ]


def pairs(config: Config, shared: classifier.Setup, task: classifier.Task, arrays: Arrays) -> report.Section:
    """Pairs of a training and a test sample with the strongest influence."""
    listed = stability.high_influence(
        jnp.asarray(arrays["test_outcome"]), arrays["mask"], task.label, task.test_label, arrays["memorization"]
    )
    text = f"{len(listed)} pairs with memorization >= .25 and influence >= .15; the strongest, training sample above."
    if not listed:
        return report.Section("Influence", text)
    test = data.inputs(shared.test)
    above = [shown(task, i, f"#{task.index[i]}") for i, _, _ in listed[:10]]
    rows, index = test[[j for _, j, _ in listed[:10]]], shared.test["index"]
    said = [report.caption(row, index[j], f"{value:.2f}") for row, (_, j, value) in zip(rows, listed, strict=False)]
    below = [(row, text, False) for row, text in zip(rows, said, strict=True)]
    return report.gallery("Influence", text, config.workdir, "influence", [("training", above), ("test", below)])


def shown(task: classifier.Task, position: int, said: str) -> report.Shown:
    """A training sample, marked where its label is known to be wrong."""
    sample = task.image[position]
    return sample, report.caption(sample, task.index[position], said), bool(task.noisy[position])


auroc, pearson, spearman = jax.jit(metrics.auroc), jax.jit(metrics.pearson), jax.jit(metrics.spearman)
