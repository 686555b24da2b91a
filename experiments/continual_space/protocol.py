"""One seed of continual_space: a sequence learned by each method, and the network of each task cut out."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import task_sequence
from experiments.harness import flags, runner
from subspace_jax import nn, training
from subspace_jax.continual import extract, protocol, space, tasks
from subspace_jax.core import capture, costs
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.continual_space.experiment import Config

Arrays = dict[str, np.ndarray]


class Setup(NamedTuple):
    """What all seeds share; `learners` by name, one object and so one compilation."""

    source: task_sequence.Source
    network: dict[str, Any]
    learners: dict[str, protocol.Learner]
    again: protocol.Learner


def setup(config: Config) -> Setup:
    """Load the data and build the learners."""
    found = task_sequence.source(config)
    sizes = {"widths": list(config.widths)} if config.model == "mlp" else {}
    kwargs = {"norm": config.norm, "init": "he"} | sizes | flags.network_arguments(config)
    network = {"name": config.model, "kwargs": kwargs}
    extract.check_network(network)
    tx, trunk = optax.sgd(config.lr, momentum=config.momentum), nn.build(config.model, classes=0, **network["kwargs"])
    x = found.whole.x[:1]

    def learner(v: float, count: int) -> tuple[nn.Model, protocol.Learner]:
        model = nn.multi_head(trunk, tasks=count, classes=found.classes)
        table = capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)
        return model, space.space_learner(
            model, tx, table, tasks=count, v=v, samples=config.pca_samples, steps=config.retrain, batch=config.batch
        )

    model, own = learner(config.v, config.tasks)
    others = {f"space {v}": learner(v, config.tasks)[1] for v in config.sweep}
    learners = {"finetune": protocol.learner(model, tx, told=True), "space": own} | others
    return Setup(found, network, learners, learner(config.v, 2)[1])


def one_run(config: Config, shared: Setup, name: str, seed: int) -> Arrays:
    """What one method leaves of one seed."""
    return runner.stage(
        config, f"seed{seed}_{name.replace(' ', '_')}", functools.partial(learn, config, shared, name, seed)
    )


def learn(config: Config, shared: Setup, name: str, seed: int) -> dict[str, Any]:
    """Learn the sequence by one method: one network a task ("single"), or its first task twice ("again")."""
    own, key = task_sequence.sequence(config, shared.source, seed), jax.random.fold_in(jax.random.key(seed), 1)
    length = config.steps + (0 if name.startswith(("space", "again")) else config.retrain)
    run = functools.partial(protocol.run, key, classes=shared.source.classes, batch=config.batch, length=length)
    started = time.perf_counter()
    if name == "single":
        alone = [run(shared.learners["finetune"], [task], label=f"task {t}, alone") for t, task in enumerate(own)]
        accuracy = np.array([[found.matrix[1, 0] for found in alone]])
        params = alone[0].state.variables["params"]
        trunk = sum(leaf.size for name in params if name != "heads" for leaf in jax.tree.leaves(params[name]))
        floats = np.array([(len(own) - 1) * trunk])  # the heads of all tasks are in any network
        return {"matrix": accuracy, "held/floats": floats, "seconds": time.perf_counter() - started}
    if name == "again":
        twice = run(shared.again, [own[0], own[0]], label="the first task twice")
        return {"added": np.array([widths[1] - widths[0] for widths in widths_of(twice.state).values()])}
    found = run(
        shared.learners[name], own, directory=f"{config.workdir}/checkpoints/{name}/seed{seed}",
        config={"method": name, "seed": seed, "model": shared.network}, label=f"{name}, seed {seed}, task",
    )  # fmt: skip
    arrays = {"matrix": found.matrix, "seconds": time.perf_counter() - started}
    arrays |= {f"held/{kind}": values for kind, values in found.held.items()}
    return arrays | (sliced(shared, name, own, found.state) if name.startswith("space") else {})


def widths_of(state: protocol.State) -> dict[str, np.ndarray]:
    """Channels by layer and task."""
    return {path: np.asarray(widths) for path, widths in state.kept.widths.items()}


def sliced(shared: Setup, name: str, own: list[tasks.Task], state: protocol.State) -> dict[str, Any]:
    """Widths; cost and test accuracy of the slices, and how far their logits are from the masked ones."""
    widths, x = widths_of(state), own[0].x[:1]
    full = {path: state.kept.initial[path].shape[-1] for path in widths}
    everything = {path: np.full(len(own), width) for path, width in full.items()}
    costs, gaps, sizes, right = [], [], [], []
    costs.append(cost(*extract.extract_task(shared.network, state.variables, everything, 0, x), x))
    for t, task in enumerate(own):
        small, variables = extract.extract_task(shared.network, state.variables, widths, t, x)
        logits = training.predict(small.apply, variables, task.test_x)
        masked = shared.learners[name].predict(state, task.test_x, t)
        costs.append(cost(small, variables, x))
        gaps.append(float(np.abs(logits - masked).max()))
        sizes.append(float(np.abs(masked).max()))
        right.append(float(np.mean(logits.argmax(-1) == task.test_y)))
    spent = {"parameters": [p for p, _ in costs], "macs": [m for _, m in costs]}
    same = {"gap": max(gaps), "largest": max(sizes), "sliced": right}
    whole = {f"full/{path}": width for path, width in full.items()}
    return {f"width/{path}": values for path, values in widths.items()} | whole | spent | same


def cost(model: nn.Model, variables: Variables, x: np.ndarray) -> tuple[int, int]:
    """Parameters, and multiplications in the layers for one sample."""
    return costs.parameters(variables), costs.macs(capture.layers(model.apply, variables, x))
