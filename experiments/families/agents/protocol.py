"""Flags of decentralized experiments, the data spread over the agents, and a trial run over all seeds."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.families.agents import places
from experiments.families.agents.methods import Trial
from experiments.harness import runner, sets
from subspace_jax import data, nn, training
from subspace_jax.core import topology
from subspace_jax.data import partition
from subspace_jax.decentralized import protocol
from subspace_jax.typing import Algorithm

TRAIN_KEY, PARTITION_KEY = 0, 1  # folded into the seed's key
Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config(places.Config, runner.Config):
    """Flags of the experiments that train one network on data that are spread over agents."""

    topology: str = "ring"
    """Graph: ring, torus, chain, star, full, exponential, one_peer_exponential, petersen, dyck, florentine, ..."""
    samples: int | None = None
    """Number of training samples to use, the first ones; all when not given."""
    test_samples: int | None = None
    """Number of test samples to use, the first ones; all when not given: every agent is tested on all of them."""
    model: str = "mlp"
    """Network: mlp, cnn5, resnet20, ..., see nn.build."""
    widths: tuple[int, ...] = (64, 64, 64)
    """Hidden layers of an mlp."""
    norm: str = "none"
    """Norm of the network: none, evonorm, evonorm_hard, group, ...; NGC and CGA refuse batch."""
    augment: bool = False
    """Random crops and flips while training."""
    steps: int = 1200
    """Steps of every agent."""
    batch: int = 32
    """Samples per agent and step, drawn with replacement."""
    lr: float = 0.1
    """Learning rate."""
    decay: bool = False
    """Multiply the learning rate by .1 at 50 and at 75 % of the steps."""
    momentum: float = 0.0
    """Nesterov momentum of each agent's own optimiser."""
    gamma: float = 1.0
    """Averaging rate in [0, 1]: how far a step moves an agent's model to the mean of its neighbours'."""
    weight_decay: float = 0.0
    """L2 penalty."""
    sparsity: float = 0.9
    """Share of the entries that CHOCO-SGD and DeepSqueeze do not send."""
    beside: bool = True
    """Also run the references that the methods are compared with."""
    every: int = 100
    """Steps between two evaluations."""
    save_every: int = 4
    """Evaluations between two checkpoints."""
    loop: Literal["vmap", "map"] = "vmap"
    """Gradients of a device's agents at once (vmap) or in turn (map: faster for convolutions on a GPU)."""


class Data(NamedTuple):
    """What all seeds and trials share."""

    columns: dict[str, np.ndarray]  # x raw, label
    test: tuple[np.ndarray, np.ndarray]  # scaled images, labels
    scaling: data.Scaling
    classes: int
    prepare: Callable


def load(config: Config) -> Data:
    """Load the data, after a check that the graph connects all agents.

    Raises:
      ValueError: a graph that does not exist for this number of agents, or is not connected.
    """
    topology.check_weights(graph(config, config.agents), agents=config.agents, connected=True)
    if config.test_samples is not None and config.test_samples < 1:
        raise ValueError(f"--test-samples is at least 1; got {config.test_samples}.")
    found = sets.load(config, config.samples, pixels=config.augment)
    x = data.inputs(found.train)
    scaling = data.scaling(config.data, x)
    rows = slice(config.test_samples)
    scaled = np.asarray(data.scale(data.inputs(found.test)[rows], scaling))
    prepare = training.prepare(scaling, augment=config.augment)
    columns = {"x": x, "label": found.train["label"]}
    return Data(columns, (scaled, found.test["label"][rows]), scaling, found.classes, prepare)


def graph(config: Config, agents: int) -> np.ndarray:
    """Mixing matrix W of the graph; [[1]] for a single agent."""
    return topology.weights(config.topology, agents) if agents > 1 else np.ones((1, 1))


def spread(found: Data, seed: int, trial: Trial) -> np.ndarray:
    """Indices of the training samples of each agent, (agents, samples)."""
    key, labels = jax.random.fold_in(jax.random.key(seed), PARTITION_KEY), found.columns["label"]
    return partition.build(key, trial.partition, labels, agents=trial.agents, skew=trial.skew, alpha=trial.dirichlet)


def course(
    config: Config, found: Data, trial: Trial, model: nn.Model, method: Algorithm, *, dtype: str = "float32",
    rounds: int = 0, seeds: range | None = None, finish: Callable[[int, Arrays], Arrays] = lambda _, history: history,
) -> list[Arrays]:  # fmt: skip
    """Run a trial on every seed, or read back what is finished: the arrays of each seed.

    Args:
      config: the flags.
      found: the data.
      trial: the run.
      model: its network.
      method: its algorithm; one object for all seeds, and so one compilation.
      dtype: of the parameters.
      rounds: further steps after those of the trial.
      seeds: those of the flags when None.
      finish: (seed, result of `protocol.run`) -> the arrays to keep.
    """
    comm, run = places.exchange_of(config, trial.agents)

    def learn(seed: int) -> Arrays:
        begin, train = jax.random.split(jax.random.fold_in(jax.random.key(seed), TRAIN_KEY))
        variables = model.init(begin, found.test[0][:1])
        parts = spread(found, seed, trial)
        history = protocol.run(
            train, method, jax.tree.map(lambda leaf: leaf.astype(dtype), variables),
            tuple(found.columns[name][parts] for name in ("x", "label")), found.test, comm=comm, runner=run,
            apply=model.apply, weights=graph(config, trial.agents), steps=trial.steps + rounds,
            batch=config.batch * config.agents // trial.agents, every=config.every * trial.steps // config.steps,
            directory=f"{config.workdir}/checkpoints/{trial.name}/seed{seed}", save_every=config.save_every,
            label=f"{trial.name}, seed {seed}", prepare=found.prepare,
        )  # fmt: skip
        return finish(seed, history)

    name = trial.name
    return [runner.stage(config, f"{name}_seed{s}", functools.partial(learn, s)) for s in seeds or runner.seeds(config)]


def warn_of_statistics(model: nn.Model, found: Data, norm: str) -> None:
    """Warn on stderr if the norm keeps running statistics, which the agents do not exchange."""
    if jax.eval_shape(model.init, jax.random.key(0), found.test[0][:1])["batch_stats"]:
        print(f"warning: norm {norm} keeps running statistics, which each agent has its own of", file=sys.stderr)
