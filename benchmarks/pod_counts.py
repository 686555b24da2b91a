"""What one unit of work computes, moves and exchanges, read from compiled programs: what `benchmarks.pod` multiplies.

Nothing runs here: shapes are compiled, for one device or for many simulated ones. Operations are counted by the formula
of the layers (`benchmarks.limits` checks it against the compiler), bytes by the compiler of this machine in float32 and
halved for the two bytes of bfloat16; another compiler merges other operations.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.decentralized_counts import LR, NETWORKS
from benchmarks.limits import agents_bytes, curvature_flops
from subspace_jax import nn, training
from subspace_jax.core import capture, costs, exchange, losses, programs, topology
from subspace_jax.decentralized import gossip, ngc
from subspace_jax.memorization.scores import scorer
from subspace_jax.training import many, scoring
from subspace_jax.typing import PyTree

HALF = 0.5  # bytes of bfloat16 over those of float32
METHODS = {"d_psgd": (gossip.d_psgd, 1, 0), "ngc": (ngc.ngc, 2, 1)}  # messages and cross-gradients a neighbour


class Unit(NamedTuple):
    """What one device does for one unit of work.

    Attributes:
      flops: floating-point operations.
      nbytes: that go through its memory.
      wire: bytes that it receives from other devices.
      calls: exchanges, each of which waits for the one before.
    """

    flops: float
    nbytes: float
    wire: float = 0.0
    calls: int = 0

    def __add__(self, other: Any) -> "Unit":
        return Unit(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: float) -> "Unit":
        """So many of it, one after the other."""
        return Unit(self.flops * count, self.nbytes * count, self.wire * count, int(self.calls * count))


def compiled(fn: Callable, *arguments: Any) -> Any:
    """The program of these shapes."""
    return jax.jit(fn).lower(*arguments).compile()


def accessed(program: Any) -> float:
    """Bytes that the operations of a program read and write, each result once a reader."""
    return float((program.cost_analysis() or {})["bytes accessed"])


def image(shape: tuple[int, ...], batch: int) -> jax.ShapeDtypeStruct:
    """A batch of images."""
    return jax.ShapeDtypeStruct((batch, *shape), "float32")


def labels(batch: int) -> jax.ShapeDtypeStruct:
    """Their labels."""
    return jax.ShapeDtypeStruct((batch,), "int32")


def scored(name: str, shape: tuple[int, ...], *, classes: int, probes: int, batch: int) -> Unit:
    """One image scored by fd_norm: the bytes are those of one gradient of a batch, once for each point."""
    model, x = nn.build(name, classes=classes), image(shape, batch)
    loss = losses.cross_entropy(model.apply)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    macs = costs.macs(capture.layers(model.apply, variables, image(shape, 1)))
    gradient = compiled(lambda v, x, y: jax.grad(lambda x: loss(v, x, y).sum())(x), variables, x, labels(batch))
    return Unit(curvature_flops(macs, 1, probes=probes), HALF * (1 + probes) * accessed(gradient) / batch)


@functools.lru_cache  # an agent's step is the same on every graph
def trained(name: str, shape: tuple[int, ...], *, batch: int, **arguments: Any) -> Unit:
    """One training step of one network."""
    model, x = nn.build(name, **arguments), image(shape, batch)
    tx = optax.sgd(LR, 0.9)
    state = jax.eval_shape(lambda x: training.create(jax.random.key(0), model, tx, x), x)
    table = capture.layers(model.apply, training.variables(state), image(shape, 1))
    step = compiled(training.train_step(model, tx), state, x, labels(batch))
    return Unit(2.0 * sum(costs.step_macs(table)) * batch, HALF * accessed(step))


def agents(graph: str, method: str, agents: int, devices: int, batch: int) -> Unit:
    """One step of the agents of one device: gradients, the exchange, models read and written."""
    arguments, shape = NETWORKS["resnet20"]
    make, messages_a_neighbour, crosses = METHODS[method]
    neighbours = int((topology.weights(graph, agents)[0] > 0).sum()) - 1
    gradient = trained("resnet20", shape, batch=batch, **arguments)
    params = jax.eval_shape(nn.build("resnet20", **arguments).init, jax.random.key(0), image(shape, 1))["params"]
    size = costs.parameters(params)
    sent = exchanged(make, graph, agents, devices, {"all": jax.ShapeDtypeStruct((size,), "float32")})  # one type
    block = agents // devices
    moved = agents_bytes(size, block, messages_a_neighbour * neighbours)
    mixing = Unit(0, HALF * moved, HALF * sent.nbytes, sent.calls)
    return gradient.times(block * (1 + crosses * neighbours)) + mixing


def exchanged(make: Callable, graph: str, agents: int, devices: int, params: PyTree) -> programs.Collective:
    """The permutations of one step in the compiled program, of one device; of parameters of these shapes.

    The loss is one that is compiled at once: who sends what to whom does not depend on it.
    """

    def loss(params, stats, batch, key):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) * batch.mean(), stats

    comm = exchange.spread(agents, devices)
    method = make(loss, comm=comm, weights=topology.weights(graph, agents), lr=LR)
    everyone = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((agents, *leaf.shape), leaf.dtype), params)
    start = jax.eval_shape(
        jax.vmap(lambda p: method.init(jax.random.key(0), {"params": p, "batch_stats": {}})), everyone
    )
    step = exchange.shard_map(lambda state, batch: method.step(jax.random.key(0), state, batch), comm)
    found = programs.collectives(compiled(step, start, jax.ShapeDtypeStruct((agents, 1), "float32")))
    if found.keys() - {"collective-permute"}:
        raise AssertionError(f"a step exchanges by {', '.join(found)}, not by permutations alone.")
    return found.get("collective-permute", programs.Collective(0, 0))


def independent(devices: int) -> dict[str, dict]:
    """The collectives in scoring a batch, and in an epoch of many models, over so many devices: there are none."""
    model, x = nn.build("mlp", classes=3, widths=(4,)), image((6,), devices)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("samples",))
    fn = scorer("fd_norm", model.apply, probes=1)
    index = jax.ShapeDtypeStruct((devices,), "int32")
    score = scoring._call.lower(fn, mesh, jax.random.key(0), variables, index, x, labels(devices)).compile()
    tx = optax.sgd(LR, 0.9)
    states = jax.eval_shape(many._fresh(model, tx), jax.random.key(0), np.arange(devices), np.zeros((1, 6), np.float32))
    epoch = many._epoch(model, tx, batch=2, loop="vmap", prepare=None)
    table = jax.ShapeDtypeStruct((devices, 4), "int32")
    train = compiled(epoch, states, image((6,), 8), labels(8), table)
    return {"scoring": programs.collectives(score), "train_many": programs.collectives(train)}
