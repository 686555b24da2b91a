"""One seed: the binary network trained and counted, then every other one from the same initial values and batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import classifier
from experiments.harness import runner
from experiments.mixed_precision import methods
from experiments.mixed_precision.methods import Plan
from subspace_jax import checkpoint, data, nn, training
from subspace_jax.compression import hybrid_net
from subspace_jax.core import costs
from subspace_jax.nn.build import NETWORKS
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.mixed_precision.experiment import Config

CALL = 500  # images a call, at most, where responses are measured
COUNTED, PLAIN = "counted", "xnor_plain"  # what is counted: the binary network, of one with skips its plain twin
Arrays = dict[str, np.ndarray]


class Found(NamedTuple):
    """One seed: counts by layer, the bits of every network, and {network: what came of it}."""

    seed: int
    counts: dict[str, int]
    plans: dict[str, Plan]
    networks: dict[str, Arrays]


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> Found:
    """Train and count the binary network, then train the others; equal plans are one network."""
    task = classifier.task(config, shared, seed)
    size = arguments(config, shared)
    binary = methods.uniform(size["widths"][1:], 1)

    def stage(name: str, compute: Any, *own: Any) -> Arrays:
        return runner.stage(config, f"seed{seed}_{name}", functools.partial(compute, config, shared, task, seed, *own))

    first = stage(COUNTED, counted, binary)
    counts = {f"conv{i}": int(k) for i, k in enumerate(first["counts"], start=1)}
    plans, networks = methods.plans(config, counts, seed), {}
    for name, bits in plans.items():
        if bits == binary and not size["skip"]:
            networks[name] = {"accuracy": first["accuracy"]}
            continue
        same = next((other for other in networks if plans[other] == bits), None)
        networks[name] = networks[same] if same else stage(name, trained, name, bits)
    return Found(seed, counts, plans, networks)


def counted(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, bits: Plan) -> dict[str, Any]:
    """Train or load the binary network without skips; its accuracy and the counts of its responses."""
    size = arguments(config, shared)
    if config.checkpoint:
        model, variables, saved = checkpoint.load_model(config.checkpoint, seed=seed, epoch=config.epoch)
        check_binary(config, saved)
    else:
        model, variables = fit(config, shared, task, seed, PLAIN if size["skip"] else "xnor", bits, skip=False)
    layers = [f"conv{i}" for i in range(1, len(bits))]
    batches = np.array_split(np.asarray(task.x), -(-len(task.x) // CALL))
    spectra = hybrid_net.response_spectra(model, variables, batches, layers=layers)
    counts = hybrid_net.significant_counts(spectra, tau=config.tau)
    found = {f"eigenvalues/{one.path}": one.eigenvalues for one in spectra}
    return found | {"accuracy": accuracy(model, variables, task), "counts": list(counts.values())}


def trained(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, name: str, bits: Plan
) -> dict[str, Any]:
    """Train one network with these bits."""
    skip = arguments(config, shared)["skip"]
    return {"accuracy": accuracy(*fit(config, shared, task, seed, name, bits, skip=skip), task)}


def fit(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, name: str, bits: Plan, *, skip: bool
) -> tuple[nn.Model, Variables]:
    """Train from the seed's initial values on the seed's batches, and save the network."""
    kwargs = arguments(config, shared) | {"bits": list(bits), "skip": skip}
    model, key = nn.build(config.model, **kwargs), jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    start = initial(model)(key, task.x[:1])
    leaves = hybrid_net.quantised_leaves(start["params"], bits)
    variables = training.minimise(
        key, training.mean_loss(model.train_apply), optimizer(shared.recipe, config.steps, leaves), start,
        [(task.image, task.label)], steps=config.steps, batch=config.batch, prepare=shared.prepare,
        label=f"seed {seed}, {name}",
    )  # fmt: skip
    saved = classifier.checkpoint_config(config, shared, seed)
    saved["model"]["kwargs"] = kwargs
    saved["recipe"]["epochs"] = -(-config.steps * config.batch // len(task.x))
    state = training.TrainState(jax.numpy.int32(config.steps), **variables, opt_state={}, key=key)
    with checkpoint.manager(f"{config.workdir}/checkpoints/{name}/seed{seed}") as to:
        if saved["recipe"]["epochs"] not in to.all_steps():  # a resumed run wrote it before
            checkpoint.save(to, saved["recipe"]["epochs"], state, config=saved)
    return model, variables


@functools.lru_cache  # one optimiser a plan, and so one compilation for all seeds
def optimizer(recipe: training.Recipe, steps: int, leaves: tuple[str, ...]) -> optax.GradientTransformation:
    """The recipe's, after which the real weights are centred and clipped."""
    return optax.chain(training.optimizer(recipe, steps), hybrid_net.recentre(leaves))


@functools.lru_cache
def initial(model: nn.Model) -> Any:
    """The initial values of a network, compiled."""
    return jax.jit(model.init)


def accuracy(model: nn.Model, variables: Variables, task: classifier.Task) -> float:
    return float(training.evaluate(model.apply, variables, task.test_x, task.test_label))


def arguments(config: Config, shared: classifier.Setup) -> dict[str, Any]:
    """All arguments of the network but its bits, those that are not given included."""
    own = {name: getattr(NETWORKS[config.model], name) for name in ("widths", "strides", "skip")}
    given = classifier.network_arguments(config, shared.classes) | {"scale": config.scale}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in (own | given).items()
            if name != "bits"}  # fmt: skip


def check_binary(config: Config, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is no binary network without skips."""
    bits, skip = saved["model"]["kwargs"].get("bits", []), saved["model"]["kwargs"].get("skip")
    if list(bits) != [costs.FULL_BITS, *(1 for _ in bits[1:])] or skip:
        raise ValueError(
            f"--checkpoint {config.checkpoint} is no binary network without skips (bits {bits}, skip {skip}): give "
            "<run>/checkpoints/xnor, or xnor_plain, of this experiment."
        )


def spent(config: Config, shared: classifier.Setup, bits: Plan) -> costs.Energy:
    """Energy of one image."""
    size = arguments(config, shared)
    layers = hybrid_net.layer_costs(
        data.inputs(shared.columns).shape[1:], widths=size["widths"], strides=size["strides"], classes=shared.classes,
        skip=size["skip"],
    )  # fmt: skip
    return costs.energy(layers, hybrid_net.layer_bits(layers, bits))
