"""What agents send in a step, counted three ways, and how fast they agree: what `benchmarks.decentralized` checks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import nn
from subspace_jax.core import compress, exchange, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import gossip
from subspace_jax.decentralized.methods import METHODS
from subspace_jax.decentralized.state import classification
from subspace_jax.typing import Algorithm, PyTree

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # arguments, shape of an image
    "mlp": ({"widths": (64, 64, 64)}, (8, 8, 1)),
    "cnn5": ({"norm": "evonorm"}, (32, 32, 3)),
    "resnet20": ({"norm": "evonorm"}, (32, 32, 3)),  # on a CPU it compiles for minutes, agent by agent
}
LR, SPARSITY = 0.1, 0.9
SENDERS = 4  # agents whose bytes are counted
GRAPHS = "ring", "star"  # of them; in a star some rest while others exchange
ROUNDS, RATE = 400, 1e-6  # rounds of gossip, and the tolerance of the last one's rate against rho^2


class Problem(NamedTuple):
    """A loss, the parameters of all agents, apart from each other, and a batch of each: (agents, ...)."""

    loss: Callable
    params: PyTree
    batch: tuple[np.ndarray, np.ndarray]


def problem(network: str, agents: int, batch: int) -> Problem:
    """Random images and labels."""
    arguments, shape = NETWORKS[network]
    model, rng = nn.build(network, **arguments), np.random.default_rng(0)
    x, y = rng.random((agents, batch, *shape), np.float32), rng.integers(0, 10, (agents, batch), np.int32)
    start = jax.jit(jax.vmap(model.init, (0, None)))
    params = jax.device_get(start(jax.random.split(jax.random.key(0), agents), x[0, :1]))["params"]
    return Problem(classification(model.train_apply), params, (x, y))


def one_step(make: Callable, given: Problem, comm: Comm, weights: np.ndarray) -> tuple[Callable, PyTree]:
    """A step (state, batch) -> (state, info) of one agent, and the states of all."""
    method: Algorithm = make(given.loss, comm=comm, weights=weights, lr=LR)
    start = jax.vmap(method.init, (None, 0))(jax.random.key(0), {"params": given.params, "batch_stats": {}})
    return lambda state, batch: method.step(jax.random.key(0), state, batch), start


def whole(sizes: list[int]) -> int:
    """Bytes of a float32 message."""
    return 4 * sum(sizes)


def signs(sizes: list[int]) -> int:
    """Bytes of a bit per entry and a scale per leaf."""
    return sum(-(-n // 8) + 4 for n in sizes)


def largest(sizes: list[int]) -> int:
    """A tenth of the entries, as values and their places."""
    return sum(8 * max(1, n // 10) for n in sizes)


def codes(sizes: list[int]) -> int:
    """Bytes of a byte per entry and a range per leaf."""
    return sum(n + 8 for n in sizes)


FORMULAS = {  # bytes of one message by the sizes of the leaves, by what compresses it
    compress.identity(): whole, compress.sign(): signs, compress.top_k(SPARSITY): largest, compress.k_bit(8): codes,
    None: lambda sizes: 0,
}  # fmt: skip


def traffic(network: str, graph: str) -> dict[str, dict]:
    """Kilobytes that one of SENDERS agents sends in a step: counted, by formula, in the program; means over agents."""
    given, weights = problem(network, SENDERS, 1), topology.weights(graph, SENDERS)
    sizes = [leaf[0].size for leaf in jax.tree.leaves(given.params)]
    degree, rows = (weights > 0).sum(1).mean() - 1, {}
    for name, method in METHODS.items():
        model, cross = counted(method.make, given, weights)
        of_model, of_gradient = (FORMULAS[kind](sizes) for kind in (method.model, method.gradient))
        formula = [degree * (of_model + 4 * method.scalars), degree * of_gradient]
        sent = in_program(method.make, given, weights) if jax.device_count() >= SENDERS else None
        if [model, cross] != formula or sent not in (None, model + cross):
            raise AssertionError(f"{name} counts {model} and {cross} bytes; formula {formula}, program {sent}.")
        rows[name] = {
            "models": model / 1e3, "gradients": cross / 1e3, "by_formula": sum(formula) / 1e3,
            "in_program": None if sent is None else sent / 1e3,
            "of_d_psgd": (model + cross) / (degree * whole(sizes)), "messages": degree * (1 + (cross > 0)),
            "backward_passes": 1 + degree * method.crosses,
        }  # fmt: skip
    return rows


def counted(make: Callable, given: Problem, weights: np.ndarray) -> list[float]:
    """Bytes of models and of gradients by `Info`; XLA drops the rest of the step."""
    comm = exchange.spread(SENDERS, 1)
    step, start = one_step(make, given, comm, weights)
    info = jax.jit(exchange.vmap(lambda *arguments: step(*arguments)[1][2:], comm))(start, given.batch)
    return [float(np.mean(sent)) for sent in info]


def in_program(make: Callable, given: Problem, weights: np.ndarray) -> float:
    """Bytes that `ppermute` moves from one agent to another in the traced program, one agent a device."""
    comm = exchange.spread(SENDERS, SENDERS)
    step, start = one_step(make, given, comm, weights)
    program = jax.make_jaxpr(exchange.shard_map(step, comm))(start, given.batch)
    total = 0
    for equation in equations(program.jaxpr):
        if equation.primitive.name == "ppermute":
            moved = sum(a != b for a, b in equation.params["perm"])
            total += moved * compress.nbytes([var.aval for var in equation.invars])
    return total / SENDERS


def equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a jaxpr and of all inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


def graphs(agents: int) -> dict[str, dict]:
    """Spectral gap, and share of the distance that a round of gossip leaves, of every graph; of a stack, per period."""
    rows = {}
    for name in topology.GRAPHS:
        count = len(topology.graphs.FIXED[name]()) if name in topology.graphs.FIXED else agents
        weights = topology.weights(name, count)
        stack = weights.reshape(-1, count, count)
        rho = topology.spectral_radius(functools.reduce(lambda done, w: w @ done, stack))
        left = measured_rate(weights)
        if not abs(left - rho**2) < RATE:
            raise AssertionError(f"{name}: a round leaves {left} of the squared distance, not {rho**2}.")
        messages = float((stack > 0).sum((0, 2)).mean() - len(stack))
        rows[name] = {
            "agents": count, "messages_a_round": messages, "spectral_gap": 1 - rho, "rho_squared": rho**2,
            "measured": left,
        }  # fmt: skip
    return rows


def measured_rate(weights: np.ndarray, width: int = 64) -> float:
    """Share of the squared distance from the mean that the last of ROUNDS rounds leaves; rescaled to 1 after each."""
    comm = Comm(weights.shape[-1])
    mix, steps = gossip.mixing(comm, weights), 1 if weights.ndim == 2 else len(weights)

    def one(x):
        for t in range(steps):
            x, _ = mix(jnp.int32(t), x, x)
        away = x - comm.mean(x)
        distance = comm.mean(jnp.sum(away**2))
        return away / jnp.sqrt(jnp.where(distance > 0, distance, 1)), distance

    spread = exchange.vmap(one, comm)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (comm.agents, width), "float64")
        _, distances = jax.jit(lambda x: jax.lax.scan(lambda x, _: spread(x), x, length=ROUNDS))(x)
        return float(distances[-1, 0])
