"""The class trees and the methods of subpopulation_shift by name, and the recipes of its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from subspace_jax import nn
from subspace_jax.hierarchy import baselines, conditional
from subspace_jax.hierarchy.tree import Tree, flat, from_nested, load

if TYPE_CHECKING:
    from experiments.subpopulation_shift.experiment import Config

METHODS = "flat", "flat3", "multitask", "joint", "sequential", "bcnn", "soft_labels", "expected_distance"
ONE_HEAD = "flat", "flat3", "soft_labels"
UPDATES = 3  # of flat3, a batch: as many as sequential on three levels
GAUSSIAN = "gaussian_tree"
RECIPES: dict[str, dict[str, Any]] = {
    GAUSSIAN: {"widths": (64, 64, 64), "lr": 0.02, "epochs": 20},
    "": {"widths": (128, 128, 128), "lr": 0.05, "epochs": 30},
}

DIGITS = {
    "0, 4, 6": {"0": [0], "4": [4], "6": [6]},
    "3, 5, 9": {"3, 5, 9": [3, 5, 9]},
    "1, 2, 7, 8": {"1, 2, 8": [1, 2, 8], "7": [7]},
}
SUPERCLASSES = (  # of CIFAR-100, by number
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things",
    "large natural outdoor scenes", "large omnivores and herbivores", "medium-sized mammals",
    "non-insect invertebrates", "people", "reptiles", "small mammals", "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
CIFAR100 = {
    "mammal": {
        "water mammals": ["aquatic mammals"],
        "wild and large": ["large carnivores", "large omnivores and herbivores"],
        "small or medium": ["medium-sized mammals", "small mammals"],
        "people": ["people"],
    },
    "other animal": {"vertebrate": ["fish", "reptiles"], "invertebrate": ["insects", "non-insect invertebrates"]},
    "plant or scene": {"vegetal": ["flowers", "fruit and vegetables", "trees", "large natural outdoor scenes"]},
    "artefact": {
        "indoor": ["food containers", "household electrical devices", "household furniture"],
        "outdoor": ["large man-made outdoor things", "vehicles 1", "vehicles 2"],
    },
}
BRANCHES = (3, 2, 2)  # of the Gaussian tree at each level
NESTED: dict[str, Any] = {"digits": DIGITS, "cifar100": CIFAR100}


class Training(NamedTuple):
    """How a network is trained: its heads, and what is minimised in turn on each batch."""

    model: nn.Model
    objectives: tuple[Callable, ...]
    weights: Callable | None


def recipe(config: Config) -> Config:
    """The flags with the recipe of the data where none was given."""
    own = RECIPES.get(config.data, RECIPES[""])
    if config.model != "mlp":
        own = {name: value for name, value in own.items() if name != "widths"}
    return dataclasses.replace(config, **{name: value for name, value in own.items() if not getattr(config, name)})


def tree_of(config: Config, names: Sequence[str]) -> Tree:
    """The tree of --tree over the classes with these names.

    Raises:
      ValueError: data of one's own without a tree, a tree that does not fit the classes.
    """
    name = config.tree or config.data
    if name in NESTED:
        return from_nested(NESTED[name], names)
    if config.tree:
        return load(config.tree, names)
    raise ValueError(f"--tree FILE names the class tree of {config.data}, JSON of nested names: see docs/hierarchy.md.")


def networks(methods: Sequence[str]) -> list[str]:
    """The methods that are trained: a decision by expected distance is one of flat."""
    return list(dict.fromkeys("flat" if name == "expected_distance" else name for name in methods))


def training_of(config: Config, trunk: nn.Model, tree: Tree, name: str, steps: int) -> Training:
    """A method by name, for a run of so many batches.

    Raises:
      ValueError: bcnn for a tree of other than three levels, stages that do not fit the heads.
    """
    own = flat(tree.classes) if name in ONE_HEAD else tree
    stages = config.stages[-own.levels :]
    model = nn.level_heads(trunk, sizes=own.sizes, stages=stages)
    apply = model.train_apply
    if name == "soft_labels":
        return Training(model, (baselines.soft_objective(apply, tree, beta=config.beta),), None)
    if name == "sequential":
        return Training(model, conditional.sequential(apply, own), None)
    loss = conditional.objective(apply, own, masked=name == "joint")
    if name == "bcnn":
        return Training(model, (loss,), baselines.branch_weights(steps))
    return Training(model, (loss,) * (UPDATES if name == "flat3" else 1), None)


def check_levels(config: Config, tree: Tree) -> None:
    """Refuse what does not fit the depth of the tree.

    Raises:
      ValueError: names the flag.
    """
    if "bcnn" in config.methods and tree.levels != len(baselines.BRANCH_WEIGHTS[0]):
        raise ValueError(f"--methods: the weights of bcnn are for 3 levels, the tree has {tree.levels}; leave it out.")
    if config.stages and len(config.stages) != tree.levels:
        raise ValueError(f"--stages: one for each of the {tree.levels} levels; got {' '.join(config.stages)}.")
