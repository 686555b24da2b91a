"""What do eight bits cost agents that train without a server? Forward, backward and messages in 8 bits against float.

    uv run python -m experiments.low_precision                          (digits, 8 agents on a ring, skew 0 and .8)
    uv run python -m experiments.low_precision --bits 4 --method none --skew 0 .4 .8 1
    expected: mean of all models in float and in 8 bits: skew 0 .964 and .963, skew .8 .956 and .953; with DeepSqueeze
              .971 and .971, .965 and .965; 3.96 times fewer bytes; 4 min on 2 cores
    paper:    CIFAR-10: less than 1 % lost on like and unlike data, a quarter of the traffic; with 99 % of the entries
              dropped 1-2 % (arXiv 2111.09389, abstract)

Accuracies are means over the evaluations of the last quarter of the steps: accuracy_consensus of the mean of all
models, accuracy_mean of each agent's own model directly after a step, accuracy_worst of the worst agent. Then --rounds
steps at learning rate 0, which only exchange: accuracy_mean_rounds and accuracy_consensus_rounds.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import classifier
from experiments.families.agents import follow, methods
from experiments.families.agents import report as shared_report
from experiments.harness import launch, runner
from experiments.low_precision import codes
from subspace_jax import data, nn
from subspace_jax.core import compress, topology
from subspace_jax.core.compress import Compressor
from subspace_jax.data import partition
from subspace_jax.decentralized.low_precision import Method, low_precision
from subspace_jax.decentralized.state import classification
from subspace_jax.typing import Algorithm

TRAIN_KEY, PARTITION_KEY, CODES_KEY = 0, 1, 2  # folded into the seed's key


@dataclasses.dataclass(frozen=True)
class Config(launch.Config, runner.Config):
    """Train one network on data that are spread over agents, in float and in few bits, by the same exchange."""

    agents: int = 8
    """Agents; a multiple of devices x processes."""
    method: Literal["none", "deep_squeeze", "choco", "all"] = "all"
    """What is sent beside whole models: the largest entries, by one method or by both."""
    bits: int = 8
    """Of inputs, weights, cotangents and messages, 1 to 16."""
    stochastic_act: bool = False
    """Round inputs at random while training, as the authors' code does, instead of to the nearest value."""
    skew: tuple[float, ...] = (0.0, 0.8)
    """Shares of the samples that are dealt out sorted by label."""
    topology: str = "ring"
    """Graph: ring, torus, chain, star, full, petersen, ..."""
    samples: int | None = None
    """Use the first so many training samples; all when not given."""
    model: str = "mlp"
    """Network: mlp, cnn5, resnet20, ..., see nn.build."""
    widths: tuple[int, ...] = (64, 64, 64)
    """Hidden layers of an mlp."""
    norm: str = "none"
    """Its norm; where the float network has evonorm, the one in few bits has range_evonorm."""
    init: str = "lecun"
    """Initial weights: lecun, he, he_out."""
    augment: bool = False
    """Random crops and flips while training."""
    steps: int = 1500
    """Steps of every agent."""
    rounds: int = 50
    """Steps after them that only exchange."""
    batch: int = 32
    """Samples per agent and step, drawn with replacement."""
    lr: float = 0.02
    """Learning rate."""
    warmup: int = 0
    """First steps at a tenth of it."""
    decay: bool = False
    """x.1 at 50 and 75 % of the steps."""
    momentum: float = 0.9
    """Of the local Nesterov buffer."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    sparsity: float = 0.9
    """Share of the entries that deep_squeeze and choco do not send."""
    gamma: float = 0.1
    """Their averaging rate; 1 where whole models are sent."""
    beside: bool = True
    """Also run: a float network whose messages alone have few bits, and all data in one place."""
    every: int = 50
    """Steps between two evaluations; a divisor of the steps."""
    save_every: int = 40
    """Evaluations between two checkpoints."""
    loop: Literal["vmap", "map"] = "vmap"
    """Gradients of the agents of a device at once, or one after the other: faster for convolutions on a GPU."""


PRESETS = {
    "smoke": Config(seeds=1, agents=4, steps=20, rounds=10, every=10, widths=(32,), method="none",
                    skew=(0.8,), samples=400, beside=False),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", model="resnet20", widths=(), norm="evonorm", init="he_out", augment=True, seeds=1,
        steps=11700,  # 60 epochs of 6,250 samples an agent
        every=195, save_every=5, warmup=195, lr=0.1, decay=True, sparsity=0.99, gamma=0.01, beside=False, loop="map",
    ),
}  # fmt: skip


class Variant(NamedTuple):
    """How one network computes and what it sends."""

    bits: int | None
    compressor: Compressor
    method: Method
    gamma: float


class Setup(NamedTuple):
    """What all seeds and trials share."""

    columns: dict[str, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]  # scaled images, labels
    scaling: data.Scaling
    classes: int
    models: dict[int | None, nn.Model]  # by bits
    twin: nn.Model  # the one in few bits, computed in float
    methods: dict[tuple[str, int], Algorithm]  # by variant and agents: compiled once for all skews and seeds
    prepare: Any


def main(config: Config) -> runner.Summary:
    """Run all trials and seeds and put the report together."""
    listed = trials(config)
    shared = setup(config, listed)
    runs = {trial.name: course(config, shared, trial) for trial in listed}
    cost = codes.cost(shared.models[None], shared.test[0][:1], config.batch) if config.bits == 8 else {}
    figures, std = runner.over_seeds(
        [figures_of(config, listed, {name: found[k] for name, found in runs.items()}) | cost
         for k in range(config.seeds)]
    )  # fmt: skip
    shared_report.write_agents(config, runs)
    labels = shared.columns["label"]
    held = {
        skew: partition.histogram(labels, spread(config, labels, config.seed, skew, config.agents),
                                  classes=shared.classes)
        for skew in config.skew
    }  # fmt: skip
    first = {name: found[0] for name, found in runs.items()}
    sections = codes.sections(config, listed, figures, std, first, held)
    return runner.Summary(figures, std, claims(config, figures), sections, shared_report.rows(config, runs))


def variants(config: Config) -> dict[str, Variant]:
    """Every variant by its name in the figures."""
    bits, few, kept = config.bits, f"int{config.bits}", config.sparsity
    found = {
        "float": Variant(None, compress.identity(), "none", 1.0),
        few: Variant(bits, compress.k_bit(bits), "none", 1.0),
    }
    for method in ("deep_squeeze", "choco"):
        if config.method in (method, "all"):
            found[f"float_{method}"] = Variant(None, compress.top_k(kept), method, config.gamma)
            found[f"{few}_{method}"] = Variant(bits, compress.top_k(kept, bits=bits), method, config.gamma)
    if config.beside:
        found["messages_" + few] = Variant(None, compress.k_bit(bits), "none", 1.0)
    if config.beside and bits > 1:  # one bit has no room for a sign and a level
        found["messages_qsgd"] = Variant(None, compress.qsgd(bits), "none", 1.0)
    return found


def trials(config: Config) -> list[methods.Trial]:
    """Every variant at every skew; then float and few bits on all data in one place."""
    listed = [
        methods.Trial(f"{name}_skew_{skew:g}", name, {"skew": skew}, config.steps, "label_sorted", config.agents)
        for skew in config.skew
        for name in variants(config)
    ]
    if config.beside:
        alone = {"skew": 0.0}
        listed += [
            methods.Trial(f"{name}_centralized", name, alone, config.steps, "label_sorted", 1)
            for name in ("float", f"int{config.bits}")
        ]
    return listed


def setup(config: Config, listed: list[methods.Trial]) -> Setup:
    """Load the data and build every network and method, which refuses bad flags before anything runs."""
    if config.every < 1 or config.steps % config.every or config.rounds < 0:
        raise ValueError(
            f"--every must divide --steps, and --rounds be at least 0; got {config.every}, {config.steps} and "
            f"{config.rounds}."
        )
    if not config.skew:
        raise ValueError("--skew takes at least one share; 0 shuffles all samples, 1 sorts all.")
    columns, test = (data.load(config.data, split, config.data_dir or None) for split in ("train", "test"))
    columns = {name: column[: config.samples] for name, column in columns.items()}
    for skew in config.skew:
        spread(config, columns["label"], config.seed, skew, config.agents)
    topology.check_weights(topology.weights(config.topology, config.agents), agents=config.agents, connected=True)
    scaling = data.scaling(config.data, columns["image"])
    classes = int(max(columns["label"].max(), test["label"].max())) + 1
    norm = "range_evonorm" if config.norm == "evonorm" else config.norm
    models = {None: build(config, classes, config.norm), config.bits: build(config, classes, norm, config.bits)}
    methods = {
        (trial.method, trial.agents): algorithm(config, variants(config)[trial.method], models, trial.agents)
        for trial in listed
    }
    scaled = np.asarray(data.scale(test["image"], scaling))
    prepare = classifier.prepare(scaling, augment=config.augment)
    twin = build(config, classes, norm)
    return Setup(columns, (scaled, test["label"]), scaling, classes, models, twin, methods, prepare)


def build(config: Config, classes: int, norm: str, bits: int | None = None) -> nn.Model:
    """The network in float or in few bits: the same parameters, the same initial weights."""
    if norm == "batch":
        raise ValueError("--norm batch keeps statistics that no step in few bits rounds; use evonorm, group or none.")
    widths = {"widths": list(config.widths)} if config.widths else {}
    rounding = {"stochastic_act": config.stochastic_act} if bits else {}
    return nn.build(config.model, classes=classes, norm=norm, init=config.init, bits=bits, **widths, **rounding)


def algorithm(config: Config, variant: Variant, models: dict[int | None, nn.Model], agents: int) -> Algorithm:
    """The method of a variant."""
    return low_precision(
        classification(models[variant.bits].train_apply), comm=launch.exchange_of(config, agents)[0],
        weights=graph_of(config, agents), lr=rate(config), gamma=variant.gamma, momentum=config.momentum,
        weight_decay=config.weight_decay, compressor=variant.compressor, method=variant.method, loop=config.loop,
    )  # fmt: skip


def rate(config: Config) -> optax.Schedule:
    """A tenth during warmup, x.1 at 50 and 75 % where it decays, 0 after all steps."""
    half, late = config.steps // 2, 3 * config.steps // 4
    changes = {config.warmup: 10.0} if config.warmup else {}
    changes |= {half: 0.1, late: 0.1} if config.decay else {}
    start = config.lr / 10 if config.warmup else config.lr
    return optax.piecewise_constant_schedule(start, changes | {config.steps: 0.0})


def graph_of(config: Config, agents: int) -> np.ndarray:
    """W of the graph; one agent hears nobody."""
    return topology.weights(config.topology, agents) if agents > 1 else np.ones((1, 1))


def spread(config: Config, labels: np.ndarray, seed: int, skew: float, agents: int) -> np.ndarray:
    """The training samples of each agent, (agents, samples)."""
    key = jax.random.fold_in(jax.random.key(seed), PARTITION_KEY)
    return partition.label_sorted(key, labels, agents=agents, skew=skew)


def course(config: Config, shared: Setup, trial: methods.Trial) -> list[dict[str, np.ndarray]]:
    """What every seed of a trial left."""
    comm, run = launch.exchange_of(config, trial.agents)
    model = shared.models[variants(config)[trial.method].bits]

    def learn(seed):
        begin, train = jax.random.split(jax.random.fold_in(jax.random.key(seed), TRAIN_KEY))
        parts = spread(config, shared.columns["label"], seed, trial.settings["skew"], trial.agents)
        image, label = (shared.columns[name][parts] for name in ("image", "label"))
        history = follow.follow(
            config, train, shared.methods[trial.method, trial.agents], model.init(begin, shared.test[0][:1]),
            (image, label), shared.test, comm=comm, runner=run, apply=model.apply,
            weights=graph_of(config, trial.agents), steps=trial.steps + config.rounds,
            batch=config.batch * config.agents // trial.agents, every=config.every,
            directory=f"{config.workdir}/checkpoints/{trial.name}/seed{seed}", label=f"{trial.name}, seed {seed}",
            prepare=shared.prepare,
        )  # fmt: skip
        history["passes"] = history["step"]
        if trial.method == f"int{config.bits}" and trial.agents > 1:
            key = jax.random.fold_in(jax.random.key(seed), CODES_KEY)
            rows = jax.random.permutation(key, image.shape[1])[: config.batch]
            batch = data.scale(image[:, rows], shared.scaling), label[:, rows]
            history |= codes.use(shared.twin, history, batch, bits=config.bits, key=key)
        return history

    seeds = range(config.seed, config.seed + config.seeds)
    return [runner.stage(config, f"{trial.name}_seed{seed}", functools.partial(learn, seed)) for seed in seeds]


def figures_of(config: Config, listed: list[methods.Trial], found: dict[str, shared_report.Arrays]) -> dict[str, float]:
    """The figures of one seed: of the steps, after the rounds, of messages and codes."""
    figures = shared_report.figures(listed, {name: before(config.steps, arrays) for name, arrays in found.items()})
    for name, arrays in found.items():
        figures |= {
            f"accuracy_mean_rounds/{name}": float(arrays["accuracy"][-1].mean()),
            f"accuracy_consensus_rounds/{name}": float(arrays["consensus"][-1]),
        }
    at, sent = f"_skew_{config.skew[0]:g}", "bytes_model_per_step/"
    for name in variants(config):
        if name != "float":
            figures[f"bytes_ratio/{name}"] = figures[f"{sent}float{at}"] / figures[f"{sent}{name}{at}"]
    for skew in config.skew:
        figures |= codes.figures(found[f"int{config.bits}_skew_{skew:g}"], f"skew_{skew:g}")
    return figures


def before(steps: int, arrays: shared_report.Arrays) -> shared_report.Arrays:
    """The evaluations of the steps, without those of the rounds."""
    kept = arrays["step"] <= steps
    return {name: a[kept] if "/" not in name and a.ndim else a for name, a in arrays.items()}


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show; nothing is claimed of others."""
    free = "preset", "workdir", "resume", "seed", "seeds", "data_dir", *vars(launch.Config()), "save_every"
    free = {name: getattr(config, name) for name in free if name != "agents"}
    if config.preset == "smoke" or config != dataclasses.replace(PRESETS[config.preset], **free):
        return []
    margins = {"int8": 0.015}
    margins |= {"int8_deep_squeeze": 0.02} if config.preset == "cpu" else {
        "int8_deep_squeeze": 0.03, "int8_choco": 0.03,
    }  # fmt: skip
    consensus = "accuracy_consensus/"
    return [
        runner.Claim(
            f"{name} at least float - {margin} at skew {skew:g}",
            figures[f"{consensus}{name}_skew_{skew:g}"] - figures[f"{consensus}float_skew_{skew:g}"],
            -margin,
        )
        for name, margin in margins.items()
        for skew in config.skew
    ] + [runner.Claim("bytes of float 3.9 to 4.0 times those of int8", -abs(figures["bytes_ratio/int8"] - 3.95), -0.05)]
