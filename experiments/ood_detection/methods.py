"""Trainings, detectors and unknown sets of ood_detection, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from subspace_jax import data, nn
from subspace_jax.ood import (
    ash,
    auxiliary_class,
    detectors,
    evaluation,
    knn,
    mahalanobis,
    norm_scaling,
    odin,
    outliers,
    react,
    scores,
    vim,
    vrm,
)  # fmt: skip

if TYPE_CHECKING:
    from experiments.ood_detection.experiment import Config

SET_KEY = 11  # beside those of the classifier family
UNSEEN = "unseen"
AUXILIARY = "aux_soft", "aux_hard"  # trainings with an output more
SOFTLY = "soft", "hard"


class Case(NamedTuple):
    """What detectors are built of, beside outputs: the last layer, the settings of the run."""

    head: Any
    neighbours: int


DETECTORS: dict[str, Callable[[Case], detectors.Detector]] = {
    "msp": lambda case: scores.msp(),
    "maxlogit": lambda case: scores.maxlogit(),
    "energy": lambda case: scores.energy(),
    "entropy": lambda case: scores.entropy(),
    "gen": lambda case: scores.gen(),
    "odin": lambda case: odin.odin(len),  # asked through `odin.confidence`
    "mahalanobis": lambda case: mahalanobis.mahalanobis(),
    "knn": lambda case: knn.knn(k=case.neighbours),
    "vim": lambda case: vim.vim(case.head),
    "react": lambda case: react.react(case.head),
    "ash_s": lambda case: ash.ash(case.head, kind="s"),
    "ash_b": lambda case: ash.ash(case.head, kind="b"),
    "ash_p": lambda case: ash.ash(case.head, kind="p"),
    "norm": lambda case: norm_scaling.norm_scaling("norm"),
    "std": lambda case: norm_scaling.norm_scaling("std"),
    "minmax": lambda case: norm_scaling.norm_scaling("minmax"),
    "weight": lambda case: norm_scaling.weight(case.head),
    "msp_t": lambda case: norm_scaling.matched_raw("norm"),
    "norm_matched": lambda case: norm_scaling.matched("norm"),
    "aux": lambda case: auxiliary_class.aux(),
    "aux_max": lambda case: auxiliary_class.aux_max(),
}
AUX = "aux", "aux_max"
OF_HEAD = "vim", "react", "ash_s", "ash_b", "ash_p", "weight"
OF_FEATURES = *OF_HEAD[:-1], "knn", "mahalanobis"
USUAL = tuple(name for name in DETECTORS if name != "minmax")

TRAININGS: dict[str, Callable[[Config, Any, int, vrm.Noise], Callable | None]] = {
    "erm": lambda config, apply, classes, noise: None,
    "mixup": lambda config, apply, classes, noise: vrm.mixup(apply, alpha=config.alpha),
    "intra": lambda config, apply, classes, noise: vrm.intra(apply, alpha=config.alpha),
} | {
    f"aux_{target}": lambda config, apply, classes, noise, target=target: vrm.auxiliary(
        apply, classes=classes, noise=noise, target=target, alpha=config.alpha, weight=config.aux_weight,
        share_max=config.share_max,
    )
    for target in SOFTLY
}  # fmt: skip


def network(config: Config, classes: int, training: str) -> nn.Model:
    """The network of a training: with an output more for the auxiliary class."""
    outputs = classes + (training in AUXILIARY)
    return nn.build(config.model, **classifier.network_arguments(config, outputs))


def head(params: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The last layer of a network of nn.build, of the known classes."""
    kernel = np.asarray(params["head"]["kernel"])[:, :classes]
    bias = np.asarray(params["head"].get("bias", np.zeros(kernel.shape[1], np.float32)))[:classes]
    return kernel, bias


FILES = {  # sets that are read from --data-dir: name: (data set, grey in any case)
    "greycifar": ("cifar10", True), "fashion_mnist": ("fashion_mnist", False), "mnist": ("mnist", False),
    "cifar10": ("cifar10", False), "cifar100": ("cifar100", False), "tiny_imagenet_32": ("tiny_imagenet_32", False),
}  # fmt: skip
SETS = *outliers.NOISES, "inverted", "permuted", UNSEEN, *FILES
NEAR = {"cifar10": ("cifar100", "tiny_imagenet_32"), "cifar100": ("cifar10", "tiny_imagenet_32")}  # by --data


def near_sets(config: Config) -> list[str]:
    """The sets whose inputs look like those of the classes."""
    return [name for name in config.ood_sets if name in (UNSEEN, *NEAR.get(config.data, ()))]


def far_sets(config: Config) -> list[str]:
    """All other sets."""
    return [name for name in config.ood_sets if name not in near_sets(config)]


def unknown(config: Config, shared: classifier.Setup, seed: int, name: str) -> np.ndarray:
    """Images of a set in [0, 1], in the shape of the known ones, at most --ood-samples of them."""
    known = data.inputs(shared.test)[: config.ood_samples].astype(np.float32) / shared.scaling.divisor
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), SET_KEY), SETS.index(name))
    if name in outliers.NOISES:
        return np.asarray(outliers.NOISES[name](key, (config.ood_samples, *known.shape[1:])))
    if name in FILES:
        source, grey = FILES[name]
        found = data.load(source, "test", config.data_dir or None)["image"][: config.ood_samples]
        return outliers.fitted(found, known.shape[1:], grey=grey).astype(np.float32) / 255
    return outliers.inverted(known) if name == "inverted" else outliers.permuted(key, known)


def scaled(shared: classifier.Setup, image: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as the network sees them."""
    return np.asarray(data.scale(image * np.float32(shared.scaling.divisor), shared.scaling))


class Part(NamedTuple):
    """One question to a training: networks of these classes, against these sets."""

    name: str
    shared: classifier.Setup
    task: classifier.Task
    sets: dict[str, np.ndarray]  # as the network sees them


def parts(config: Config, shared: classifier.Setup, seed: int) -> list[Part]:
    """All classes against other sets; the classes but --near-classes against these."""
    listed, others = [], [name for name in config.ood_sets if name != UNSEEN]
    if others:
        task = classifier.task(config, shared, seed)
        sets = {name: scaled(shared, unknown(config, shared, seed, name)) for name in others}
        for name in (name for name in others if name in FILES):
            evaluation.warn_if_shared(name, task.x, sets[name])
        listed.append(Part("all", shared, task, sets))
    if UNSEEN in config.ood_sets:
        listed.append(without(config, shared, seed))
    return listed


def without(config: Config, shared: classifier.Setup, seed: int) -> Part:
    """The classes that are left without --near-classes, numbered anew; the test samples of these are unknown."""
    left = np.setdiff1d(np.arange(shared.classes), config.near_classes)
    keep = partial(of_classes, left=left)
    outside = np.isin(shared.test["label"], config.near_classes)
    names = tuple(shared.names[k] for k in left) if shared.names else None
    fewer = shared._replace(columns=keep(shared.columns), test=keep(shared.test), classes=len(left), names=names)
    sets = {UNSEEN: np.asarray(data.scale(data.inputs(shared.test)[outside], shared.scaling))}
    return Part("near", fewer, classifier.task(config, fewer, seed), sets)


def of_classes(columns: dict[str, np.ndarray], left: np.ndarray) -> dict[str, np.ndarray]:
    """The samples of some classes, whose labels become 0, 1, ..."""
    mine = np.isin(columns["label"], left)
    found = {name: column[mine] for name, column in columns.items()}
    return found | {"label": np.searchsorted(left, found["label"]).astype(np.int32)}


def seen(shared: classifier.Setup, x: np.ndarray, count: int = 10) -> np.ndarray:
    """The first inputs of a set as pictures, uint8."""
    mean, std = (np.asarray(part, np.float32) for part in shared.scaling[1:])
    pixels = 255 * (x[:count] * std + mean)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
