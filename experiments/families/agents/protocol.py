"""The runs of decentralized: data spread over agents, one algorithm a trial, every seed to its end, the mean kept."""

import dataclasses
import functools
import itertools
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.families import classifier
from experiments.families.agents import follow, methods, report
from experiments.harness import launch, runner
from subspace_jax import checkpoint, data, nn, training, trees
from subspace_jax.core import topology
from subspace_jax.data import partition
from subspace_jax.decentralized.state import classification

TRAIN_KEY, PARTITION_KEY = 0, 1  # folded into the seed's key
TUNING_SEED = 10  # first of the seeds on which --tune chooses


class Setup(NamedTuple):
    """What all seeds and trials share."""

    columns: dict[str, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]  # scaled images, labels
    scaling: data.Scaling
    classes: int
    model: nn.Model
    prepare: Any


def setup(config: Any) -> Setup:
    """Load the data and build the network."""
    weights = topology.weights(config.topology, config.agents)
    topology.check_weights(weights, agents=config.agents, connected=True)
    if not 0 < config.gamma <= 1:
        raise ValueError(f"--gamma must lie in (0, 1]; got {config.gamma}: with 0 the agents never exchange.")
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    columns, test = (data.load(config.data, split, config.data_dir or None) for split in ("train", "test"))
    columns = {name: column[: config.samples] for name, column in columns.items()}
    classes = int(max(columns["label"].max(), test["label"].max())) + 1
    scaling = data.scaling(config.data, columns["image"])
    model = nn.build(config.model, **network_arguments(config, classes) | {"dtype": config.dtype})
    scaled = np.asarray(data.scale(test["image"], scaling))
    if jax.eval_shape(model.init, jax.random.key(0), scaled[:1])["batch_stats"]:
        print(f"warning: norm {config.norm} keeps running statistics, which each agent has its own of", file=sys.stderr)
    prepare = classifier.prepare(scaling, augment=config.augment)
    return Setup(columns, (scaled, test["label"]), scaling, classes, model, prepare)


def network_arguments(config: Any, classes: int) -> dict[str, Any]:
    """What nn.build takes, beside the name and the type of the computation."""
    widths = {"widths": list(config.widths)} if config.widths else {}
    return {"classes": classes, "norm": config.norm} | widths


def spread(config: Any, shared: Setup, seed: int, name: str, agents: int) -> np.ndarray:
    """The training samples of each agent, (agents, samples)."""
    key = jax.random.fold_in(jax.random.key(seed), PARTITION_KEY)
    labels = shared.columns["label"]
    return partition.build(name, key, labels, agents=agents, skew=config.skew, alpha=config.dirichlet)


def course(config: Any, shared: Setup, trial: methods.Trial, seeds: range | None = None) -> list[dict[str, Any]]:
    """What every seed of a trial left; one algorithm for all, and so one compilation."""
    weights = topology.weights(config.topology, trial.agents) if trial.agents > 1 else np.ones((1, 1))
    comm, run = launch.exchange_of(config, trial.agents)
    method = methods.build(config, trial, classification(shared.model.train_apply), comm, weights)
    seeds = seeds or range(config.seed, config.seed + config.seeds)

    def learn(seed):
        begin, train = jax.random.split(jax.random.fold_in(jax.random.key(seed), TRAIN_KEY))
        variables = shared.model.init(begin, shared.test[0][:1])
        parts = spread(config, shared, seed, trial.partition, trial.agents)
        history = follow.follow(
            config, train, method, jax.tree.map(lambda leaf: leaf.astype(config.dtype), variables),
            tuple(shared.columns[name][parts] for name in ("image", "label")), shared.test, comm=comm, runner=run,
            apply=shared.model.apply, weights=weights, steps=trial.steps,
            batch=config.batch * config.agents // trial.agents, every=config.every * trial.steps // config.steps,
            directory=f"{config.workdir}/checkpoints/{trial.name}/seed{seed}", label=f"{trial.name}, seed {seed}",
            prepare=shared.prepare,
        )  # fmt: skip
        if trial.name == trial.method:
            save_consensus(config, shared, trial, seed, history)
        passes = 1 + methods.crosses(trial.method) * float((weights > 0).sum(-1).mean() - 1)
        return history | {"passes": passes * history["step"]}

    return [runner.stage(config, f"{trial.name}_seed{seed}", functools.partial(learn, seed)) for seed in seeds]


def difference(config: Any, shared: Setup, listed: list[methods.Trial], runs: dict[str, Any]) -> float:
    """The largest distance of a final parameter from that of the same run by vmap."""
    alone = dataclasses.replace(config, runner="vmap", processes="", workdir=f"{config.workdir}/vmap")
    pairs = [
        (found[key], reference[key])
        for trial in listed
        for found, reference in zip(runs[trial.name], course(alone, shared, trial), strict=True)
        for key in found
        if key.startswith("final/")
    ]
    return float(max(np.abs(a - b).max() for a, b in pairs))


def save_consensus(config: Any, shared: Setup, trial: methods.Trial, seed: int, history: dict[str, Any]) -> None:
    """Write the mean of all agents' networks to <workdir>/models/<method>, which any experiment loads."""
    shapes = jax.eval_shape(shared.model.init, jax.random.key(0), shared.test[0][:1])
    mean = trees.map_with_path(lambda path, _: history[f"final/{path}"].mean(0).astype(np.float32), shapes)
    settings = trial.settings
    recipe = {"optimizer": "sgd", "lr": settings["lr"], "schedule": "constant", "weight_decay": config.weight_decay}
    size = len(shared.columns["label"])
    recipe |= {"batch": config.batch, "epochs": config.batch * trial.steps * trial.agents // size}
    saved = {
        "model": {"name": config.model, "kwargs": network_arguments(config, shared.classes)},
        "input_shape": list(shared.columns["image"].shape[1:]), "data": config.data, "samples": size,
        "scaling": shared.scaling._asdict(), "recipe": recipe | {"augment": config.augment}, "seed": seed,
        "corruption": {"noise": 0.0}, "subset": None, "edits": [],
        "decentralized": {"method": trial.method, "agents": trial.agents, "topology": config.topology,
                          "partition": config.partition} | settings,
    }  # fmt: skip
    step: Any = np.array([trial.steps])  # NumPy alone can be written by several processes
    whole = training.TrainState(step, **mean, opt_state={}, key=step)
    with checkpoint.manager(f"{config.workdir}/models/{trial.method}/seed{seed}") as to:
        if not to.all_steps():  # a resumed run wrote it before
            checkpoint.save(to, trial.steps, whole, config=saved)


def tune(config: Any, shared: Setup, names: tuple[str, ...]) -> tuple[str, ...]:
    """The learning rate and decay of each method with the best own models on held-out training samples."""
    order = np.asarray(jax.random.permutation(jax.random.key(TUNING_SEED), len(shared.columns["label"])))
    held, rest = np.split(order, [len(order) // 5])
    judge = np.asarray(data.scale(shared.columns["image"][held], shared.scaling)), shared.columns["label"][held]
    inner = shared._replace(columns={name: c[np.sort(rest)] for name, c in shared.columns.items()}, test=judge)
    lines = []
    for name in names:
        found = {}
        for lr, decay in itertools.product(methods.RATES, (0, 1)):
            extra = (f"{name}.lr={lr}", f"{name}.decay={decay}")
            trial = methods.Trial(
                f"tune_{name}_{lr}_{decay}", name, methods.settings(config, name, extra), config.steps,
                config.partition, config.agents,
            )  # fmt: skip
            runs = course(config, inner, trial, range(TUNING_SEED, TUNING_SEED + config.seeds))
            found[extra] = np.mean([report.late(trial, run, "accuracy") for run in runs])
        lines += max(found, key=lambda extra: found[extra])
    print(f"found: --tuned {' '.join(lines)}", file=sys.stderr)
    return tuple(lines)
