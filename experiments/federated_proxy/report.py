"""What is shown of federated_proxy: how well updates are encoded, accuracy over bytes, images rebuilt from updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.federated_proxy import methods
from experiments.federated_proxy.figures import EARLY, Parts
from experiments.federated_proxy.protocol import SUFFIX, WEIGHTS
from experiments.harness import plots, report

if TYPE_CHECKING:
    from experiments.federated_proxy.experiment import Config

Numbers = dict[str, float]


def sections(config: Config, means: Numbers, std: Numbers, found: list[Parts]) -> list[report.Section]:
    """The report."""
    listed = []
    if "encoding" in config.parts:
        listed.append(encoding(config, means, std, found))
    if "rounds" in config.parts:
        listed += [over_bytes(config, means, found), scoreboard(config, means, std)]
    if "inversion" in config.parts:
        listed += [*(pictures(config, case, found[0]) for case in methods.cases(config)), attacks(config, means, std)]
    return listed


def shown(means: Numbers, std: Numbers, key: str, digits: int = 3) -> str:
    """A cell of a table."""
    if key not in means:
        return "-"
    return f"{means[key]:.{digits}f}\u00a0±\u00a0{std[key]:.{digits}f}"


def encoding(config: Config, means: Numbers, std: Numbers, found: list[Parts]) -> report.Section:
    """1 - cos by weights, local steps and number of proxies; over the steps of the encoder for the largest update."""
    lines = {}
    for i, weights in enumerate(WEIGHTS):
        for n in config.proxies:
            trace = np.mean([parts["encoding"][f"trace_{n}"][i, -1] for parts in found], axis=0)
            lines[f"{weights}, {n} proxies"] = (np.arange(len(trace)), np.maximum(trace, 1e-6))
    title = f"1 - cos, {config.updates[-1]} local steps"
    figure = plots.curves(config.workdir, "encoding", lines, x="step of the encoder", y=title, log_y=True)
    head = "weights", "local steps", *(f"{n} proxies" for n in config.proxies)
    table = [
        (weights, steps, *(shown(means, std, f"one_minus_cos/{weights}/{steps}/{n}", 4) for n in config.proxies))
        for weights in WEIGHTS
        for steps in config.updates
    ]
    text = (
        f"1 - cos between the update of one client and what the server decodes, after {config.encode_steps} steps of "
        "the encoder; mean and deviation over the seeds. 0: the same direction; 1: nothing in common."
    )
    return report.Section("How well an update is encoded", text, (figure,), (head, *table))


def over_bytes(config: Config, means: Numbers, found: list[Parts]) -> report.Section:
    """Accuracy over what a client has uploaded, and over all that it has sent and received."""
    names = [run.name for run in methods.runs(config) if not run.suffix]
    up, both = {}, {}
    for name in names:
        accuracy, rows = (np.mean([parts[name][kind] for parts in found], axis=0) for kind in ("accuracy", "bytes_up"))
        sent = np.cumsum(rows) / 1024
        up[name] = sent, accuracy
        both[name] = sent + np.cumsum(found[0][name]["bytes_down"]) / 1024, accuracy
    drawn = tuple(
        plots.curves(
            config.workdir, f"accuracy_{what.replace(' ', '_')}", lines, x=f"KiB a client {what}", y="test accuracy",
            log_x=True,
        )
        for what, lines in (("uploaded", up), ("uploaded and downloaded", both))
    )  # fmt: skip
    return report.Section("Accuracy over bytes", words(means, names), drawn)


def words(means: Numbers, names: list[str]) -> str:
    """What the two pictures say, with the figures of this run."""
    said = ["The server's network after each round, mean over the seeds; the weights come down in full."]
    for name in (name for name in names if name.startswith("tofu_") and name[5:].isdigit()):
        other, text = f"top_k_{name[5:]}", f"{name} ends at {means[f'accuracy/{name}']:.3f}"
        early = f"accuracy_round_{EARLY}"
        if f"accuracy/{other}" in means:
            text += f", {other}, of the same bytes, at {means[f'accuracy/{other}']:.3f}"
        if f"{early}/{name}" in means and f"{early}/{other}" in means:
            text += f"; after {EARLY} rounds {means[f'{early}/{name}']:.3f} and {means[f'{early}/{other}']:.3f}"
        said.append(
            f"{text}. It uploads 1/{means[f'ratio_uplink/{name}']:.1f} of the bytes of FedAvg; both directions save a "
            f"factor {means[f'ratio_total/{name}']:.1f}."
        )
    if "accuracy/sign" in means:
        said.append(f"sign with error feedback ends at {means['accuracy/sign']:.3f}.")
    return " ".join(said)


def scoreboard(config: Config, means: Numbers, std: Numbers) -> report.Section:
    """Every training in numbers."""
    names = [run.name for run in methods.runs(config) if not run.suffix]
    names += [key.removeprefix("rounds/") for key in means if key.startswith("rounds/")]
    kinds = {
        "accuracy": 3, f"accuracy_round_{EARLY}": 3, "accuracy_sorted": 3, "cosine": 3, "whole": 3, "bytes_uplink": 0,
        "ratio_uplink": 2, "ratio_total": 2, "seconds_client": 4,
    }  # fmt: skip
    table = [(name, *(shown(means, std, f"{kind}/{name}", kinds[kind]) for kind in kinds)) for name in names]
    text = (
        "Mean and deviation over the seeds. cosine: between the update that a client wanted to send and what was "
        "decoded; whole: share of clients and rounds that fell back to the whole update; bytes of a client and round; "
        "ratios to the bytes of FedAvg, up alone and both ways; seconds of a client and round on this machine, local "
        "steps included. fedavg_equal_bytes_n: FedAvg stopped when it has uploaded what tofu_n uploads in all."
    )
    return report.Section("Every way to upload", text, table=(tuple(k.replace("_", " ") for k in ("", *kinds)), *table))


def pictures(config: Config, case: methods.Case, parts: Parts) -> report.Section:
    """Private images of one case, and what best matches each of them, at fresh weights."""
    arrays, middle = parts["inversion"], config.proxies[len(config.proxies) // 2]
    rows = {
        "private": ("private image", ""), "proxy": (f"best of {middle} proxies", f"proxy/decoded_{middle}"),
        "true": ("rebuilt, true update", "ig/true"), "decoded": ("rebuilt, decoded update", f"ig/decoded_{middle}"),
        "guess": ("guess: class means", "guess"),
    }  # fmt: skip
    shown = []
    for kind, (heading, name) in rows.items():
        images = (255 * np.clip(arrays[f"shown/{kind}/{case.name}"], 0, 1)).astype(np.uint8)
        errors = arrays[f"mse/{name}/{case.name}"] if name else [None] * len(images)
        captions = ["" if error is None else f"{error:.3f}" for error in errors]
        pairs = zip(images, captions, strict=False)
        shown.append((heading, [(image, caption, False) for image, caption in pairs]))
    where = f"{case.steps} steps on {case.batch} images" if case.steps > 1 else f"one step on {case.batch} images"
    text = (
        "First seed, fresh weights. Below each private image the best match of what was made, with its mean squared "
        "error. The guess knows the labels and sees no update."
    )
    return report.gallery(f"Rebuilt from an update: {where}", text, config.workdir, f"rebuilt_{case.name}", shown)


def attacks(config: Config, means: Numbers, std: Numbers) -> report.Section:
    """Errors of every attack beside those of the guesses."""
    cases = [case.name + suffix for suffix in SUFFIX for case in methods.cases(config)]
    sources = ["true", *(f"decoded_{n}" for n in config.proxies)]
    names = [f"{attack}/{source}" for attack in ("ig", "analytic", "proxy") for source in sources]
    table = []
    for name in [*(n for n in names if f"mse/{n}/{cases[0]}" in means), "guess", "guess_random"]:
        table.append((name, *(shown(means, std, f"mse/{name}/{case}") for case in cases)))
    groups = {
        name: [means[f"mse_over_guess/{name}/{case.name}"] for case in methods.cases(config)]
        for name in names
        if f"mse_over_guess/{name}/{cases[0]}" in means
    }
    labels = [case.name for case in methods.cases(config)]
    figure = plots.bars(config.workdir, "over_guess", groups, labels=labels, x="update", y="error over the guess's")
    text = (
        "Mean squared error of the best match of each private image, mean and deviation over the seeds; the picture "
        "shows it at fresh weights over that of the guess: below 1 the update told something. Attacks make unequal "
        "numbers of images (analytic: one a unit, proxy: one a proxy), and more images match better. A decoded update "
        "leaks as the true one does where few images made a single step: obfuscation is no guarantee of privacy, and "
        "the encoder inverts gradients itself. Many local steps stop these attacks with and without proxies; one that "
        "unrolls the steps was not tried."
    )
    return report.Section("Every attack", text, (figure,), (("", *cases), *table))
