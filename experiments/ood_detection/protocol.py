"""One network of ood_detection: trained, asked about known and unknown inputs, and judged by every detector."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from experiments.ood_detection import methods
from experiments.ood_detection.methods import Part
from subspace_jax import checkpoint, nn, training
from subspace_jax.core import capture, checks, costs
from subspace_jax.ood import auxiliary_class, detectors, evaluation, norm_scaling, odin, vrm
from subspace_jax.ood.detectors import Outputs
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.ood_detection.experiment import Config

KNOWN = "id"  # among the names of sets
SAVES = 3  # checkpoints of a training


def one_network(config: Config, part: Part, seed: int, name: str) -> dict[str, Any]:
    """Scores "score/<detector>/<set>" of one training on one part, accuracy, what the auxiliary class flags, costs."""
    model, variables = trained(config, part, seed, name)
    classes = part.shared.classes
    places = {KNOWN: part.task.test_x} | part.sets
    train = answers(model, variables, part.task.x)
    said = {place: answers(model, variables, x) for place, x in places.items()}
    asked = wanted(config, name)
    case = methods.Case(methods.head(variables["params"], classes), config.neighbours)
    arrays = scored(asked, case, train, part.task.label, said, classes)
    if "odin" in asked:
        ask = _odin(model.apply, classes, part.shared.scaling.std)
        arrays |= {
            f"score/odin/{place}": training.score_dataset(jax.random.key(0), ask, variables, (x,), label="odin")
            for place, x in places.items()
        }
    arrays["accuracy"] = (said[KNOWN].logits[:, :classes].argmax(axis=1) == part.task.test_label).mean()
    if name in methods.AUXILIARY:
        arrays |= {f"flagged/{place}": auxiliary_class.flagged(one.logits).mean() for place, one in said.items()}
    arrays |= spreads(train, part.task.label, said[KNOWN], part.task.test_label, classes)
    table = capture.layers(model.apply, variables, part.task.x[:1])
    x, width = part.task.x, len(case.head[0])
    sizes = detectors.Sizes(classes, width, len(x), x[0].size, 2 * costs.macs(table))
    return arrays | {f"cost/{one}": np.array(methods.DETECTORS[one](case).cost(sizes), float) for one in asked}


def wanted(config: Config, name: str) -> list[str]:
    """The detectors of a training: those of the auxiliary class only where there is one."""
    listed = config.detectors or methods.USUAL
    return [one for one in listed if one not in methods.AUX or name in methods.AUXILIARY]


def trained(config: Config, part: Part, seed: int, name: str) -> tuple[nn.Model, Variables]:
    """The network, from --checkpoint or by the recipe of the run; the same key, and so the same order, for all."""
    if config.checkpoint:
        found = classifier.trained(config, part.shared, part.task, seed)
        return found.model, found.variables
    shared, task = part.shared, part.task
    model = methods.network(config, shared.classes, name)
    noise = vrm.noise_like(task.x)
    objective = methods.TRAININGS[name](config, model.train_apply, shared.classes, noise)
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    epoch = training.train_epoch(model, tx, batch=config.batch, prepare=shared.prepare, objective=objective)
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    outputs = shared.classes + (name in methods.AUXILIARY)
    about = classifier.checkpoint_config(config, shared._replace(classes=outputs), seed)
    about |= {"training": name} | ({"without_classes": list(config.near_classes)} if part.name == "near" else {})
    state, _ = checkpoint.resumable_fit(
        f"{config.workdir}/checkpoints/{name}{'' if part.name == 'all' else '_near'}/seed{seed}", epoch,
        classifier.create(key, model, tx, task.x[:1]), (task.image, task.label), epochs=config.epochs, config=about,
        save_every=max(1, config.epochs // SAVES), label=f"seed {seed}, {name}, {part.name}",
    )  # fmt: skip
    return model, training.variables(state)


def answers(model: nn.Model, variables: Variables, x: Any) -> Outputs:
    """Logits and penultimate features of a whole set."""
    found = training.score_dataset(jax.random.key(0), _read(model.features), variables, (x,), label="outputs")
    logits, features = jax.device_get(found)
    checks.check_finite("logits", logits, remedy="the training diverged: lower --lr")
    return Outputs(logits, {"penultimate": features})


def scored(
    asked: list[str], case: methods.Case, train: Outputs, label: np.ndarray, said: dict[str, Outputs], classes: int
) -> dict[str, Any]:
    """Every detector but odin, fitted on training outputs, on all sets: in one call each, of one shape."""
    ends = np.cumsum([len(one.logits) for one in said.values()])[:-1]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *said.values())
    arrays: dict[str, Any] = {}
    for name in (name for name in asked if name != "odin"):
        fit, new = (one if name in methods.AUX else known(one, classes) for one in (train, whole))
        detector = methods.DETECTORS[name](case)
        found = np.asarray(_compiled(detector.score)(detector.fit(fit, label), new))
        arrays |= {f"score/{name}/{place}": part for place, part in zip(said, np.split(found, ends), strict=True)}
    return arrays


def known(outputs: Outputs, classes: int) -> Outputs:
    """Without the auxiliary class."""
    return outputs._replace(logits=outputs.logits[:, :classes])


def spreads(train: Outputs, label: np.ndarray, test: Outputs, test_label: np.ndarray, classes: int) -> dict[str, float]:
    """Largest less smallest 5 % quantile of the own-class logits of test samples, raw and after `std`."""
    shift, scale = norm_scaling.transform(norm_scaling.statistics(train.logits[:, :classes], label, missing="identity"))
    if len(np.unique(test_label)) < classes:
        return {}
    found = {}
    for name, logits in (("raw", test.logits[:, :classes]), ("std", (test.logits[:, :classes] - shift) / scale)):
        own = logits[np.arange(len(test_label)), test_label]
        found[f"class_spread/{name}"] = np.ptp(evaluation.class_quantiles(own, test_label, classes=classes))
    return found


@lru_cache
def _compiled(score: Callable) -> Callable:
    """One program for a detector of the same settings, whichever network."""
    return jax.jit(score)


@lru_cache
def _read(features: Callable) -> Callable:
    def read(keys, variables, x):
        stages = features(variables, x)
        return stages["logits"], stages["penultimate"]

    return read


@lru_cache
def _odin(apply: Callable, classes: int, std: tuple[float, ...]) -> Callable:
    def ask(keys, variables, x):
        return odin.confidence(lambda v, x: apply(v, x)[:, :classes], variables, x, std=std)

    return ask


def from_file(config: Config) -> dict[str, Any]:
    """Scores of outputs of one's own: an npz file with train_logits, train_label, test_logits and NAME_logits of sets.

    Where there are also train_features, test_features and NAME_features, head_kernel and head_bias, all detectors are
    tried, otherwise those that need no more than there is.

    Raises:
      ValueError: arrays that are missing, a detector asked for by name that lacks something, only one kind present.
    """
    with np.load(config.features, allow_pickle=False) as found:
        arrays = dict(found)
    sets = [name.removesuffix("_logits") for name in arrays if name.endswith("_logits")]
    unknown = [name for name in sets if name not in ("train", "test")]
    if missing := [name for name in ("train_logits", "train_label", "test_logits") if name not in arrays]:
        raise ValueError(f"{config.features} has no {' and no '.join(missing)}; it holds {', '.join(arrays)}.")
    if not unknown:
        raise ValueError(f"{config.features} has known samples alone: add NAME_logits of a set of unknown ones.")
    has_features = all(f"{name}_features" in arrays for name in sets)
    head = (arrays["head_kernel"], arrays["head_bias"]) if {"head_kernel", "head_bias"} <= set(arrays) else None
    asked = possible(config, features=has_features, head=head is not None)
    said = {
        name: Outputs(arrays[f"{name}_logits"], {"penultimate": arrays[f"{name}_features"]} if has_features else {})
        for name in sets
    }
    classes = said["train"].logits.shape[1] - bool(set(asked) & set(methods.AUX))
    for name, one in said.items():
        detectors.check(one, arrays["train_label"] if name == "train" else None)
    checks.check_labels(arrays["train_label"], classes)
    case = methods.Case(head, config.neighbours)
    places = {KNOWN: said["test"]} | {name: said[name] for name in unknown}
    width = arrays["train_features"].shape[1] if has_features else 0
    sizes = detectors.Sizes(classes, width, len(arrays["train_label"]), 0, 0)
    priced = {f"cost/{name}": np.array(methods.DETECTORS[name](case).cost(sizes), float) for name in asked}
    return scored(asked, case, said["train"], arrays["train_label"], places, classes) | priced


def possible(config: Config, *, features: bool, head: bool) -> list[str]:
    """The detectors that the arrays of a file allow; those asked for by name must be.

    Raises:
      ValueError: names a detector and what it lacks.
    """
    lacks: dict[str, str] = {"odin": "the network itself, which a file has not"}
    lacks |= {} if head else dict.fromkeys(methods.OF_HEAD, "head_kernel and head_bias")
    lacks |= {} if features else dict.fromkeys(methods.OF_FEATURES, "train_features, test_features and those of sets")
    for name in config.detectors:
        if name in lacks:
            raise ValueError(f"--detectors {name} needs {lacks[name]}.")
    usual = [name for name in methods.USUAL if name not in methods.AUX]
    return [name for name in config.detectors or usual if name not in lacks]
