"""One seed of federated_proxy: updates of one client encoded, trainings over all rounds, attacks on updates."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.federated_proxy import methods
from experiments.federated_proxy.methods import Run, Setup
from experiments.harness import runner
from subspace_jax import trees
from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.core.inference import check_inference
from subspace_jax.data import partition
from subspace_jax.federated import fedavg, inversion, matching, tofu
from subspace_jax.training.progress import track
from subspace_jax.typing import Algorithm, PyTree

if TYPE_CHECKING:
    from experiments.federated_proxy.experiment import Config

INIT_KEY, PARTITION_KEY, DRAW_KEY, ENCODE_KEY, WARM_KEY, ATTACK_KEY = range(6)  # folded into the seed's key
WARM_LR = 0.1  # of the network whose updates are encoded and attacked beside those of a fresh one
WEIGHTS, SUFFIX = ("fresh", "trained"), ("", "_trained")  # of the cases of an attack
SHOWN = 8  # private images in a picture
Arrays = dict[str, Any]


class Rounds(NamedTuple):
    """Rounds of one kind, compiled once for all trainings that have some.

    Attributes:
      method: the algorithm of a client.
      run: (key, state, rows) -> (state, info) of all clients.
    """

    method: Algorithm
    run: Callable


Made = dict[tuple[str, int], Rounds]  # by kind and number of proxies


def rounds(config: Config, shared: Setup) -> Made:
    """The rounds of every training, and those of full updates."""
    comm, found = Comm(config.clients), {}
    x, label = jnp.asarray(shared.x), jnp.asarray(shared.label)
    for run in [*methods.runs(config), methods.WHOLE]:
        method = methods.algorithm(config, shared, run, comm)
        found.setdefault((run.kind, run.proxies), Rounds(method, taking_rows(method, comm, x, label)))
    return found


def taking_rows(method: Algorithm, comm: Comm, x: Any, label: Any) -> Callable:
    """A round on the samples at these positions of the training set, which stays on the device."""
    step = exchange.vmap(method.step, comm, shared=(0,))
    run = jax.jit(lambda key, state, rows, x, label: step(key, state, (x[rows], label[rows])))
    return lambda key, state, rows: run(key, state, rows, x, label)


def course(config: Config, shared: Setup, run: Run, made: Made, seed: int) -> Arrays:
    """A training of one seed, saved every --save-every rounds: accuracy of the server's network and traffic."""
    method = made[run.kind, run.proxies].method
    parts, arrays = [], saved(exchange.stack([method.init(None, fresh(shared, seed))] * config.clients))
    for first in range(0, config.rounds, config.save_every):
        name = f"{run.name}{run.suffix}_seed{seed}_rounds{first}"
        arrays = runner.stage(config, name, functools.partial(some, config, shared, run, made, seed, first, arrays))
        parts.append({kind: values for kind, values in arrays.items() if not kind.startswith("state/")})
    untrained = accuracy(shared, fresh(shared, seed)["params"])
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]} | {"start": untrained}


def some(config: Config, shared: Setup, run: Run, made: Made, seed: int, first: int, before: Arrays) -> Arrays:
    """Some rounds from `first` on: the state that they end at, and a row of metrics for each."""
    clients = spread(config, shared, run.partition, seed)
    own = made[run.kind, run.proxies]
    blank = jax.eval_shape(own.method.init, None, fresh(shared, seed))
    state = restored(blank, before, config.clients)
    rows, last = [], min(first + config.save_every, config.rounds)
    label = f"{run.name}{run.suffix}, seed {seed}"
    for number in track(range(first, last), label=label, total=last - first, samples=clients.size):
        key = folded(seed, ENCODE_KEY, number)
        step = made[methods.WHOLE.kind, 0] if number >= config.rounds - run.full else own
        began = time.perf_counter()
        state, info = jax.block_until_ready(step.run(key, state, batch(config, clients, seed, number)))
        seconds = (time.perf_counter() - began) / config.clients
        found = {kind: np.asarray(values, np.float64).mean() for kind, values in info._asdict().items()}
        rows.append(found | {"seconds": seconds, "accuracy": accuracy(shared, first_of(state.params))})
    metrics = {kind: np.array([row[kind] for row in rows]) for kind in rows[0]}
    return metrics | saved(jax.device_get(state))


def encoded(config: Config, shared: Setup, seed: int) -> Arrays:
    """1 - cos over the steps of the encoder: trace_<n> (weights, updates, steps + 1)."""
    weights, found = both_weights(config, shared, seed), {}
    updates = [
        update_of(config, shared, seed, params, steps, config.batch) for params in weights for steps in config.updates
    ]
    at = [params for params in weights for _ in config.updates]
    for n in config.proxies:
        trace = encode(config, shared, seed, n, at, updates).trace
        found[f"trace_{n}"] = np.asarray(trace).reshape(len(WEIGHTS), len(config.updates), -1)
    return found


def attacked(config: Config, shared: Setup, seed: int) -> Arrays:
    """Every attack on the updates of client 0: <mse|ssim>/<attack>/<source>/<case> of each image, and pictures."""
    weights, cases = both_weights(config, shared, seed), methods.cases(config)
    pairs = [(params, case) for params in weights for case in cases]
    at = [params for params, _ in pairs]
    updates = [update_of(config, shared, seed, params, case.steps, case.batch) for params, case in pairs]
    sources = {"true": updates}
    proxies = {n: encode(config, shared, seed, n, at, updates).proxy for n in config.proxies}
    for n, found in proxies.items():
        each = trees.unstack(found)
        sources[f"decoded_{n}"] = [tofu.decode(shared.loss, w, one) for w, one in zip(at, each, strict=True)]
    names = [case.name + suffix for suffix in SUFFIX for case in cases]
    made = {f"ig/{source}/{names[i]}": x for source, i, x in inverted(config, shared, seed, at, sources)}
    for source, listed in sources.items():
        told = [methods.analytic(shared, update) for update in listed]
        made |= {f"analytic/{source}/{name}": x for name, x in zip(names, told, strict=True) if x is not None}
    for n, found in proxies.items():
        made |= {f"proxy/decoded_{n}/{name}": np.clip(x, 0, 1) for name, x in zip(names, found.x, strict=True)}
    return judged(config, shared, seed, made)


def inverted(
    config: Config, shared: Setup, seed: int, at: list[PyTree], sources: dict[str, list[PyTree]]
) -> list[tuple[str, int, np.ndarray]]:
    """(source, position, images) of the attack by gradients on each update; all starts are equal."""
    cases, found = methods.cases(config) * len(WEIGHTS), []
    for count in sorted({case.images for case in cases}):
        rows = [(source, i) for source in sources for i, case in enumerate(cases) if case.images == count]
        restarts = config.restarts if count == 1 else max(1, config.restarts // 2)
        run = methods.inverter(shared.loss, shared.shape, config.attack_steps, config.tv, restarts, config.loop)
        labels = shared.label[private(config, shared, seed)[:count]]
        gradients = trees.stack([sources[source][i] for source, i in rows])
        x = run(folded(seed, ATTACK_KEY, count), trees.stack([at[i] for _, i in rows]), gradients, labels)
        found += [(source, i, images) for (source, i), images in zip(rows, np.asarray(x), strict=True)]
    return found


def judged(config: Config, shared: Setup, seed: int, made: Arrays) -> Arrays:
    """Best matches of the private images of each case among what was made of it, and among guesses."""
    rows, arrays = private(config, shared, seed), {}
    middle = config.proxies[len(config.proxies) // 2]
    for case in methods.cases(config):
        x, labels = shared.x[rows[: case.images]], shared.label[rows[: case.images]]
        key = folded(seed, ATTACK_KEY, 0, case.images)
        guesses = {
            f"guess/{case.name}": inversion.guess(shared.test_x, shared.test_label, labels),
            f"guess_random/{case.name}": inversion.guess_random(key, shared.test_x, count=case.images),
        }
        own = {name: images for name, images in made.items() if name.rpartition("/")[2] in own_names(case)}
        matches = {name: (matching.best_match(x, images), images) for name, images in (guesses | own).items()}
        for name, (match, _) in matches.items():
            arrays |= {f"mse/{name}": match.mse, f"ssim/{name}": match.ssim}
        shown = {
            "proxy": f"proxy/decoded_{middle}/{case.name}", "true": f"ig/true/{case.name}",
            "decoded": f"ig/decoded_{middle}/{case.name}", "guess": f"guess/{case.name}",
        }  # fmt: skip
        arrays[f"shown/private/{case.name}"] = x[:SHOWN]
        for kind, name in shown.items():
            match, images = matches[name]
            arrays[f"shown/{kind}/{case.name}"] = np.asarray(images)[np.asarray(match.which[:SHOWN])]
    return arrays


def own_names(case: methods.Case) -> list[str]:
    """Of a case, at each of the weights."""
    return [case.name + suffix for suffix in SUFFIX]


def private(config: Config, shared: Setup, seed: int) -> np.ndarray:
    """Positions of the samples of client 0 of an IID split, in the order in which its steps take them."""
    clients = spread(config, shared, "iid", seed)
    steps = max(config.local_steps, *config.updates, -(-max(config.images) // config.batch))
    return clients[0][fedavg.draw(folded(seed, DRAW_KEY), clients.shape[1], steps=steps, batch=config.batch)].ravel()


def encode(
    config: Config, shared: Setup, seed: int, n: int, weights: list[PyTree], updates: list[PyTree]
) -> tofu.Encoded:
    """Each update at its weights by n proxies, all at once or, for --loop map, one after the other."""
    run = encoder(shared.loss, n, config.encode_steps, config.loop, tuple(methods.encoding(config, shared).items()))
    keys = jax.random.split(folded(seed, ENCODE_KEY, n), len(updates))
    return run(keys, trees.stack(weights), trees.stack(updates))


@functools.lru_cache
def encoder(loss: Callable, n: int, steps: int, loop: str, settings: tuple) -> Callable:
    """(keys, weights, updates) -> Encoded, stacked."""

    def one(key, params, update):
        return tofu.encode(key, loss, params, update, proxies=n, steps=steps, **dict(settings))

    several = jax.vmap(one) if loop == "vmap" else lambda *args: jax.lax.map(lambda each: one(*each), args)
    return jax.jit(several)


def both_weights(config: Config, shared: Setup, seed: int) -> list[PyTree]:
    """Fresh ones, and those after --warm-epochs of plain SGD on all training samples."""
    params = fresh(shared, seed)["params"]
    steps = config.warm_epochs * (len(shared.x) // config.batch)
    rows = fedavg.draw(folded(seed, WARM_KEY), len(shared.x), steps=steps, batch=config.batch)
    update = local(shared.loss)(params, (shared.x[rows], shared.label[rows]), WARM_LR)
    return [params, jax.tree.map(jnp.subtract, params, update)]


def update_of(config: Config, shared: Setup, seed: int, params: PyTree, steps: int, batch: int) -> PyTree:
    """What client 0 would upload after so many local steps on so many samples each."""
    rows = private(config, shared, seed)[: steps * batch].reshape(steps, batch)
    return local(shared.loss)(params, (shared.x[rows], shared.label[rows]), config.lr)


@functools.lru_cache
def local(loss: Callable) -> Callable:
    """(params, batches, lr) -> update, compiled."""
    return jax.jit(lambda params, batches, lr: fedavg.local_update(loss, params, batches, lr=lr)[0])


def fresh(shared: Setup, seed: int) -> PyTree:
    """Initial variables; networks in which samples of a batch interact are refused."""
    variables = shared.init(folded(seed, INIT_KEY), shared.x[:1])
    fedavg.refuse_statistics(variables)
    check_inference(shared.apply, variables, shared.x[:8])
    return variables


def spread(config: Config, shared: Setup, name: str, seed: int) -> np.ndarray:
    """Positions of the training samples of each client."""
    key = folded(seed, PARTITION_KEY)
    return partition.build(key, name, shared.label, agents=config.clients, alpha=config.dirichlet)


def batch(config: Config, clients: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Positions of the samples of a round, (clients, steps, batch)."""
    size = {"steps": config.local_steps, "batch": config.batch}
    return np.stack([
        own[fedavg.draw(folded(seed, DRAW_KEY, number, client), len(own), **size)]
        for client, own in enumerate(clients)
    ])  # fmt: skip


def accuracy(shared: Setup, params: PyTree) -> float:
    """On the test set."""
    right = [
        int(_right(shared.apply)(params, shared.test_x[rows], shared.test_label[rows]))
        for rows in (slice(start, start + 1000) for start in range(0, len(shared.test_x), 1000))
    ]
    return sum(right) / len(shared.test_x)


def saved(state: fedavg.State) -> Arrays:
    """A state by path; of what all clients have, one copy."""
    kept = {"params": first_of(state.params), "memory": state.memory, "round": state.round[0]}
    return {f"state/{path}": leaf for path, leaf in trees.flatten(kept).items()}


def restored(blank: fedavg.State, arrays: Arrays, clients: int) -> fedavg.State:
    """The states of all clients from `saved`."""
    like = {"params": blank.params, "memory": blank.memory, "round": blank.round}
    kept = trees.map_with_path(lambda path, leaf: jnp.asarray(arrays[f"state/{path}"]), like)
    at, params = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (clients, *leaf.shape)), (kept["round"], kept["params"])
    )
    return fedavg.State(at, params, kept["memory"])


def first_of(tree: PyTree) -> PyTree:
    """What the first client holds."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def folded(seed: int, *numbers: int) -> Any:
    """The seed's key with these numbers folded into it."""
    return functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed))


@functools.lru_cache
def _right(apply: Callable) -> Callable:
    return jax.jit(lambda params, x, y: jnp.sum(apply({"params": params, "batch_stats": {}}, x).argmax(1) == y))
