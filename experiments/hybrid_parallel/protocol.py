"""The same steps on one device and over all splits; programs of the large network, compiled and read, not run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.harness import sets
from experiments.hybrid_parallel import methods
from subspace_jax import data
from subspace_jax.core import programs
from subspace_jax.parallel import splitbrain
from subspace_jax.parallel.splitbrain import Memory, Plan
from subspace_jax.parallel.splitbrain.step import ALL
from subspace_jax.typing import Params

if TYPE_CHECKING:
    from experiments.hybrid_parallel.experiment import Config

Arrays = dict[str, Any]
ONE = "1x1"


class Case(NamedTuple):
    """One way to compute the steps."""

    split: str
    scheme: str
    layout: str
    plan: Plan
    mesh: Mesh
    step: Callable

    @property
    def name(self) -> str:
        """In the figures."""
        return f"{self.split}/{self.scheme}/{self.layout}"


class Setup(NamedTuple):
    """What all seeds share, so that each program is compiled once."""

    devices: list[jax.Device]
    columns: dict[str, np.ndarray]  # scaled x, label
    test: tuple[np.ndarray, np.ndarray]
    chain: methods.Chain
    cases: list[Case]
    optimizer: optax.GradientTransformation


def setup(config: Config, devices: list[jax.Device]) -> Setup:
    """Load the data and lay out every case; nothing is computed.

    Raises:
      ValueError: splits, widths, paths or batches that do not fit, before anything is trained.
    """
    found = sets.load(config, config.samples)
    x = data.inputs(found.train)
    scaling = data.scaling(config.data, x)
    test = np.asarray(data.scale(data.inputs(found.test), scaling), float), found.test["label"]
    columns = {"x": np.asarray(data.scale(x, scaling), float), "label": found.train["label"]}
    chain = methods.chain(config, found.classes, config.dense, "float64")
    optimizer = optax.sgd(config.lr, config.momentum)
    params = shapes(chain, columns["x"].shape[1:])
    return Setup(devices, columns, test, chain, list(cases(config, devices, chain, params, optimizer)), optimizer)


def cases(
    config: Config, devices: list[jax.Device], chain: methods.Chain, params: Params, optimizer: Any
) -> Iterator[Case]:
    """Every split with every scheme and layout, and by annotations; one member a group is one case for all."""
    for split in config.splits:
        several = methods.sizes(split)[1] > 1
        mesh = splitbrain.grid(*methods.sizes(split), devices)
        for layout in config.layout if several else config.layout[:1]:
            plan = methods.plan(config, params, chain.network.dense, split, config.batch // len(devices), layout)
            for scheme in methods.schemes(config, split):
                if scheme == "fsdp":
                    continue
                splitbrain.check_batch(plan, config.batch, scheme)
                loss = methods.loss_of(scheme, chain.network, plan, mesh)
                yield Case(split, scheme, layout, plan, mesh, jax.jit(splitbrain.train_step(loss, optimizer)))


def shapes(chain: methods.Chain, image: tuple[int, ...], dtype: str = "float64") -> Params:
    """Parameters of the whole network as shapes."""
    found = jax.eval_shape(chain.model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), dtype))["params"]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), found)


def equality(config: Config, shared: Setup, seed: int) -> Arrays:
    """One seed in float64: every case against one device, from the same values over the same batches."""
    x, y = shared.columns["x"], shared.columns["label"]
    init = jax.jit(shared.chain.model.init)(jax.random.key(seed), x[:1])["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), init)
    rows = [np.arange(i * config.batch, (i + 1) * config.batch) % len(y) for i in range(config.steps)]
    batches = [(x[row], y[row]) for row in rows]
    alone = jax.jit(splitbrain.train_step(splitbrain.plain_loss(shared.chain.network), shared.optimizer))
    reference = followed(alone, params, shared.optimizer.init(params), batches)
    found: Arrays = {"loss/one_device": reference["loss"]}
    for case in shared.cases:
        spread = splitbrain.shard_params(case.plan, case.mesh, params)
        over = jax.device_put(batches, NamedSharding(case.mesh, ALL))
        run = followed(case.step, spread, shared.optimizer.init(spread), over)
        for kind, name in (("gradient", "gradient"), ("params", f"{config.steps}_steps")):
            whole = splitbrain.gather_params(case.plan, run[kind])
            found[f"max_difference_{name}/{case.name}"] = distance(whole, reference[kind])
        found[f"loss/{case.name}"] = run["loss"]
        if (case.scheme, case.layout) == (config.schemes[0], config.layout[0]):
            own = splitbrain.gather_params(case.plan, run["params"])
            found[f"accuracy/{case.split}"] = accuracy(shared, own)
    return found


def followed(step: Callable, params: Params, state: Any, batches: list[tuple[Any, Any]]) -> Arrays:
    """Losses and last parameters of some steps, and the gradient of the first one."""
    losses, first = [], None
    for x, y in batches:
        params, state, value, grads = step(params, state, x, y)
        first = grads if first is None else first
        losses.append(float(value))  # waits: devices that are simulated bear few steps in a queue
    return {"loss": np.array(losses), "params": jax.device_get(params), "gradient": jax.device_get(first)}


def distance(tree: Params, other: Params) -> float:
    """The largest difference of two entries."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), tree, other)))


def accuracy(shared: Setup, params: Params) -> float:
    """Share of test samples that are answered rightly."""
    x, y = shared.test
    logits = jax.jit(shared.chain.model.apply)({"params": params, "batch_stats": {}}, x)
    return float((np.asarray(logits).argmax(1) == y).mean())


class Large(NamedTuple):
    """The network whose programs are compiled and not run."""

    chain: methods.Chain
    params: Params  # shapes
    optimizer: optax.GradientTransformation


@functools.cache
def large(config: Config) -> Large:
    """By the flags, in float32."""
    chain = methods.chain(config, 10, config.memory_dense, "float32")
    return Large(chain, shapes(chain, config.memory_shape, "float32"), optax.sgd(config.lr, config.momentum))


def measured(config: Config, devices: list[jax.Device], split: str) -> Arrays:
    """Bytes of the large network at one split as programs have them, and as they were predicted."""
    (chain, params, optimizer), found = large(config), {}
    mesh = splitbrain.grid(*methods.sizes(split), devices)
    for b in config.batch_per_worker:
        plan = large_plan(config, split, b)
        padded, batch = splitbrain.pad_params(plan, params), samples(config, b * plan.devices)
        for scheme in methods.schemes(config, split):
            specs, loss = methods.specs_of(scheme, plan, padded), methods.loss_of(scheme, chain.network, plan, mesh)
            program = splitbrain.compile_step(loss, optimizer, mesh, padded, specs, batch)
            found |= read(program, f"{split}/{scheme}/b{b}")
            if scheme in splitbrain.SCHEMES:
                for kind, nbytes in splitbrain.comm_model(plan, params, b * plan.devices, scheme=scheme).items():
                    found[f"collective_predicted/{split}/{scheme}/b{b}/{kind}"] = nbytes
    return found


def read(program: Any, name: str) -> Arrays:
    """What a program says of itself."""
    memory = programs.memory(program)
    found: Arrays = {f"bytes_arguments/{name}": memory.arguments, f"bytes_temporaries/{name}": memory.temporaries}
    found[f"flops/{name}"] = programs.flops(program)
    return found | {f"collective/{name}/{kind}": each.nbytes for kind, each in programs.collectives(program).items()}


def one_device(config: Config, device: jax.Device) -> Arrays:
    """Operations of a step with the whole batch on one device."""
    (chain, params, optimizer), mesh, found = large(config), splitbrain.grid(1, 1, [device]), {}
    specs = splitbrain.param_specs(large_plan(config, ONE, 1), params)
    for b in config.batch_per_worker:
        batch = samples(config, b * config.devices)
        loss = splitbrain.plain_loss(chain.network)
        found[f"flops/b{b}"] = programs.flops(splitbrain.compile_step(loss, optimizer, mesh, params, specs, batch))
    return found


def predicted(config: Config, split: str, scheme: str, b: int) -> Memory:
    """The memory model of the large network.

    Raises:
      ValueError: a batch, or a width, that the devices cannot share.
    """
    _, params, optimizer = large(config)
    plan = large_plan(config, split, b)
    splitbrain.check_batch(plan, b * plan.devices, scheme)
    specs = methods.specs_of(scheme, plan, splitbrain.pad_params(plan, params)) if scheme == "fsdp" else None
    return splitbrain.memory_model(plan, params, samples(config, b * plan.devices), optimizer, specs=specs)


def large_plan(config: Config, split: str, b: int) -> Plan:
    """The plan of the large network."""
    chain, params, _ = large(config)
    return methods.plan(config, params, chain.network.dense, split, b, config.layout[0])


def samples(config: Config, count: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes of a global batch."""
    image, label = (
        jax.ShapeDtypeStruct((count, *config.memory_shape), "float32"),
        jax.ShapeDtypeStruct((count,), "int32"),
    )
    return image, label
