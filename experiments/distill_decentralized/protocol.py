"""One seed of distill_decentralized: a common start of each method, then each variant from there by as many steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.distill_decentralized import methods
from experiments.families import agents
from experiments.harness import flags, runner, sets
from subspace_jax import data, nn
from subspace_jax.core import exchange, shares
from subspace_jax.data import partition
from subspace_jax.decentralized import idkd, labelling, protocol
from subspace_jax.decentralized.labelling import Homogenizer
from subspace_jax.decentralized.state import State, of_agents
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.distill_decentralized.experiment import Config

SPLIT_KEY, PUBLIC_KEY = 3, 4  # folded into the seed's key
CALIBRATION = 500  # unlike images that the detectors are calibrated on; of the public ones a tenth at most
Arrays = dict[str, Any]


class Setup(NamedTuple):
    """What all seeds and runs share."""

    data: agents.Data
    model: nn.Model
    public: np.ndarray | None  # raw; None: half of the training samples
    apply: Callable  # (variables, x) -> logits at inference, of one agent after the other for --loop map
    label: Callable  # the same of raw x


class Split(NamedTuple):
    """Who has which samples at one seed, raw."""

    sets: tuple[np.ndarray, np.ndarray]  # x, label (agents, n, ...)
    inside: np.ndarray  # held out by each agent, (agents, m, ...)
    held: np.ndarray  # training samples by class, (agents, classes)
    public: np.ndarray  # (samples, ...)
    good: np.ndarray  # which of them are related to the agents' own, (samples,)
    outside: np.ndarray | None  # unlike ones, to calibrate on


def setup(config: Config, public: np.ndarray | None) -> Setup:
    """Load the data and build the network, and refuse flags that cannot run."""
    if not 0 < config.gamma <= 1:
        raise ValueError(f"--gamma must lie in (0, 1]; got {config.gamma}: with 0 the agents never exchange.")
    if config.relabel_every < 0:
        raise ValueError(f"--relabel-every is a number of steps, 0 for never; got {config.relabel_every}.")
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    found = agents.load(config)
    own = {"classes": found.classes, "norm": config.norm, "dtype": config.dtype}
    own |= ({"widths": list(config.widths)} if config.widths else {}) | flags.network_arguments(config)
    model = nn.build(config.model, **own)
    agents.warn_of_statistics(model, found, config.norm)
    apply = of_agents(model.apply, config.loop)
    return Setup(found, model, public, apply, lambda variables, x: apply(variables, data.scale(x, found.scaling)))


def public_images(config: Config) -> np.ndarray | None:
    """The images of --public or --public-from; None where they are half of the training samples.

    Warns of images that are also test images.
    """
    if config.public and config.public_from != "ID":
        raise ValueError(f"public images are those of --public or of --public-from; got both, {config.public} and "
                         f"{config.public_from}.")  # fmt: skip
    if not 0 <= config.public_noise < 1:
        raise ValueError(f"--public-noise is the share of noise among the public images, in [0, 1); got "
                         f"{config.public_noise}.")  # fmt: skip
    if not config.public and config.public_from == "ID":
        return None
    folder, size = config.data_dir or None, config.image_size or None
    if config.public:
        found = data.inputs(data.load(config.public, "train", folder, image_size=size))
    else:
        found = data.public.read(config.public_from)
    own = sets.load(config, config.samples)
    if found.shape[1:] != data.inputs(own.train).shape[1:]:
        raise ValueError(
            f"public images are {found.shape[1:]}, those of {config.data} {data.inputs(own.train).shape[1:]}: bring "
            "both to one size and number of channels."
        )
    known = data.public.among(found, data.inputs(own.test).astype(found.dtype))
    if known.any():
        warnings.warn(f"{known.sum()} of {len(known)} public images are test images: accuracies are too high.",
                      stacklevel=2)  # fmt: skip
    return found


def split(config: Config, shared: Setup, world: methods.World, seed: int) -> Split:
    """Own, held-out and public samples of one seed."""
    lot, key = (jax.random.fold_in(jax.random.key(seed), number) for number in (SPLIT_KEY, PUBLIC_KEY))
    shift, drawn, other = jax.random.split(key, 3)
    columns, rng = shared.data.columns, np.random.default_rng(np.asarray(jax.random.key_data(lot)))
    order, public = rng.permutation(len(columns["label"])), shared.public
    if public is None:
        order, rest = np.split(order, [len(order) // 2])
        public = columns["x"][rest]
        public = data.public.moved(shift, public) if public.ndim == 4 else public
    private = {name: column[order] for name, column in columns.items()}
    trial = agents.Trial("", "", {}, 0, world.partition, world.agents, dirichlet=world.dirichlet)
    parts = rng.permuted(agents.spread(shared.data._replace(columns=private), seed, trial), axis=1)
    inside, own = np.split(parts, [shares.nearest(parts.shape[1], config.held_out)], axis=1)
    if not own.shape[1] or (isinstance(methods.threshold(config), str) and not inside.shape[1]):
        raise ValueError(
            f"--held-out leaves an agent some of its {parts.shape[1]} samples to train on, and some to measure its "
            f"threshold on; got {config.held_out}."
        )
    outside = data.public.noise(other, columns["x"], count=CALIBRATION)
    good = np.ones(len(public), bool)
    if config.public_noise:
        count = round(len(public) * config.public_noise / (1 - config.public_noise))
        public = np.concatenate([public, data.public.noise(drawn, columns["x"], count=count)])
        good = np.arange(len(public)) < len(good)
    if config.calibration == "public":
        taken = np.sort(rng.permutation(len(public))[: min(CALIBRATION, len(public) // 10)])
        outside = public[taken]
        public, good = np.delete(public, taken, axis=0), np.delete(good, taken)
    held = partition.histogram(private["label"], own, classes=shared.data.classes)
    return Split((private["x"][own], private["label"][own]), private["x"][inside], held, public, good, outside)


def course(config: Config, shared: Setup, world: methods.World, listed: list[methods.Run]) -> dict[str, list[Arrays]]:
    """What every seed of every run on the same data left, by its name."""
    comm, run = agents.exchange_of(config, world.agents)
    weights = agents.graph(config, world.agents)
    label = labelling.homogenizer(
        shared.label, comm=comm, runner=run, weights=weights, threshold=methods.threshold(config), rule=config.merge
    )
    loss, samples = idkd.distillation(shared.model.train_apply), len(split(config, shared, world, config.seed).public)
    given = {"comm": comm, "weights": weights, "samples": samples, "classes": shared.data.classes}
    algorithms: dict[str, Algorithm] = {base: methods.build(config, base, loss, **given) for base in config.base}
    found: dict[str, list[Arrays]] = {one.name: [] for one in listed}
    for seed in runner.seeds(config):
        have = split(config, shared, world, seed)
        begin, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), agents.TRAIN_KEY))
        variables = shared.model.init(begin, shared.data.test[0][:1])
        variables = jax.tree.map(lambda leaf: leaf.astype(config.dtype), variables)
        for one in listed:
            course = OneSeed(config, shared, world, seed, key, variables, algorithms[one.base], label, have)
            found[one.name].append(course.finish(one))
    return found


class OneSeed(NamedTuple):
    """One method on the data of one seed."""

    config: Config
    shared: Setup
    world: methods.World
    seed: int
    key: Any  # of the training
    variables: Any  # that all agents start from
    method: Algorithm
    label: Homogenizer
    split: Split

    def train(self, name: str, start: Any, steps: int) -> Arrays:
        """So many steps from the variables or the state `start`: what `protocol.run` returns, with the whole state."""
        config, world = self.config, self.world
        comm, run = agents.exchange_of(config, world.agents)
        return runner.stage(config, f"{name}_seed{self.seed}", lambda: protocol.run(
            self.key, self.method, start, self.split.sets, self.shared.data.test, comm=comm, runner=run,
            apply=self.shared.apply, weights=agents.graph(config, world.agents), steps=steps, batch=config.batch,
            every=config.every, directory=f"{config.workdir}/checkpoints/{name}/seed{self.seed}",
            save_every=config.save_every, label=f"{name}, seed {self.seed}", prepare=self.shared.data.prepare,
            draw=idkd.draw, common=self.split.public, final=protocol.PARTS,
        ))  # fmt: skip

    def state(self, found: Arrays) -> State:
        """After a part of the training."""
        comm = agents.exchange_of(self.config, self.world.agents)[0]
        return protocol.state_of(found, self.method, self.variables, comm=comm)

    def finish(self, one: methods.Run) -> Arrays:
        """The common start, the labels, and the steps after them, put together."""
        first = methods.turn(self.config)
        start = self.train(f"{one.common}_start", self.variables, first)
        state, noted = self.state(start), {}
        keep = methods.VARIANTS[one.variant]
        if keep:
            noted = runner.stage(self.config, f"{one.name}_labels_seed{self.seed}", lambda: self.labels(state, keep))
            state = state._replace(memory=state.memory._replace(labels=noted["labels"], covered=noted["covered"]))
        parts, sent = [start], [0.0, noted["sent"].mean() if noted else 0.0]
        every = self.config.relabel_every or self.config.steps
        for begin in range(first, self.config.steps, every):
            name = one.name if begin == first else f"{one.name}_after{begin}"
            if begin > first and keep:
                state, more = self.label.propagate(self.state(parts[-1]), self.split.held)
                noted |= {"covered": more.covered, "labels": exchange.fetch(state.memory.labels)}
                sent.append(sent[-1] + more.sent.mean())
            elif begin > first:
                state = self.state(parts[-1])
                sent.append(0.0)
            parts.append(self.train(name, state, min(every, self.config.steps - begin)))
        return joined(parts, sent) | described(self.split, noted)

    def labels(self, state: State, keep: methods.Keep) -> Arrays:
        """The exchange of labels: who keeps which image, who has a label for it afterwards, and which."""
        have = self.split
        state, noted = self.label.label(state, have.public, have.held, have.inside, have.outside, keep=keep(have.good))
        return noted._asdict() | {"labels": exchange.fetch(state.memory.labels)}


def joined(parts: list[Arrays], sent: list[float]) -> Arrays:
    """The evaluations of all parts one after another; what was sent adds up, labels before the part they are for."""
    found: Arrays = {}
    for name in parts[0]:
        if name.startswith("bytes"):
            before = np.cumsum([0, *(part[name][-1] for part in parts)])
            found[name] = np.concatenate([part[name] + past for part, past in zip(parts, before[:-1], strict=True)])
        elif "/" not in name:
            found[name] = np.concatenate([np.atleast_1d(part[name]) for part in parts])
    found["seconds"] = found["seconds"].sum()
    each = [np.full(len(part["step"]), value) for part, value in zip(parts, sent, strict=True)]
    return found | {"bytes_labels": np.concatenate(each), "passes": found["step"]}


def described(have: Split, noted: Arrays) -> Arrays:
    """What became of the labels: skew before and after, kept and covered images."""
    if not noted:
        return {"before": have.held}
    after = have.held + noted["labels"].sum(axis=1)
    names = "threshold", "kept", "covered"
    return {"before": have.held, "after": after, "good": have.good} | {name: noted[name] for name in names}
