"""The trusted sets, Verifix on any network, and the baselines of label_correction by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained
from experiments.harness import timing
from subspace_jax import data, nn, training
from subspace_jax.core import capture
from subspace_jax.label_noise import mixup, sam, trusted
from subspace_jax.label_noise.verifix import Selected, verifix_select
from subspace_jax.memorization import scores
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.label_correction.experiment import Config

SELECTION_KEY, SELECTION_NOISE_KEY, TRUSTED_KEY = range(4, 7)  # folded into the seed's key; 0 to 3 are taken
SETS = "clean_members", "random_members", "low_curvature", "unseen"
BASELINES, CORRECTED = ("finetune", "trusted_only", "retrain", "sam", "mixup"), ("sam", "mixup")
CAPTURED = 256  # trusted samples a batch: the patches of a convolution are many times its input
FINETUNE_STEPS = 500
FINETUNE = training.Recipe("sgd", lr=0.01, momentum=0.9, weight_decay=0.0, batch=64)
Arrays = dict[str, Any]


class Samples(NamedTuple):
    """Some samples: raw pixels, the label they came with, the true one, positions in the original files."""

    image: np.ndarray
    label: np.ndarray
    true: np.ndarray
    index: np.ndarray


class Case(NamedTuple):
    """One seed: what is trained on, and of the training samples left out those that choose alpha and the rest."""

    config: Config
    shared: classifier.Setup
    task: classifier.Task
    seed: int
    key: Any
    members: Samples
    selection: Samples  # labels as noisy as the members'
    rest: Samples

    @property
    def classes(self) -> np.ndarray:
        """The classes that it is trained on; a network may have more outputs."""
        return np.unique(self.members.label)


def case(config: Config, shared: classifier.Setup, seed: int) -> Case:
    """Plant the noise of one seed, among the samples to train on and among those that choose alpha."""
    shared = classifier.own(config, shared, seed)
    task, key = classifier.task(config, shared, seed), jax.random.key(seed)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, SELECTION_KEY), len(shared.unseen["label"])))
    chosen, rest = (
        {name: column[rows] for name, column in shared.unseen.items()}
        for rows in np.split(order, [config.selection_count])
    )
    noise_key = jax.random.fold_in(key, SELECTION_NOISE_KEY)
    noisy = classifier.noisy_labels(config, shared._replace(columns=chosen), noise_key)
    return Case(
        config, shared, task, seed, key,
        members=Samples(task.image, task.label, task.true, task.index),
        selection=Samples(data.inputs(chosen), noisy, chosen["label"], chosen["index"]),
        rest=Samples(data.inputs(rest), rest["label"], rest["label"], rest["index"]),
    )  # fmt: skip


def scaled(case: Case, samples: Samples) -> Any:
    """Their inputs as the network sees them."""
    return data.scale(samples.image, case.shared.scaling)


def take(samples: Samples, rows: np.ndarray) -> Samples:
    """Some of them."""
    return Samples(*(column[rows] for column in samples))


# ---- who is trusted --------------------------------------------------------------------------------------------------
def trust(case: Case, samples: Samples, rows: np.ndarray) -> Samples:
    """Some samples as a trusted set; refused where they leave out a class."""
    chosen = take(samples, rows)
    trusted.check_trusted(np.arange(len(rows)), chosen.label, classes=case.classes)
    return chosen


def random_sets(case: Case, count: int) -> dict[str, Samples]:
    """Trusted sets that need no network: right labels, any labels, and samples never seen, as many as there are.

    There is no set of the latter where all samples of a class were trained on, or were taken to choose alpha.
    """
    label, per_class = case.members.label, count // len(case.classes)
    choose = functools.partial(
        trusted.select_members, jax.random.fold_in(case.key, TRUSTED_KEY), y=label, per_class=per_class
    )
    found = {
        "clean_members": trust(case, case.members, choose(np.flatnonzero(label == case.members.true))),
        "random_members": trust(case, case.members, choose(np.arange(len(label)))),
    }
    unseen = [np.flatnonzero(case.rest.label == c)[:per_class] for c in case.classes]
    if case.config.trusted == "unseen" or all(map(len, unseen)):
        found["unseen"] = trust(case, case.rest, np.concatenate(unseen))
    return found


def low_curvature(case: Case, original: classifier.Trained) -> Arrays:
    """Positions of the training samples of lowest input-loss curvature under the trained network, per given label."""
    curvature = scores.score(
        jax.random.fold_in(case.key, classifier.SCORE_KEY), original.model.apply, original.variables, case.task.x,
        case.members.label, index=case.members.index,
    )  # fmt: skip
    per_class = case.config.trusted_count // len(case.classes)
    rows = trusted.select_trusted(curvature, case.members.label, per_class=per_class, skip=case.config.skip)
    return {"rows": rows}


# ---- what is done ----------------------------------------------------------------------------------------------------
def clocked(case: Case, run: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of a run; where runs are short, the first seed runs once before, to compile."""
    if case.config.preset == "cpu" and case.seed == case.config.seed:
        run()
    return timing.timed(run)


def correct(case: Case, model: nn.Model, variables: Variables, x: Any) -> tuple[Selected, list[Variables]]:
    """Verifix from the trusted inputs x: the edit that noisy labels choose, and all that were tried."""
    table = capture.layers(model.apply, variables, x[:1])
    batches = np.array_split(x, -(-len(x) // CAPTURED))
    moments = capture.collect(model.apply, variables, batches, dtype="float64")
    selection, edits = scaled(case, case.selection), []

    def score(edit: Variables) -> Any:
        edits.append(edit)
        return training.evaluate(model.apply, edit, selection, case.selection.label)

    return verifix_select(table, variables, moments, alphas=case.config.alphas, score_fn=score), edits


def corrected(case: Case, model: nn.Model, variables: Variables, given: Samples) -> tuple[Selected, Arrays]:
    """The edit, and accuracies without it and at each alpha: of the selection with noisy and clean labels, of test."""
    (best, edits), seconds = clocked(case, lambda: correct(case, model, variables, scaled(case, given)))
    selection, task = scaled(case, case.selection), case.task
    judges = {"clean_selection": (selection, case.selection.true), "test": (task.test_x, task.test_label)}
    curves = {name: [training.evaluate(model.apply, e, *samples) for e in edits] for name, samples in judges.items()}
    return best, {"selection": best.scores, **curves, "seconds": seconds}


def verifix(case: Case, original: classifier.Trained, given: Samples, *, save: bool = False) -> Arrays:
    """The network corrected from one trusted set, saved where asked for."""
    best, arrays = corrected(case, original.model, original.variables, given)
    if save:
        layers = list(capture.layers(original.model.apply, original.variables, case.task.x[:1]))
        classifier.save_edited(
            case.config, case.seed, original, best.params, method="verifix", layers=layers, alpha=best.alpha,
            trusted=given.index.tolist(), data=case.config.data,
        )  # fmt: skip
    predicted = training.predict(original.model.apply, best.params, case.task.test_x).argmax(-1)
    return arrays | {"predicted": predicted, "clean": (given.label == given.true).mean(), "index": given.index}


def baselines(case: Case, original: classifier.Trained, given: Samples) -> dict[str, Callable[[], Variables]]:
    """By name, what trains the network of a baseline; those from scratch start where the network did."""
    model, members = original.model, case.members
    plain = training.mean_loss(model.train_apply)
    clean = take(members, members.label == members.true)
    return {
        "finetune": functools.partial(finetune, case, original, given),
        "trusted_only": functools.partial(from_scratch, case, model, plain, given),
        "retrain": functools.partial(from_scratch, case, model, plain, clean),
        "sam": functools.partial(from_scratch, case, model, sam.sam(plain), members),
        "mixup": functools.partial(from_scratch, case, model, mixup.mixup(model.train_apply), members),
    }


def baseline(case: Case, model: nn.Model, run: Callable[[], Variables], given: Samples | None = None) -> Arrays:
    """Accuracy and seconds of a baseline, and of its correction where there are samples for it."""
    variables, seconds = clocked(case, run)
    arrays = {} if given is None else corrected(case, model, variables, given)[1]
    accuracy = training.evaluate(model.apply, variables, case.task.test_x, case.task.test_label)
    return arrays | {"accuracy": accuracy, "seconds": seconds}


def finetune(case: Case, original: classifier.Trained, given: Samples) -> Variables:
    """The network trained on, by the trusted samples."""
    objective = training.mean_loss(original.model.train_apply)
    return training.minimise(
        case.key, objective, training.optimizer(FINETUNE, FINETUNE_STEPS), original.variables,
        [(given.image, given.label)], steps=FINETUNE_STEPS, batch=FINETUNE.batch, prepare=case.shared.prepare,
    )  # fmt: skip


def from_scratch(case: Case, model: nn.Model, objective: Callable, samples: Samples) -> Variables:
    """A new network, by the recipe of the run and as many steps, whatever the number of samples."""
    steps = case.config.epochs * (len(case.members.label) // case.config.batch)
    return retrained.from_scratch(
        case.config, case.shared, case.seed, (samples.image, samples.label), steps=steps, model=model,
        objective=objective,
    )  # fmt: skip
