"""What each step of the life does to the network: one function a step, from the samples of one seed to new weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.families import classifier
from experiments.families.classifier import retrained, scored
from subspace_jax import nn, training
from subspace_jax.continual import gpm
from subspace_jax.continual import protocol as continual
from subspace_jax.core import capture, subspace
from subspace_jax.label_noise import verifix
from subspace_jax.label_noise.trusted import select_trusted
from subspace_jax.privacy import masks, membership, shadows, statistics
from subspace_jax.typing import Variables
from subspace_jax.unlearning import class_projection, evaluation

if TYPE_CHECKING:
    from experiments.lifecycle.experiment import Config

MEMBER_KEY, SHADOW_KEY, LEARN_KEY = range(12, 15)  # folded into the seed's key; 0 to 11 are taken
WATCHED, WITNESSES = 40, 2000  # moments of the new task at which all classes are tested; on so many test samples
ATTACK = "lira_fixed_variance"
Arrays = dict[str, Any]


class Case(NamedTuple):
    """The samples of one seed by their purpose: positions in the training set."""

    config: Config
    shared: classifier.Setup
    own: classifier.Setup  # the members alone
    task: classifier.Task  # all training samples, with the labels they are given, and the whole test set
    seed: int
    pool: np.ndarray  # samples of the old classes
    members: np.ndarray  # those that the network is trained on
    known: bool  # whether it is known who was a member

    @property
    def key(self) -> jax.Array:
        """The key of this seed."""
        return jax.random.key(self.seed)

    @property
    def old(self) -> np.ndarray:
        """The old classes."""
        return old_classes(self.config, self.shared)

    @property
    def selection(self) -> np.ndarray:
        """The others of the pool: non-members, whose given labels choose the strengths of the edits."""
        return np.setdiff1d(self.pool, self.members)

    @property
    def new(self) -> np.ndarray:
        """Samples of the new classes."""
        return np.flatnonzero(np.isin(self.task.true, self.config.new_classes))

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(to keep, to forget): samples by whether their GIVEN label is of a class to forget."""
        gone = np.isin(self.task.label[rows], self.config.forget)
        return rows[~gone], rows[gone]


def old_classes(config: Config, shared: classifier.Setup) -> np.ndarray:
    """All classes but the new ones."""
    return np.setdiff1d(np.arange(shared.classes), config.new_classes)


def case(config: Config, shared: classifier.Setup, seed: int) -> Case:
    """Plant the noise of one seed and draw its members, or read from --checkpoint who they were."""
    task, named = classifier.task(config, shared, seed), classifier.subset(config, seed)
    pool = np.flatnonzero(np.isin(task.true, old_classes(config, shared)))
    if named is None:
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), MEMBER_KEY), len(pool))
        members = np.sort(pool[np.asarray(order)[: config.members or 2 * len(pool) // 3]])
    else:
        members = pool[np.isin(task.index[pool], named)]
    known = named is not None or not config.checkpoint
    return Case(config, shared, classifier.part(shared, members), task, seed, pool, members, known)


# ---- trained, scored -------------------------------------------------------------------------------------------------
def train(case: Case) -> tuple[classifier.Trained, Arrays]:
    """The network, and what its members scored while it was trained; with --checkpoint, what they score under it."""
    config, own = case.config, case.own
    task, about = classifier.chosen(case.task, case.members), {"indices": {"trained": numbers(case, case.members)}}
    hooks = hooks_of(case, task)
    net = classifier.trained(config, own, task, case.seed, hooks=hooks, folder=f"seed{case.seed}/trained", about=about)
    carries = net.carries or scored.visit_checkpoints(config, hooks, case.seed)[1]
    average, seconds = carries["fd_norm"]["average"], (carries[name]["seconds"] for name in hooks)
    found = {"score": average.total / average.count, "score_last": average.last}
    found["score_loss"] = scored.dynamics.finalize(carries["dynamics"]["dynamics"])["loss"]
    return net, found | {"seconds_scored": sum(float(np.nansum(spent)) for spent in seconds)}


def hooks_of(case: Case, task: classifier.Task) -> dict[str, training.Hook]:
    """Input-loss curvature at every so many epochs, and the loss at each."""
    config, network = case.config, case.shared.network
    options = {"epochs": config.epochs, "every": config.score_every, "step": config.step, "probes": config.probes}
    return {
        "fd_norm": scored.score_hook("fd_norm", network, task, case.seed, **options),
        "dynamics": scored.dynamics_hook(network, task, config.epochs),
    }


def trust(case: Case, score: np.ndarray) -> np.ndarray:
    """The members of lowest curvature, as many of each given class."""
    label = case.task.label[case.members]
    old = np.flatnonzero(np.isin(label, case.old))
    return case.members[old[select_trusted(score[old], label[old], per_class=case.config.trusted_per_class)]]


# ---- attacked --------------------------------------------------------------------------------------------------------
def attack(case: Case) -> Callable[[np.ndarray], np.ndarray]:
    """Train the shadow models, or read them; gives (logits of the training set) -> membership scores of the pool."""
    config, task, pool = case.config, case.task, case.pool
    keys = jax.random.split(jax.random.fold_in(case.key, SHADOW_KEY))
    keep = masks.shadow_masks(keys[0], config.shadows, len(pool))
    tx = training.optimizer(case.shared.recipe, config.epochs * (int(keep[0].sum()) // config.batch))
    found = shadows.train(
        keys[1], case.shared.network, tx, (task.image[pool], task.label[pool]), keep,
        f"{config.workdir}/shadows/seed{case.seed}", epochs=config.epochs, batch=config.batch, inputs=task.x[pool],
        loop="vmap" if config.model == "mlp" else "map", prepare=case.shared.prepare,
        recipe=classifier.checkpoint_config(config, case.shared, case.seed)["recipe"],
        label=f"seed {case.seed}, shadow models",
    )  # fmt: skip
    known = statistics.from_logits(found["logits"], task.label[pool])

    def scores(logits: np.ndarray) -> np.ndarray:
        target = statistics.from_logits(logits[None, None, pool], task.label[pool])
        return membership.attack(ATTACK, target, known, keep, center="median")[0]

    return scores


# ---- corrected, unlearned --------------------------------------------------------------------------------------------
def inside(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class of the largest logit among some classes."""
    return classes[logits[:, classes].argmax(axis=1)]


def correct(case: Case, model: nn.Model, variables: Variables, trusted: np.ndarray) -> tuple[Variables, Arrays]:
    """Verifix from the trusted members; the strength that gets most given labels of the selection set right."""
    x, task, edits = case.task.x, case.task, []
    table = capture.layers(model.apply, variables, x[:1])
    old_test = np.isin(task.test_label, case.old)

    def score(edited: Variables) -> float:
        edits.append(edited)
        found = training.predict(model.apply, edited, x[case.selection])
        return float((inside(np.asarray(found), case.old) == task.label[case.selection]).mean())

    moments = classifier.measure(model.apply, variables, x[trusted])
    found = verifix.verifix_select(table, variables, moments, alphas=case.config.alphas, score_fn=score)
    test_x, test_y = task.test_x[old_test], task.test_label[old_test]
    curve = [training.evaluate(model.apply, edited, test_x, test_y) for edited in edits]
    return found.params, {"alpha": found.alpha or 0.0, "selection": found.scores, "on_test": curve}


def unlearn(case: Case, model: nn.Model, variables: Variables, trusted: np.ndarray) -> tuple[Variables, Arrays]:
    """Project out what only members labelled with the classes to forget use; strengths by the selection set."""
    x, label = case.task.x, case.task.label
    table = capture.layers(model.apply, variables, x[:1])
    stay, go = case.split(trusted)[0], case.split(case.members)[1]
    gone = np.isin(label[case.selection], case.config.forget)

    def score(edited: Variables) -> float:
        found = training.predict(model.apply, edited, x[case.selection])
        right = inside(np.asarray(found), case.old) == label[case.selection]
        return evaluation.forget_score(right[~gone].mean(), right[gone].mean())

    retain, forget = (classifier.measure(model.apply, variables, x[rows]) for rows in (stay, go))
    found = class_projection.unlearn_search(table, variables, retain, forget, score)
    return found.params, {"alpha_r": found.alpha_r, "alpha_f": found.alpha_f, "grid": found.scores}


# ---- learned ---------------------------------------------------------------------------------------------------------
class Learning(NamedTuple):
    """Plain SGD followed by the projection: one program for every basis, the empty one of plain fine-tuning too."""

    table: capture.Layers
    tx: optax.GradientTransformation
    step: Callable


@functools.lru_cache
def learning(model: nn.Model, lr: float, shape: tuple[int, ...], every: int) -> Learning:
    """The program for inputs of a shape; every so many steps it tests each group of classes."""
    x = jax.ShapeDtypeStruct((1, *shape), "float32")
    table = capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)
    tx = optax.chain(optax.sgd(lr), gpm.gpm(table))
    descend = continual.learner(model, tx).step

    def step(carry, batches, constants, key):
        state, done, history = carry
        state, done = descend(state, batches, 0, key), done + 1
        x, y, groups = constants

        def seen():
            return history.at[done // every].set(shares(model.apply(state.variables, x), y, groups))

        return state, done, jax.lax.cond(done % every == 0, seen, lambda: history)

    return Learning(table, tx, step)


def shares(logits: Any, y: Any, groups: Any) -> Any:
    """Accuracy on each group of samples, (groups,), from masks (groups, n)."""
    right = (logits.argmax(axis=-1) == y).astype(jnp.float32)
    return groups @ right / groups.sum(axis=1)


def bases(case: Case, model: nn.Model, variables: Variables) -> dict[str, dict[str, subspace.Subspace]]:
    """What must not change: nothing; the inputs of the samples to keep; and of those to forget too, so sealed off."""
    how = rule(case, model)
    blank = gpm.init(how.table)
    kept, gone = (
        gpm.update(blank, classifier.measure(model.apply, variables, case.task.x[rows]), energy=case.config.energy)
        for rows in case.split(case.members)
    )
    sealed = {path: subspace.union(space, gone[path]) for path, space in kept.items()}
    return {"finetuned": blank, "learned": kept, "learned_sealed": sealed}


def rule(case: Case, model: nn.Model) -> Learning:
    """The program of this run."""
    every = -(-case.config.new_steps // WATCHED)
    return learning(model, case.config.new_lr, tuple(case.task.x.shape[1:]), every)


def learn(
    case: Case, model: nn.Model, variables: Variables, spaces: dict[str, subspace.Subspace]
) -> tuple[Any, Arrays]:
    """Train on the new classes, over all outputs, by updates orthogonal to the spaces."""
    config, task, how = case.config, case.task, rule(case, model)
    state = optax.tree.set(how.tx.init(variables["params"]), bases=spaces)
    x, y = task.test_x[:WITNESSES], task.test_label[:WITNESSES]
    groups = np.stack([group(case, name)[1][: len(y)] for name in ("old", "forgotten", "new")]).astype(np.float32)
    start = shares(training.predict(model.apply, variables, x), jnp.asarray(y), groups)
    history = jnp.full((WATCHED + 1, len(groups)), jnp.nan).at[0].set(start)
    state, _, history = training.repeat(
        jax.random.fold_in(case.key, LEARN_KEY), how.step,
        (continual.State(variables, state, {}), jnp.int32(0), history), [(task.x[case.new], task.true[case.new])],
        steps=config.new_steps, batch=config.new_batch, constants=(x, y, groups),
        params=variables["params"], label=f"seed {case.seed}, new classes",
    )  # fmt: skip
    ranks = {f"rank/{path}": int(np.sum(space.rank)) for path, space in spaces.items()}
    return state.variables, ranks | {"history": history}


# ---- beside them -----------------------------------------------------------------------------------------------------
def from_scratch(case: Case, rows: np.ndarray) -> Variables:
    """A new network by the recipe of the run, on some members, in as many steps as the network itself took."""
    steps = case.config.epochs * (len(case.members) // case.config.batch)
    samples = case.task.image[rows], case.task.label[rows]
    return retrained.from_scratch(case.config, case.own, case.seed, samples, steps=steps)


def untrained(case: Case) -> Variables:
    """The network before its first step."""
    key = jax.random.fold_in(case.key, classifier.TRAIN_KEY)
    return jax.jit(case.shared.network.init)(key, case.task.x[:1])


def probe(case: Case, model: nn.Model, variables: Variables) -> float:
    """Accuracy on the forgotten classes of a new head, fitted with the true labels on what the old head reads."""
    task, read = case.task, classifier.penultimate(model.features)
    test = np.isin(task.test_label, case.old)
    features = [np.asarray(training.predict(read, variables, x)) for x in (task.x[case.members], task.test_x[test])]
    found = evaluation.linear_probe(
        features[0], task.true[case.members], features[1], task.test_label[test], forget=case.config.forget
    )
    return float(found.forget)


def group(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes of a group, and which test samples are of them."""
    gone, new = np.array(case.config.forget), np.array(case.config.new_classes)
    classes = {"old": np.setdiff1d(case.old, gone), "forgotten": gone, "new": new, "all_old": case.old}[name]
    return classes, np.isin(case.task.test_label, classes)


def numbers(case: Case, rows: np.ndarray) -> list[int]:
    """The positions of samples in the original files."""
    return case.task.index[rows].tolist()
