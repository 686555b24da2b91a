"""What labels of public images bring, and whom they reach: figures, tables and pictures of distill_decentralized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.distill_decentralized import methods
from experiments.harness import plots, report
from subspace_jax.data import partition

if TYPE_CHECKING:
    from experiments.distill_decentralized.experiment import Config

Arrays = dict[str, np.ndarray]
SHOWN = 10  # images a row
KINDS = {
    "accuracy_mean": "own models", "accuracy_worst": "worst agent", "accuracy_gossiped": "own, one exchange later",
    "accuracy_consensus": "mean of all models",
}  # fmt: skip


def figures(config: Config, listed: list[methods.Run], found: dict[str, Arrays]) -> dict[str, float]:
    """The figures of one seed, after the last step."""
    figures: dict[str, float] = {}
    for one in listed:
        arrays, name = found[one.name], one.name
        own = arrays["accuracy"][-1]
        figures |= {
            f"accuracy_mean/{name}": own.mean(), f"accuracy_worst/{name}": own.min(),
            f"accuracy_consensus/{name}": arrays["consensus"][-1],
            f"accuracy_gossiped/{name}": arrays["gossiped"][-1].mean(),
            f"bytes_labels/{name}": arrays["bytes_labels"][-1],
            f"bytes_share/{name}": arrays["bytes_labels"][-1] / arrays["bytes_model"][-1],
            f"steps/{name}": arrays["step"][-1],
        }  # fmt: skip
    for one in detected(listed):
        figures |= of_labels(found[one.name], suffix(config, one))
        for kind, other in (("gain", ""), ("gain_over_kd", "_kd")):
            other = one._replace(variant=other).name
            figures[f"{kind}/{one.name}"] = figures[f"accuracy_mean/{one.name}"] - figures[f"accuracy_mean/{other}"]
    return {name: float(value) for name, value in figures.items()}


def detected(listed: list[methods.Run]) -> list[methods.Run]:
    """The runs whose agents choose what they label."""
    return [one for one in listed if one.variant == "_idkd"]


def suffix(config: Config, one: methods.Run) -> str:
    """Behind the names of the figures of labels: nothing for the first method on the data of the flags."""
    return "" if one.base == config.base[0] and not one.world.suffix else f"_{one.common}"


def of_labels(arrays: Arrays, suffix: str) -> dict[str, float]:
    """Share of related images and of noise that agents keep, and that they have a label for; skew; threshold."""
    good = arrays["good"]
    figures = {
        f"{kind}/{which}{suffix}": arrays[kind][:, mask].mean()
        for kind in ("kept", "covered")
        for which, mask in (("good", good), ("noise", ~good))
        if mask.any()
    }
    return figures | {
        f"skew/before{suffix}": partition.skewness(arrays["before"]),
        f"skew/after{suffix}": partition.skewness(arrays["after"]),
        f"threshold{suffix}": np.minimum(arrays["threshold"], 1).mean(),  # inf keeps nothing, as more than 1 does
    }


def sections(
    config: Config,
    listed: list[methods.Run],
    means: dict[str, float],
    std: dict[str, float],
    first: dict[str, Arrays],
    public: np.ndarray,
) -> list[report.Section]:
    """The table of all runs, what it says, what was labelled; then the pictures of the first seed."""
    here = [one for one in listed if not one.world.suffix]
    return [
        scoreboard(listed, means, std),
        report.Section("What the labels bring", words(listed, means, std)),
        labels(config, listed, means),
        *[shares(config, one, first[one.name]) for one in detected(here)],
        classes(config, detected(here)[0], first),
        gallery(config, detected(here)[0], first, public),
        over_the_run(config, here, first),
    ]


def scoreboard(listed: list[methods.Run], means: dict[str, float], std: dict[str, float]) -> report.Section:
    """Every run with what it reaches and sends."""
    table = [
        (one.name, *(f"{means[k]:.3f}\u00a0±\u00a0{std[k]:.3f}" for k in (f"{kind}/{one.name}" for kind in KINDS)),
         f"{means[f'bytes_labels/{one.name}']:,.0f}", f"{means[f'bytes_share/{one.name}']:.4f}")
        for one in listed
    ]  # fmt: skip
    text = (
        "Test accuracy after the last step, mean and deviation over the seeds; all take the same number of steps. _kd: "
        "every agent labels all public images; _idkd: those above its threshold; _good_only: those that are no noise. "
        "Bytes of labels are those that an agent sends in all, beside them as a share of the bytes of models."
    )
    return report.Section("Methods", text, table=(("method", *KINDS.values(), "bytes of labels", "share"), *table))


def words(listed: list[methods.Run], means: dict[str, float], std: dict[str, float]) -> str:
    """The gain by the labels that were chosen, over none and over all, and whether it is more than chance."""
    said = []
    for one in detected(listed):
        for kind, other in (
            ("gain", one._replace(variant="").name),
            ("gain_over_kd", one._replace(variant="_kd").name),
        ):
            gain, spread = means[f"{kind}/{one.name}"], std[f"{kind}/{one.name}"]
            verdict = ", within noise at this size" if abs(gain) <= spread else ""
            said.append(f"{one.name} is {gain:+.4f} ± {spread:.4f} from {other}{verdict}.")
        oracle = one._replace(variant="_good_only").name
        if f"accuracy_mean/{oracle}" in means:
            gap = means[f"accuracy_mean/{oracle}"] - means[f"accuracy_mean/{one.name}"]
            said.append(f"To keep what is no noise, and all of it, ends {gap:+.4f} from {one.name}.")
    return " ".join(said) + " Deviations are of the differences, seed by seed."


def labels(config: Config, listed: list[methods.Run], means: dict[str, float]) -> report.Section:
    """Which images are labelled, and how alike the agents' classes become."""
    kinds = {
        "kept/good": "related, kept", "kept/noise": "noise, kept", "covered/good": "related, labelled by anybody near",
        "covered/noise": "noise, labelled", "skew/before": "skew before", "skew/after": "skew after",
        "threshold": "threshold",
    }  # fmt: skip
    table = [
        (one.name, *(f"{means[key]:.3f}" if (key := kind + suffix(config, one)) in means else "-" for kind in kinds))
        for one in detected(listed)
    ]
    text = (
        "Shares of the public images, mean over agents and seeds: kept by an agent's own threshold, and with a label "
        "after the exchange. Skew: mean total variation between the classes of an agent and those of all, by the "
        "private samples, then with the labels added."
    )
    return report.Section("What is labelled", text, table=(("method", *kinds.values()), *table))


def shares(config: Config, one: methods.Run, arrays: Arrays) -> report.Section:
    """Share of related images and of noise that each agent keeps."""
    good = arrays["good"]
    sides = {"related": good, "noise": ~good}
    rows = {f"{side}, {kind}": arrays[kind][:, mask].mean(1)
            for side, mask in sides.items() if mask.any() for kind in ("kept", "covered")}  # fmt: skip
    figure = plots.bars(
        config.workdir, f"kept_{one.name}", rows, labels=range(len(arrays["kept"])), x="agent", y="share of the images"
    )
    text = "First seed: kept by the agent itself, and covered after the exchange."
    return report.Section(f"Whose labels: {one.name}", text, (figure,))


def classes(config: Config, one: methods.Run, first: dict[str, Arrays]) -> report.Section:
    """Class histograms of the agents before and after."""
    pictures = tuple(
        plots.heatmap(
            config.workdir, f"classes_{when}", histogram, rows=range(len(histogram)),
            columns=range(histogram.shape[1]), x=f"class, {when}", y="agent", format=".0f",
        )
        for when, histogram in ((when, first[one.name][when]) for when in ("before", "after"))
    )  # fmt: skip
    text = f"Samples that an agent trains on, by class: private ones, then with the labels of {one.name}. First seed."
    return report.Section("Classes of each agent", text, pictures)


def gallery(config: Config, one: methods.Run, first: dict[str, Arrays], public: np.ndarray) -> report.Section:
    """Images that agents keep and drop, evenly spread over both."""
    arrays = first[one.name]
    shown = public
    if public.ndim == 4 and public.dtype != np.uint8:
        shown = np.clip(np.round(public), 0, 255).astype(np.uint8)
    rows = []
    for agent in (0, len(arrays["kept"]) // 2):
        for name, mask in (("keeps", arrays["kept"][agent]), ("drops", ~arrays["kept"][agent])):
            chosen = np.flatnonzero(mask)
            chosen = chosen[np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).astype(int)]
            if len(chosen):
                images = [(shown[i], report.caption(shown[i], int(i), "" if arrays["good"][i] else "noise"),
                           not arrays["good"][i]) for i in chosen]  # fmt: skip
                rows.append((f"agent {agent} {name}", images))
    return report.gallery("Kept and dropped", "First seed; noise is framed.", config.workdir, "kept_images", rows)


def over_the_run(config: Config, here: list[methods.Run], first: dict[str, Arrays]) -> report.Section:
    """Accuracy of own models over steps and over bytes."""
    found = {one.name: first[one.name] for one in here}
    own = {name: a["accuracy"].mean(1) for name, a in found.items()}
    sent = {name: (a["bytes_model"] + a["bytes_labels"]) / 1e6 for name, a in found.items()}
    pictures = (
        plots.curves(config.workdir, "steps", {name: (a["step"], own[name]) for name, a in found.items()}, x="steps",
                     y="accuracy of own models"),
        plots.curves(config.workdir, "bytes", {name: (sent[name], own[name]) for name in found},
                     x="megabytes sent by an agent", y="accuracy of own models"),
    )  # fmt: skip
    turn = methods.turn(config)
    return report.Section("Over the run", f"First seed. Labels are exchanged after step {turn}.", pictures)
