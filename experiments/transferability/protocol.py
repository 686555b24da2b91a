"""One seed of transferability: networks trained together, each attacked, answers of all to the examples of all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.transferability import methods
from subspace_jax import nn, training, trees
from subspace_jax.core import attacks
from subspace_jax.robustness import trend
from subspace_jax.training.fit import likes_scan

if TYPE_CHECKING:
    from experiments.transferability.experiment import Config

SHOWN = 8
SAVED = "fp", "adam"  # networks that read what a checkpoint says they read


class Group(NamedTuple):
    """Networks of one architecture: images in [0, 1] -> logits by apply, variables stacked."""

    names: tuple[str, ...]
    apply: Callable
    variables: Any


def networks(config: Config, shared: classifier.Setup, seed: int) -> list[Group]:
    """All networks of one seed, in groups, and the one of --checkpoint."""
    task, found = classifier.task(config, shared, seed), []
    for number, names in enumerate(methods.groups(config.models)):
        model, key = network(config, shared, names[0]), jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
        key = jax.random.fold_in(key, number)
        x = np.zeros((1, *task.image.shape[1:]), np.float32)
        train = functools.partial(train_group, config, shared, task, model, key, names, seed)
        arrays = runner.stage(config, f"seed{seed}_networks{number}", train)
        blank = jax.eval_shape(functools.partial(methods.started, key, model, names), x)
        variables = trees.map_with_path(lambda path, leaf, arrays=arrays: arrays[path], blank)
        found.append(Group(names, model.apply, jax.device_put(variables)))
    found = merged(found)
    if config.checkpoint:
        loaded = classifier.trained(config, shared, task, seed)
        mean, std = (tuple(loaded.config["scaling"][part]) for part in ("mean", "std"))
        apply = classifier.on_pixels(loaded.model, mean, std).apply
        found.append(
            Group((methods.GIVEN,), apply, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], loaded.variables))
        )
    return found


def merged(groups: list[Group]) -> list[Group]:
    """Networks of one architecture side by side, however they were trained: they are attacked in one program."""
    found: dict[Callable, Group] = {}
    for group in groups:
        before = found.get(group.apply)
        both = before and jax.tree.map(lambda *leaves: jnp.concatenate(leaves), before.variables, group.variables)
        found[group.apply] = Group((*before.names, *group.names), group.apply, both) if before else group
    return list(found.values())


def network(config: Config, shared: classifier.Setup, name: str) -> nn.Model:
    """The network of a name, which sees images in [0, 1]."""
    other, arguments = methods.kind(name).model, classifier.network_arguments(config, shared.classes)
    if other:
        arguments = {"classes": shared.classes, "dtype": config.dtype}
    inner = nn.build(other or config.model, **arguments)
    scaling = shared.scaling
    return methods.seeing(inner, tuple(scaling.mean), tuple(scaling.std), config.quantize_range == "fixed")


def train_group(
    config: Config, shared: classifier.Setup, task: classifier.Task, model: nn.Model, key: Any, names: tuple[str, ...],
    seed: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Stacked variables by path, of networks trained in one program."""
    count = len(task.image)
    recipe = methods.recipe(shared.recipe, methods.kind(names[0]).optimizer)
    blank = np.zeros((1, *task.image.shape[1:]), np.float32)
    states, _ = training.train_many(
        key, model, training.optimizer(recipe, config.epochs * (count // config.batch)), (task.image, task.label),
        np.tile(np.arange(count), (len(names), 1)), epochs=config.epochs, batch=config.batch,
        loop="vmap" if config.model == "mlp" else "map", start=methods.started(key, model, names, blank),
        prepare=training.prepare(classifier.pixels(shared.scaling), augment=config.augment),
        label=f"seed {seed}, networks",
    )  # fmt: skip
    variables = training.variables(states)
    saved = classifier.checkpoint_config(config, shared, seed)
    for name, one in zip(names, trees.unstack(variables), strict=True):
        if name.startswith(SAVED):
            plain = one | {"batch_stats": one["batch_stats"]["network"]}
            rate = {"optimizer": recipe.optimizer, "lr": recipe.lr}
            about = saved | {"recipe": saved["recipe"] | rate}
            classifier.save_network(f"{config.workdir}/checkpoints/{name}/seed{seed}", seed, plain, about)
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(variables).items()}


def one_seed(config: Config, shared: classifier.Setup, zoo: list[Group], seed: int) -> dict[str, Any]:
    """What is right under each attack at each strength, the transfer counts, and what the report shows."""
    case = classifier.case(shared, seed, config.images)
    names = tuple(name for group in zoo for name in group.names)
    clean = answers(zoo, case.x) == case.y[None]
    made = {name: made_by(zoo, attack, case, config.strengths) for name, attack in single(config).items()}
    crossed = np.stack([  # (strengths, sources, networks, n)
        [answers(zoo, images) == case.y[None] for images in at] for at in made["pgd"]
    ])  # fmt: skip
    counts = np.stack([trend.transfer_counts(clean, one)[0] for one in crossed], axis=-1)
    arrays = {"names": np.array(names), "counts": counts, "y": case.y}
    for m, name in enumerate(names):
        right = {kind: own(zoo, images, case, m) for kind, images in made.items() if kind != "pgd"}
        right |= {"pgd": crossed[:, m, m], "transfer": crossed[:, 1 if m == 0 else 0, m]}
        arrays |= {f"right/{methods.alone(name)}/{kind}": clean[m][None] & values for kind, values in right.items()}
        arrays[f"clean/{methods.alone(name)}"] = clean[m]
    at = list(config.strengths).index(config.eps)
    ratio, accuracy = trend.raw_ratio(counts[..., at], names), clean.mean(axis=1)
    found = methods.ensembles(config, names, ratio, accuracy)
    arrays["designed"] = np.array([names[m] for m in found[methods.DESIGNED]])
    for name, numbers in found.items():
        arrays |= voted(config, zoo, name, numbers, case, [at[list(numbers)] for at in made["pgd"]])
    arrays |= sure_member(config, zoo, found.get("fp3", found[methods.DESIGNED]), case)
    return arrays | shown(config, zoo, case, made["pgd"][at])


def single(config: Config) -> dict[str, attacks.Attack]:
    """Attacks on one network."""
    return {
        "pgd": attacks.pgd(steps=config.steps),
        "margin": attacks.pgd(steps=config.steps, objective="margin"),
        "square": attacks.square(queries=config.queries),
        "noise": attacks.noise(tries=methods.NOISE_TRIES),
    }


def made_by(
    zoo: list[Group], attack: attacks.Attack, case: classifier.Case, strengths: tuple[float, ...]
) -> list[np.ndarray]:
    """Examples of every network at each strength: (networks, n, ...)."""
    return [np.concatenate([_attacked(group, attack, case, eps) for group in zoo]) for eps in strengths]


def answers(zoo: list[Group], x: np.ndarray) -> np.ndarray:
    """Classes that every network names, (networks, n)."""
    return np.concatenate([np.asarray(_answers(group.apply)(group.variables, x)) for group in zoo])


def own(zoo: list[Group], made: list[np.ndarray], case: classifier.Case, number: int) -> np.ndarray:
    """Whether a network is right on the examples made on it, (strengths, n)."""
    return np.stack([answers(zoo, at[number])[number] == case.y for at in made])


def voted(
    config: Config,
    zoo: list[Group],
    name: str,
    numbers: tuple[int, ...],
    case: classifier.Case,
    members: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """What an ensemble gets right: clean, and under attacks through its members at each strength."""
    fn = trend.ensemble(parts(zoo, numbers))
    clean = decided(config, fn, case, case.x)
    tried = {rule: trend.ensemble_attack(rule, steps=config.steps) for rule in (*trend.RULES, "softmean")}
    tried |= {"transfer": trend.ensemble_attack("summed", steps=config.steps)}
    tried |= {kind: attack for kind, attack in single(config).items() if kind in ("square", "noise")}
    right = {
        kind: np.stack([
            decided(config, fn, case, attacks.run(case.keys, attack, fn, case.x, case.y, eps=eps))
            for eps in config.strengths
        ])
        for kind, attack in tried.items()
    }  # fmt: skip
    each = [[decided(config, fn, case, images) for images in at] for at in members]
    right["members"] = np.all(each, axis=1)
    arrays = {f"right/{name}/{kind}": clean[None] & values for kind, values in right.items()}
    return arrays | {f"clean/{name}": clean}


def sure_member(
    config: Config, zoo: list[Group], numbers: tuple[int, ...], case: classifier.Case
) -> dict[str, np.ndarray]:
    """What an ensemble withstands by rule when the logits of its first member are scaled up."""
    fn = trend.ensemble(parts(zoo, numbers, (config.scale_logits, *(1.0,) * (len(numbers) - 1))))
    clean, found = decided(config, fn, case, case.x), {}
    for rule in trend.RULES:
        attack = trend.ensemble_attack(rule, steps=config.steps)
        images = attacks.run(case.keys, attack, fn, case.x, case.y, eps=config.eps)
        found[f"scaled/{rule}"] = clean & decided(config, fn, case, images)
    return found


def decided(config: Config, fn: Any, case: classifier.Case, x: Any) -> np.ndarray:
    """Whether the vote is right on images, ties as --tie says."""
    if config.tie == "softmax":
        return np.asarray(attacks.right(case.keys, fn, x, case.y))
    logits = jnp.stack([member(jnp.asarray(x)) for member in fn.args[0]])
    return np.asarray(trend.vote(case.keys, logits)) == case.y


def parts(zoo: list[Group], numbers: tuple[int, ...], factors: tuple[float, ...] = ()) -> list[Any]:
    """Networks by number, as functions of images; the first factor scales the logits of the first, and so on."""
    everyone = [(g.apply, one) for g in zoo for one in trees.unstack(g.variables)]
    chosen = zip(factors or (1.0,) * len(numbers), (everyone[m] for m in numbers), strict=True)
    return [jax.tree_util.Partial(_scaled(apply), jnp.float32(factor), one) for factor, (apply, one) in chosen]


def shown(config: Config, zoo: list[Group], case: classifier.Case, made: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels that a change of eps can move, and some images with what is said of them before and after PGD."""
    found: dict[str, np.ndarray] = {}
    for name in (n for g in zoo for n in g.names if n != methods.GIVEN):
        if bits := methods.kind(name).bits:  # bins of equal width keep their edges under a normalisation
            found[f"changeable/{name}"] = trend.changeable(case.x, bits=bits, eps=config.eps).mean(axis=0)
    said = np.stack([answers(zoo, images[:SHOWN])[m] for m, images in enumerate(made)])
    return found | {"images": case.x[:SHOWN], "made": made[:, :SHOWN], "said": said}


def _attacked(group: Group, attack: attacks.Attack, case: classifier.Case, eps: float) -> np.ndarray:
    """All networks of a group side by side, or, for convolutions on a CPU, one after the other."""
    if likes_scan(jax.tree.map(lambda leaf: leaf[0], group.variables["params"])):
        return np.asarray(_together(group.apply, attack)(group.variables, case.keys, case.x, case.y, eps))
    return np.stack([
        np.asarray(attacks.run(case.keys, attack, jax.tree_util.Partial(group.apply, one), case.x, case.y, eps=eps))
        for one in trees.unstack(group.variables)
    ])  # fmt: skip


@functools.lru_cache
def _together(apply: Callable, attack: attacks.Attack) -> Callable:
    def one(variables, own_keys, x, y, eps):
        return attacks.run(own_keys, attack, jax.tree_util.Partial(apply, variables), x, y, eps=eps)

    return jax.jit(jax.vmap(one, (0, None, None, None, None)))


@functools.lru_cache
def _answers(apply: Callable) -> Callable:
    return jax.jit(jax.vmap(lambda variables, x: apply(variables, x).argmax(1), (0, None)))


@functools.lru_cache
def _scaled(apply: Callable) -> Callable:
    """The same answers, another confidence."""
    return lambda factor, variables, x: factor * apply(variables, x)
