"""What each network withstands, how that falls with the strength, and the codes before and after they were drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import classifier
from experiments.families.classifier import withstood
from experiments.harness import plots, report
from experiments.ot_classifier import methods

if TYPE_CHECKING:
    from experiments.ot_classifier.experiment import Config

Found = dict[str, dict[str, np.ndarray]]  # arrays by network
OF_CODES = "latent_mean_max", "latent_std_min", "latent_std_max", "sliced_w2", "within_share"
HALF, MOST = np.sqrt(2 * np.log(2)), np.sqrt(2 * np.log(20))  # radii with half and 95% of a plane's unit Gaussian


def judge(config: Config, found: Found) -> dict[str, float]:
    """Figures of one seed at the strength --eps."""
    at, figures = classifier.along(config.strengths, config.eps).index(config.eps), {}
    for name, arrays in found.items():
        right = {kind: values[at] for kind, values in attacked(arrays).items()}
        figures[f"accuracy/{name}"] = float(arrays["clean"].mean())
        figures |= {f"robust/{name}/{kind}": float(values.mean()) for kind, values in right.items()}
        figures[f"robust/{name}/min"] = float(np.all(list(right.values()), axis=0).mean())
        figures[f"masked/{name}"] = float(right["pgd"].mean() - right["square"].mean())
        known = (*OF_CODES, "discriminator_accuracy", "gradient_norm", "margin_ratio")
        figures |= {f"{word}/{name}": float(arrays[word]) for word in known if word in arrays}
    return figures | {"power": float(found[methods.undefended(config.networks)[0]]["power"])}


def attacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By attack, what is right at each strength (strengths, n)."""
    return {key.split("/")[1]: values for key, values in arrays.items() if key.startswith("right/")}


def sections(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> list[report.Section]:
    """The report: figures of all seeds, curves and pictures of the first."""
    found = {name: (arrays["clean"], attacked(arrays)) for name, arrays in first.items()}
    along = classifier.along(config.strengths, config.eps)
    few = {name: first[name] for name in list(first)[:: max(1, len(first) // 4)]}
    return [
        scoreboard(config, figures, std, first), *hardened(config, figures),
        withstood.over_strengths(config.workdir, along, found), codes(config, first),
        distribution(figures, first), withstood.verdicts({name: a["warnings"] for name, a in first.items()}),
        withstood.examples(config.workdir, config.eps, few),
    ]  # fmt: skip


def scoreboard(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> report.Section:
    """Networks by attacks."""
    plain = methods.undefended(config.networks)[0]
    text = (
        f"Accuracy at eps {config.eps:g}. min: right under all attacks, image by image; masked: Square is stronger "
        "than PGD by .02 or more. A name says the divergence, the length of the code, and at_ adversarial training. "
        "gradient: median length of the loss gradient, which says more of the confidence than of the robustness; "
        "margin / gradient: the change of all pixels that would overturn a linear network. "
        + withstood.power(plain, figures)
    )
    more = {"gradient": "gradient_norm", "margin / gradient": "margin_ratio"}
    kinds = list(attacked(first[plain]))
    table = withstood.scoreboard(list(first), kinds, figures, std, more=more)
    return report.Section("What is withstood", text, (), table)


def hardened(config: Config, figures: dict[str, float]) -> list[report.Section]:
    """The same networks trained on images as they are and on attacked ones, side by side."""
    both = [name for name in config.networks if f"at_{name}" in config.networks]
    if not both:
        return []
    rows = [
        (name, *(f"{figures[f'{word}/{of}{end}']:.3f}" for word, end in (("accuracy", ""), ("robust", "/min"))
                 for of in (name, f"at_{name}")))
        for name in both
    ]  # fmt: skip
    head = "network", "clean", "clean, adversarial", "min", "min, adversarial"
    text = "Trained on images as they are, and on attacked ones. What a code adds shows within a column."
    return [report.Section("With adversarial training", text, (), (head, *rows))]


def codes(config: Config, first: Found) -> report.Section:
    """Codes in the plane of their two largest principal axes, beside the prior."""
    shown = sorted((n for n in first if not methods.kind(n).hardened), key=lambda name: -methods.kind(name).width)
    panels = {name: (plane(first[name]["codes"]), first[name]["codes_label"]) for name in shown}
    radii = [config.prior_std * radius for radius in (HALF, MOST)]
    picture = plots.clouds(config.workdir, "codes", panels, radii=radii)
    text = (
        "First seed, test images, in the plane in which the codes vary most; colours are classes, circles hold half "
        "and 95% of the prior. none: before, the others after their divergence. Look at the axes: without one the "
        "codes reach far beyond the prior; with one they fill it together, and each class has a part of it."
    )
    return report.Section("The codes", text, (picture,))


def plane(points: np.ndarray) -> np.ndarray:
    """Points (n, d) along the two directions in which they vary most, around where they are; d = 1 has one."""
    wide = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    axes = np.linalg.svd(wide - wide.mean(0), full_matrices=False)[2]
    return wide @ axes[:2].T


def distribution(figures: dict[str, float], first: Found) -> report.Section:
    """Moments of the codes and their distance to the prior."""
    words = (*OF_CODES, "discriminator_accuracy")
    rows = [
        (name, *(f"{figures[f'{word}/{name}']:.3g}" if f"{word}/{name}" in figures else "" for word in words))
        for name in first
    ]
    head = (
        "network", "largest |mean|", "least std", "largest std", "sliced W2 to the prior", "share within classes",
        "discriminator",
    )  # fmt: skip
    text = (
        "Means and deviations of the coordinates over the training set; the squared sliced distance on the test set. "
        "share within classes: of the variance, 0 where each class has one code. discriminator: its accuracy on codes "
        "and prior; 0.5 says that it cannot tell them apart. The prior bounds the codes and not the slope of the "
        "encoder: a distribution of the right shape is no robustness."
    )
    return report.Section("How the codes are distributed", text, (), (head, *rows))
