"""Where targets and shadow models come from: networks trained here, a saved network, saved logits."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from subspace_jax import checkpoint, data, training
from subspace_jax.core import checks
from subspace_jax.core.inference import check_inference
from subspace_jax.memorization import scores
from subspace_jax.privacy import shadows, statistics, zeroth_order
from subspace_jax.privacy.statistics import Statistics

if TYPE_CHECKING:
    from experiments.membership_inference.experiment import Config

FILE = "logits", "keep", "target", "label"  # arrays of --logits


class Case(NamedTuple):
    """What an attacker knows, and who was a member."""

    targets: Statistics
    shadows: Statistics
    keep: np.ndarray  # (models, n), of the shadow models
    member: np.ndarray  # (targets, n)
    population: tuple[Statistics, Statistics] | None
    figures: dict[str, float]  # accuracies, number of networks


def trained(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, keep: np.ndarray, *, curved: bool
) -> Case:
    """The last networks of a study are attacked; test samples, which none of them knows, are the population."""
    said = outputs(config, shared, task, seed, keep, curved=curved)
    n, last, logits = len(task.x), config.models - config.targets, said["logits"]
    targets, others = apart(statistics.from_logits(logits[:, :, :n], task.label, curvature=said.get("curvature")), last)
    population = None
    predicted = logits[:, 0].argmax(axis=-1)
    figures = {"models": config.models, "train_accuracy": (predicted[:, :n] == task.label)[keep].mean()}
    if len(task.test_label):
        population = apart(statistics.from_logits(logits[:, :, n:], task.test_label), last)
        figures["test_accuracy"] = (predicted[:, n:] == task.test_label).mean()
    return Case(targets, others, keep[:last], keep[last:], population, figures)


def saved(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, keep: np.ndarray, *, curved: bool
) -> Case:
    """The network at --checkpoint is attacked; all networks trained here, by its own recipe, are shadow models."""
    model, variables, about = checkpoint.load_model(config.checkpoint, seed=seed, epoch=config.epoch)
    check_inference(model.apply, variables, task.x[:8])
    size = len(shared.columns["label"])
    member = np.append(members(config, task.index[:size], about.get("subset")), np.zeros(len(task.x) - size, bool))
    said = outputs(config, shared, task, seed, keep, curved=curved)
    own = jax.tree.map(lambda leaf: leaf[None], variables)
    logits = shadows.logits(shadows.stacked(model.apply), own, task.x, config.queries)
    found = curvatures(config, model.apply, task, seed)(own) if curved else None
    target = statistics.from_logits(logits, task.label, curvature=found)
    others = statistics.from_logits(said["logits"], task.label, curvature=said.get("curvature"))
    right = logits[0, 0].argmax(axis=-1) == task.label
    return Case(target, others, keep, member[None], None, {"models": config.models} | accuracies(right, member))


def of_size(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, case: Case, size: int, *, curved: bool
) -> Case:
    """New targets, each trained on `size` random samples; the attacker's shadow models stay those of halves."""
    rng, n = np.random.default_rng([seed, size]), len(task.x)
    member = np.stack([rng.permutation(n) < size for _ in range(config.targets)])
    said = outputs(config, shared, task, seed, member, curved=curved, folder=f"size{size}", first=size)
    logits = said["logits"]
    targets = statistics.from_logits(logits[:, :, :n], task.label, curvature=said.get("curvature"))
    population = case.population
    if population:
        population = statistics.from_logits(logits[:, :, n:], task.test_label), population[1]
    right = logits[:, 0, :n].argmax(axis=-1) == task.label
    figures = {"train_accuracy": right[member].mean(), "test_accuracy": right[~member].mean()}
    return case._replace(targets=targets, member=member, population=population, figures=figures)


def check_sizes(config: Config, samples: int) -> None:
    """Refuse sizes of training sets that give no batch, or leave nobody out.

    Raises:
      ValueError: names the size and what it may be.
    """
    for size in config.set_sizes:
        if not config.batch <= size < samples:
            raise ValueError(
                f"--set-sizes lie in [{config.batch}, {samples}), from --batch to all samples; got {size}."
            )


def from_file(config: Config) -> tuple[Case, classifier.Task]:
    """Saved logits of targets and shadow models; of the candidates only labels and numbers are known.

    Raises:
      ValueError: arrays that are missing, or of other models, queries or samples than each other.
    """
    with np.load(config.logits, allow_pickle=False) as found:
        arrays = dict(found)
    if missing := [name for name in FILE if name not in arrays]:
        raise ValueError(f"{config.logits} has no {' and no '.join(missing)}; it holds {', '.join(arrays)}.")
    label = arrays["label"]
    checks.check_labels(label)
    index = arrays.get("index", np.arange(len(label)))
    checks.check_lengths(label=label, index=index)
    blank, none = np.zeros((len(label), 0), np.float32), np.zeros(len(label), bool)
    pairs = np.zeros((0, 2), np.int64)
    task = classifier.Task(blank, blank, label, label, index, none, none, pairs, blank[:0], label[:0])
    sides = [
        statistics.from_logits(with_queries(arrays[name], 4), label, curvature=with_queries(arrays.get(curved), 3))
        for name, curved in (("target", "target_curvature"), ("logits", "curvature"))
    ]
    if "member" not in arrays and not config.members:
        raise ValueError(f"{config.logits} has no member (targets, n): give --members, a file of their numbers.")
    member = members(config, index, None) if config.members else arrays["member"]
    member = np.broadcast_to(member, (len(arrays["target"]), len(label)))
    right = with_queries(arrays["target"], 4)[:, 0].argmax(axis=-1) == label
    figures = {"models": len(arrays["logits"])} | accuracies(right, member)
    return Case(sides[0], sides[1], arrays["keep"], member, None, figures), task


def accuracies(right: np.ndarray, member: np.ndarray) -> dict[str, float]:
    """Of the targets on members and on others.

    Raises:
      ValueError: nobody on one side.
    """
    if member.all() or not member.any():
        raise ValueError(
            f"all candidates are {'members' if member.all() else 'others'}: there is nothing to tell apart."
        )
    return {"train_accuracy": right[member].mean(), "test_accuracy": right[~member].mean()}


def with_queries(values: Any, rank: int) -> Any:
    """(models, ...) as (models, 1, ...), where there is one query."""
    return values[:, None] if values is not None and np.ndim(values) == rank - 1 else values


def apart(of: Statistics, last: int) -> tuple[Statistics, Statistics]:
    """Of the targets, and of the shadow models before them."""
    return jax.tree.map(lambda part: part[last:], of), jax.tree.map(lambda part: part[:last], of)


def outputs(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, keep: np.ndarray, *, curved: bool,
    folder: str = "", first: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What every network trained here says of all samples, and the curvature of its loss around the candidates.

    `folder` lies in that of the seed's shadow models; `first` gives the networks other initial values than these have.
    """
    measures = {"curvature": curvatures(config, shared.network.apply, task, seed)} if curved else None
    saved = classifier.checkpoint_config(config, shared, seed)
    steps = config.epochs * (int(keep[0].sum()) // config.batch)
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    return shadows.train(
        jax.random.fold_in(key, first) if first else key, shared.network,
        training.optimizer(shared.recipe, steps), (task.image, task.label), keep,
        f"{config.workdir}/shadows/seed{seed}/{folder}", epochs=config.epochs, batch=config.batch,
        inputs=np.concatenate([task.x, task.test_x]), queries=config.queries, group=config.group, loop=loop(config),
        prepare=shared.prepare, measures=measures, label=f"seed {seed}, networks",
        recipe=saved["recipe"] | saved["model"] | {n: getattr(config, n) for n in ("curvature", "probes", "step")},
    )  # fmt: skip


def curvatures(config: Config, apply: Any, task: classifier.Task, seed: int) -> Callable[[Any], np.ndarray]:
    """(stacked variables) -> (models, queries, n): every network is asked at the same points."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.SCORE_KEY)
    options = {"probes": config.probes, "step": config.step}

    def black_box(own: Any, x: Any) -> np.ndarray:
        return zeroth_order.zeroth_order(
            key, shadows.stacked(apply, loop(config)), own, x, task.label, index=task.index, batch=config.score_batch,
            **options,
        )  # fmt: skip

    def white_box(own: Any, x: Any) -> np.ndarray:
        values = training.score_dataset(
            key, derivatives(apply, config.curvature, **options), own, (x, task.label), index=task.index,
            batch=config.score_batch, label=config.curvature,
        )  # fmt: skip
        return np.asarray(values).T

    of = black_box if config.curvature == "cross" else white_box
    return lambda own: shadows.ask(lambda x: of(own, x), task.x, config.queries)


@functools.lru_cache  # one function object, and so one compilation
def derivatives(apply: Any, name: str, **options: Any) -> Callable:
    """(keys, stacked variables, x, y) -> (b, models): a curvature by derivatives, one network after the other."""
    one = scores.scorer(name, apply, **options)

    def fn(keys, several, x, y):
        return jax.lax.map(lambda own: one(keys, own, x, y), several).T

    return fn


def loop(config: Config) -> Literal["vmap", "map"]:
    """Side by side, or one after the other, as it pays."""
    return "vmap" if config.model == "mlp" else "map"


def candidates(shared: classifier.Setup, task: classifier.Task) -> classifier.Task:
    """Training samples, of which the members are some or all, and test samples, of which none is.

    Where labels were corrupted, only members have wrong ones: attacks without shadow models then look worse than they
    are, since the network finds these samples hard.
    """
    test = shared.test["label"]
    if not len(test):
        raise ValueError(
            "a network that was trained on all samples needs a test split of others: put one beside train."
        )
    none = np.zeros(len(test), bool)
    return task._replace(
        image=np.concatenate([task.image, data.inputs(shared.test)]),
        x=np.concatenate([task.x, task.test_x]),
        label=np.concatenate([task.label, test]),
        true=np.concatenate([task.true, test]),
        index=np.concatenate([task.index, shared.test["index"]]),
        noisy=np.concatenate([task.noisy, none]),
        planted=np.concatenate([task.planted, none]),
        test_x=task.test_x[:0],
        test_label=test[:0],
    )


def members(config: Config, index: np.ndarray, subset: Any) -> np.ndarray:
    """Who of the training samples was trained on: by --members, by what the checkpoint says, all of them otherwise.

    Raises:
      ValueError: numbers of samples that there are not.
    """
    chosen = read_numbers(config.members) if config.members else subset
    if chosen is None:
        return np.ones(len(index), bool)
    unknown = np.setdiff1d(chosen, index)
    if len(unknown):
        raise ValueError(f"member {unknown[0]} is none of the {len(index)} samples ({len(unknown)} of {len(chosen)}).")
    return np.isin(index, chosen)


def read_numbers(path: str) -> np.ndarray:
    """Whole numbers from .npy, or from text, one a line."""
    file = pathlib.Path(path)
    return np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.loadtxt(file, dtype=np.int64, ndmin=1)
