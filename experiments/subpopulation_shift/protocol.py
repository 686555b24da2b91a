"""One seed and split of subpopulation_shift: which kinds are trained on, networks by method, their answers on both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from experiments.subpopulation_shift import methods
from subspace_jax import data, nn, training
from subspace_jax.data import subpopulations
from subspace_jax.hierarchy import baselines, conditional
from subspace_jax.hierarchy.tree import Tree, from_paths
from subspace_jax.typing import ApplyFn

if TYPE_CHECKING:
    from experiments.subpopulation_shift.experiment import Config

DEVIATIONS, KIND, SAMPLE = (
    (1.2, 0.8, 0.7),
    0.8,
    1.2,
)  # of the Gaussian tree: levels, kinds of a class, samples of a kind
DIMENSIONS, KINDS, TRAIN, TEST = 40, 4, 60, 100
Columns = dict[str, np.ndarray]


Source = tuple[classifier.Setup, tuple[np.ndarray, np.ndarray]]  # samples, the kind of each train and test sample


class Task(NamedTuple):
    """What all seeds share; `source` is None where the seed draws its data."""

    tree: Tree
    kinds: int
    source: Source | None = None


class Group(NamedTuple):
    """Samples: raw inputs, classes, kinds inside their class."""

    raw: np.ndarray
    label: np.ndarray
    number: np.ndarray


class Parts(NamedTuple):
    """What one split trains on, and what it is measured on."""

    own: classifier.Setup
    task: classifier.Task
    groups: dict[str, Group]  # "seen": test samples of the kinds trained on; "unseen": all samples of the others


def setup(config: Config) -> Task:
    """The data, its tree, and the kinds inside its classes.

    Raises:
      ValueError: data of one's own without a tree, a tree, kinds, or flags that do not fit.
    """
    if config.data == methods.GAUSSIAN:
        paths = np.stack(np.unravel_index(np.arange(np.prod(methods.BRANCHES)), methods.BRANCHES))
        nodes = [np.ravel_multi_index(paths[:level], methods.BRANCHES[:level]) for level in (1, 2, 3)]
        task = Task(from_paths(np.stack(nodes, axis=1)), KINDS)
    elif config.subpopulations == "fine":
        shared, number = by_coarse(config, classifier.setup(config))
        per_class = [np.max(number[0][shared.columns["label"] == k], initial=0) + 1 for k in range(shared.classes)]
        task = Task(methods.tree_of(config, names(shared)), int(min(per_class)), (shared, number))
    else:
        shared = classifier.setup(config)
        tree = methods.tree_of(config, names(shared))
        raw, label = data.inputs(shared.columns), shared.columns["label"]
        index = shared.columns["index"]
        found = subpopulations.subpopulations(raw, label, per_class=config.per_class, index=index)
        test = subpopulations.nearest(found, data.inputs(shared.test), shared.test["label"])
        task = Task(tree, config.per_class, (shared, (found.number, test)))
    methods.check_levels(config, task.tree)
    return task


def names(shared: classifier.Setup) -> list[str]:
    """Of the classes; their numbers where they have none."""
    return list(shared.names or map(str, range(shared.classes)))


def by_coarse(config: Config, shared: classifier.Setup) -> Source:
    """The same samples with their superclass as the class, and the number of their fine class inside it.

    Raises:
      ValueError: data without the column coarse_label.
    """
    if "coarse_label" not in shared.columns:
        raise ValueError(f"--subpopulations fine reads a column coarse_label, which {config.data} lacks.")
    fine, coarse = (np.concatenate([shared.columns[name], shared.test[name]]) for name in ("label", "coarse_label"))
    train, kept = np.split(subpopulations.numbered(fine, coarse), [len(shared.columns["label"])])
    classes = int(coarse.max()) + 1
    called = methods.SUPERCLASSES if (config.tree or config.data) == "cifar100" else None
    columns, unseen, test = (
        {**part, "label": part["coarse_label"]} for part in (shared.columns, shared.unseen, shared.test)
    )
    changed = shared._replace(columns=columns, unseen=unseen, test=test, classes=classes, names=called)
    return changed, (train, kept)


def splits(config: Config, task: Task) -> list[int]:
    """The splits of a run, each set of target kinds once."""
    if config.split != "all":
        return [int(config.split)]
    if task.source is None:
        return [0]
    several = [subpopulations.targets(task.kinds, split) for split in range(3)]
    return [split for split in range(3) if set(several[split]) not in map(set, several[:split])]


def parts(config: Config, task: Task, seed: int, split: int) -> Parts:
    """Train: samples of the source's kinds; measured: test samples of these kinds, and all of the others."""
    target = subpopulations.targets(task.kinds, split)
    shared, number = task.source or drawn(config, task.tree, seed, target)
    source = tuple(k for k in range(int(number[0].max()) + 1) if k not in target)
    (chosen, away), (kept, other) = (subpopulations.shifted(n, source=source, target=target) for n in number)
    columns = shared.columns, shared.test
    train, test = (Group(data.inputs(part), part["label"], n) for part, n in zip(columns, number, strict=True))
    own = classifier.part(shared, np.flatnonzero(chosen))
    if config.batch > (count := int(chosen.sum())):
        raise ValueError(f"--batch {config.batch} is larger than the {count} samples of split {split}; lower it.")
    unseen = [np.concatenate([a[away], b[other]]) for a, b in zip(train, test, strict=True)]
    groups = {"seen": Group(*(values[kept] for values in test)), "unseen": Group(*unseen)}
    return Parts(own, classifier.task(config, own, seed), groups)


def drawn(config: Config, tree: Tree, seed: int, target: tuple[int, ...]) -> Source:
    """The Gaussian tree of a seed: every node, kind and sample is its parent plus a normal offset.

    Kinds of the target have test samples alone.
    """
    rng = np.random.default_rng(seed)
    centre = np.zeros((tree.classes, 1, DIMENSIONS))
    for nodes, deviation in zip(np.asarray(tree.paths).T, DEVIATIONS, strict=True):
        centre += deviation * rng.normal(size=(nodes.max() + 1, 1, DIMENSIONS))[nodes]
    centre = centre + KIND * rng.normal(size=(tree.classes, KINDS, DIMENSIONS))
    columns, numbers = [], []
    for count in (TRAIN, TEST):
        x = centre[:, :, None] + SAMPLE * rng.normal(size=(tree.classes, KINDS, count, DIMENSIONS))
        label, number, _ = (place.ravel() for place in np.indices(x.shape[:3]))
        there = np.flatnonzero(~np.isin(number, target) | (count == TEST))
        rows = x.reshape(-1, DIMENSIONS)[there].astype(np.float32)
        columns.append({"x": rows, "label": label[there].astype(np.int32), "index": np.arange(len(there))})
        numbers.append(number[there])
    train, test = columns
    scaling = data.scaling(config.data, train["x"])
    network = nn.build(config.model, **classifier.network_arguments(config, tree.classes))
    nothing = {name: column[:0] for name, column in train.items()}
    found = classifier.Setup(
        train, nothing, test, scaling, tree.classes, None, recipe(config), network, training.prepare(scaling)
    )
    return found, (numbers[0], numbers[1])


def recipe(config: Config) -> training.Recipe:
    """The recipe of the flags."""
    return training.Recipe(
        config.optimizer, config.lr, weight_decay=config.weight_decay, schedule=config.schedule, epochs=config.epochs,
        batch=config.batch,
    )  # fmt: skip


def measured(config: Config, task: Task, found: Parts, seed: int, split: int, name: str) -> Columns:
    """Answers of the network of one method on both groups: by head, and by expected distance."""
    steps = config.epochs * (len(found.task.label) // config.batch)
    trunk = nn.build(config.model, **classifier.network_arguments(config, 0))
    how = methods.training_of(config, trunk, task.tree, name, steps)
    tx = training.optimizer(recipe(config), steps * len(how.objectives))
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    blank = np.zeros((1, *found.task.image.shape[1:]), np.float32)
    state = classifier.create(key, how.model, tx, blank)
    step = conditional.in_turn(how.objectives, tx, weights=how.weights, prepare=found.own.prepare)
    state = training.repeat(
        key, step, state, [(found.task.image, found.task.label)], steps=steps, batch=config.batch, params=state.params,
        label=f"seed {seed}, split {split}, {name}",
    )  # fmt: skip
    variables, result = training.variables(state), {}
    for kind, group in found.groups.items():
        scaled = data.scale(group.raw, found.own.scaling)
        logits = training.score_dataset(key, forward(how.model.apply), variables, (scaled,), label="answers")
        near = baselines.least_expected_distance(jax.nn.softmax(logits[-1]), task.tree)
        heads = np.stack([np.asarray(z).argmax(axis=1) for z in logits])
        result |= {f"{kind}/heads": heads, f"{kind}/near": near, f"{kind}/label": group.label}
    if name == "flat" and config.subpopulations == "kmeans" and task.source:
        save(config, found.own, variables, seed, split)
    return result


@functools.lru_cache  # one function object, and so one compilation a network
def forward(apply: ApplyFn) -> Callable:
    """(keys, variables, x) -> the logits of all heads."""
    return lambda keys, variables, x: apply(variables, x)


def save(config: Config, own: classifier.Setup, variables: Any, seed: int, split: int) -> None:
    """The flat network as a classifier that any question loads; its samples are in its config, by index."""
    trained = variables["params"]
    params = trained["trunk"] | {"head": trained["level1"]}
    stats = variables["batch_stats"].get("trunk", {})
    about = classifier.checkpoint_config(config, own, seed)
    folder = f"{config.workdir}/checkpoints/flat_split{split}/seed{seed}"
    classifier.save_network(folder, seed, {"params": params, "batch_stats": stats}, about)
