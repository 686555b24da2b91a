"""The methods of class unlearning on one network: the edit and its ablations, the baselines, the attack by shadows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained
from subspace_jax import training, trees
from subspace_jax.core import capture
from subspace_jax.typing import Variables
from subspace_jax.unlearning import baselines, class_projection, evaluation, samples
from subspace_jax.unlearning.baselines import last_layers

if TYPE_CHECKING:
    from experiments.class_unlearning.experiment import Config

DRAW_KEY, METHOD_KEY = 8, 9  # folded into the seed's key, beside those of families.classifier
HELD_SHARE, HELD_MOST = 0.2, 2000  # training samples on which the strengths are chosen
HELD_BATCH = 512  # of them in a call
SHADOW_SEEDS = 1000, 2000  # added to the seed: networks with the class, and without
label_logit = jax.jit(evaluation.label_logit)


class Rows(NamedTuple):
    """Indices of the samples by purpose; samples of classes that were forgotten earlier are in none."""

    retain: np.ndarray  # of the training set: what every method gets
    forget: np.ndarray
    held: np.ndarray  # for the choice of the strengths
    stay: np.ndarray  # all
    go: np.ndarray
    test: np.ndarray  # of the test set


class Case(NamedTuple):
    """One network, and what it is to forget."""

    config: Config
    shared: classifier.Setup
    task: classifier.Task
    seed: int
    original: classifier.Trained
    earlier: tuple[int, ...]
    rows: Rows

    def train(self, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        """Inputs and labels of training samples."""
        return self.task.x[rows], self.task.label[rows]


def check(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> None:
    """Refuse flags that no method could use, before anything is trained."""
    if config.shadows < 0 or config.shadows in (1, 2):
        raise ValueError(f"--shadows is 0 or at least 3, of which one is held out in turn; got {config.shadows}.")
    if config.tune_epochs < 1:
        raise ValueError(f"--tune-epochs is at least 1, a pass over the retain set; got {config.tune_epochs}.")
    if unknown := set(config.baselines) - set(baselines.METHODS):
        raise ValueError(f"--baselines: no way to forget {min(unknown)!r}; there are {', '.join(baselines.METHODS)}.")
    choose(config, task, seed, config.forget, ())
    shapes = jax.eval_shape(shared.network.init, jax.random.key(0), task.x[:1])
    last_layers.leaves(shared.network, shapes, task.x, config.last_layers)


def choose(config: Config, task: classifier.Task, seed: int, forget: tuple[int, ...], earlier: tuple[int, ...]) -> Rows:
    """A part is held out first, the same whatever is forgotten; the samples of the methods are drawn from the rest."""
    from sklearn.model_selection import train_test_split

    y, key = task.label, jax.random.fold_in(jax.random.key(seed), DRAW_KEY)
    everything = np.arange(len(y))
    held = min(HELD_MOST, round(HELD_SHARE * len(y)))
    rest, held = train_test_split(everything, test_size=held, stratify=y, random_state=seed)
    known, rest, held = (rows[~np.isin(y[rows], earlier)] for rows in (everything, rest, held))
    staying = np.setdiff1d(y[rest], forget)
    if not len(staying):
        raise ValueError(f"no class stays when {sorted(forget)} are forgotten: name fewer in --forget.")
    count = config.samples_per_class * len(staying)
    drawn = samples.select_samples(key, y[rest], forget=forget, retain_count=count, forget_count=count)
    going = np.isin(y[known], forget)
    test = np.flatnonzero(~np.isin(task.test_label, earlier))
    return Rows(rest[drawn.retain], rest[drawn.forget], held, known[~going], known[going], test)


Method = Callable[[], tuple[baselines.Unlearned, dict[str, Any]]]


def methods(case: Case) -> dict[str, Method]:
    """What each method makes of the network, with its cost and what it chose."""
    config, variables = case.config, case.original.variables
    edit = functools.partial(project, case, variables, case.rows, config.forget)
    listed: dict[str, Method] = {
        "original": lambda: (baselines.Unlearned(variables, 0, 0), {}),
        "projection": edit,
        "no_shared": functools.partial(edit, alphas_r=(0,)),
    }
    if config.layers == "all":
        listed["last_layer"] = functools.partial(edit, last=True)
    if len(config.forget) > 1:
        listed["projection_sequential"] = lambda: one_by_one(case)
    trained = config.baselines or (() if "weights" in case.original.config else baselines.METHODS)
    return listed | {name: functools.partial(train_on, case, name) for name in trained}


def edited_layers(case: Case, *, last: bool = False) -> list[str]:
    """The layers that --layers names; the last one alone when asked for."""
    layers = list(capture.layers(case.original.model.apply, case.original.variables, case.task.x[:1]))
    return layers[-1:] if last or case.config.layers == "last" else layers


def project(
    case: Case, variables: Variables, rows: Rows, forget: tuple[int, ...], *, last: bool = False, **options: Any
) -> tuple[baselines.Unlearned, dict[str, Any]]:
    """The closed-form edit, its strengths chosen on the held-out part of the training set."""
    apply = case.original.model.apply
    x, y = jax.device_put(case.train(rows.held))
    score = functools.partial(held_score, apply, x=x, y=y, gone=np.isin(y, forget))
    table, layers = capture.layers(apply, variables, x[:1]), edited_layers(case, last=last)
    retain, going = (
        classifier.measure(apply, variables, case.train(part)[0], layers=layers) for part in (rows.retain, rows.forget)
    )
    found = class_projection.unlearn_search(table, variables, retain, going, score, layers=layers, **options)
    passes = len(rows.retain) + len(rows.forget) + found.scores.size * len(x)
    chosen = {"alpha_r": found.alpha_r, "alpha_f": found.alpha_f, "grid": found.scores}
    return baselines.Unlearned(found.params, passes, 0), chosen


def held_score(apply: Callable, variables: Variables, *, x: Any, y: Any, gone: Any) -> Any:
    """acc_retain (1 - acc_forget) of all held-out samples."""
    parts = [slice(start, start + HELD_BATCH) for start in range(0, len(x), HELD_BATCH)]
    return score_of(jnp.concatenate([is_right(apply, variables, x[part], y[part]) for part in parts]), gone)


@functools.partial(jax.jit, static_argnums=0)  # one call a pair of strengths and batch
def is_right(apply: Callable, variables: Variables, x: Any, y: Any) -> Any:
    """Whether the network gives each sample its class."""
    return apply(variables, x).argmax(-1) == y


@jax.jit
def score_of(right: Any, gone: Any) -> Any:
    """acc_retain (1 - acc_forget)."""
    return evaluation.forget_score(jnp.mean(right, where=~gone), jnp.mean(right, where=gone))


def one_by_one(case: Case) -> tuple[baselines.Unlearned, dict[str, Any]]:
    """Class after class, each on the network edited before; what is forgotten already is in no retain set."""
    edited, earlier = baselines.Unlearned(case.original.variables, 0, 0), case.earlier
    for label in case.config.forget:
        rows = choose(case.config, case.task, case.seed, (label,), earlier)
        edited = project(case, edited.variables, rows, (label,))[0].after(edited)
        earlier = (*earlier, label)
    return edited, {}


def train_on(case: Case, name: str) -> tuple[baselines.Unlearned, dict[str, Any]]:
    """One of the baselines; retraining takes raw images, all that stay, and the recipe of the original."""
    config, shared, task = case.config, case.shared, case.task
    retain, forget = case.train(case.rows.retain), case.train(case.rows.forget)
    options: dict[str, Any] = {"recipe": dataclasses.replace(baselines.RECIPE, epochs=config.tune_epochs)}
    if name == "retrain":
        retain = task.image[case.rows.stay], task.label[case.rows.stay]
        options = {"recipe": shared.recipe, "prepare": shared.prepare}
    elif name in ("cf_k", "eu_k"):
        options["last"] = config.last_layers
    key = jax.random.fold_in(jax.random.key(case.seed), METHOD_KEY)
    model, variables = case.original.model, case.original.variables
    return baselines.METHODS[name](key, model, variables, retain, forget, **options), {}


def attack(case: Case, alpha_r: float, alpha_f: float) -> dict[str, Any]:
    """U-LiRA: networks trained on everything, as they are and edited, against networks that never saw the classes."""
    config, task, apply = case.config, case.task, case.shared.network.apply
    members = np.isin(np.arange(len(task.label)), case.rows.stay)
    full, without = (
        trees.unstack(training.variables(retrained.train_on(
            config, case.shared, task, case.seed + offset, [mask] * config.shadows,
            label="networks " + label,
        )[0]))
        for offset, mask, label in zip(SHADOW_SEEDS, (members | True, members), ("with", "without"), strict=True)
    )  # fmt: skip
    x, y = case.train(case.rows.go)

    def odds(networks: list[Variables]) -> Any:
        return np.stack([label_logit(training.predict(apply, network, x), y) for network in networks])

    def edited(variables: Variables) -> Variables:
        table, layers = capture.layers(apply, variables, x[:1]), edited_layers(case)
        retain, forget = (
            classifier.measure(apply, variables, case.train(rows)[0], layers=layers)
            for rows in (case.rows.retain, case.rows.forget)
        )
        return class_projection.unlearn_classes(
            table, variables, retain, forget, alpha_r=alpha_r, alpha_f=alpha_f, layers=layers
        )

    results = {}
    for name, networks in {"original": full, "projection": [edited(variables) for variables in full]}.items():
        found = evaluation.ulira(odds(networks), odds(without))
        results |= {f"auc/{name}": found.auc.mean(), f"balanced_accuracy/{name}": found.balanced_accuracy.mean()}
    return results
