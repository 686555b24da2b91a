"""How narrow can a network be for each task, if no task may ever lose anything to a later one?

    uv run python -m experiments.continual_space                     (digits, 5 permutations of the pixels, 3 seeds)
    uv run python -m experiments.continual_space --v .99 --benchmark split --data mnist --data-dir DIR
    expected: backward transfer exactly 0 on a fifth of the network; accuracy .88, plain training .82, one network a
              task .97 (all are told the task); 1 min on 2 cores
    paper:    comparable accuracy to the state of the art, no forgetting, up to 5x less energy (arXiv 2001.08650)

SPACE trains a task, counts the channels it needs by principal components, keeps the first ones, trains the narrow
network again and freezes it. Each task then runs on its own slice: fewer parameters and multiplications, same logits.
The run leaves widths.csv (channels by seed, layer and task) and matrix.csv (accuracy after each task).
"""

import dataclasses
import functools
import math
import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import task_sequence
from experiments.harness import plots, report, runner
from subspace_jax import data, nn, training
from subspace_jax.continual import extract, protocol, space, tasks
from subspace_jax.core import capture

Arrays = dict[str, np.ndarray]
BOUNDED = "bwt/space", "slice/gap", "added_by_the_same_task"  # figures of which no seed may exceed a bound


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Learn a sequence of tasks with SPACE, with one network a task, and without any protection."""

    benchmark: Literal["permuted", "split"] = "permuted"
    """Pixels in another order, or other classes, in every task; each has its own head."""
    tasks: int = 5
    """Tasks in the sequence."""
    samples: int | None = None
    """Use the first so many training samples; all when not given."""
    model: str = "mlp"
    """Network: mlp, lenet5, vgg11, resnet18, ...: those that can be sliced."""
    widths: tuple[int, ...] = (100, 100)
    """Hidden layers of an mlp."""
    norm: Literal["none", "minibatch"] = "none"
    """None, or the statistics of the batch at hand, in test as well."""
    lr: float = 0.05
    """Learning rate of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch: int = 32
    """Samples per step."""
    steps: int = 400
    """Training steps a task with all channels."""
    retrain: int = 400
    """Training steps a task in its narrow network; plain training gets the steps of both."""
    v: float = 0.95
    """Share of the variance of a layer's outputs that the channels of a task explain."""
    sweep: tuple[float, ...] = (0.8, 0.99)
    """Other shares, with which the sequence is learned again."""
    pca_samples: int = 1000
    """Samples of a task on which that variance is measured."""


PRESETS = {
    "smoke": Config(seeds=1, tasks=2, steps=40, retrain=40, samples=300, widths=(16,), sweep=(0.8,)),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", benchmark="split", model="resnet18", norm="minibatch", lr=0.01, batch=64, steps=1000,
        retrain=1000, sweep=(),
    ),
}  # fmt: skip


class Setup(NamedTuple):
    """What all seeds share; `learners` by name, one object and so one compilation."""

    whole: tasks.Task
    classes: int
    network: dict[str, Any]
    learners: dict[str, protocol.Learner]
    again: protocol.Learner


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    shared = setup(config)
    runs = {
        seed: {name: one_run(config, shared, name, seed) for name in [*shared.learners, "single", "again"]}
        for seed in range(config.seed, config.seed + config.seeds)
    }
    each = [measured(run) for run in runs.values()]
    figures, std = runner.over_seeds(each)
    worst = {name: max(abs(seed[name]) for seed in each) for name in BOUNDED}
    task_sequence.report.write_matrices(config, {seed: with_matrix(run) for seed, run in runs.items()})
    rows = write_widths(config, runs)
    first = runs[config.seed]
    return runner.Summary(figures, std, claims(config, figures, worst), sections(config, figures, std, first), rows)


def setup(config: Config) -> Setup:
    """Load the data and build the learners."""
    train, test = (data.load(config.data, split, config.data_dir or None) for split in ("train", "test"))
    train = {name: column[: config.samples] for name, column in train.items()}
    scaling = data.scaling(config.data, train["image"])
    x, test_x = (np.asarray(data.scale(part["image"], scaling)) for part in (train, test))
    whole = tasks.Task(x, train["label"], test_x, test["label"])
    classes = int(max(whole.y.max(), whole.test_y.max())) + 1
    if config.tasks < 1 or (config.benchmark == "split" and classes % config.tasks):
        raise ValueError(f"--tasks is at least 1, and with split a divisor of {classes} classes; got {config.tasks}.")
    classes = classes // config.tasks if config.benchmark == "split" else classes
    sizes = {"widths": list(config.widths)} if config.model == "mlp" else {}
    network = {"name": config.model, "kwargs": {"norm": config.norm, "init": "he"} | sizes}
    extract.check_network(network)
    tx, trunk = optax.sgd(config.lr, momentum=config.momentum), nn.build(config.model, classes=0, **network["kwargs"])

    def learner(v: float, count: int) -> tuple[nn.Model, protocol.Learner]:
        model = nn.multi_head(trunk, tasks=count, classes=classes)
        table = capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x[:1]), x[:1])
        return model, space.space(
            model, tx, table, tasks=count, v=v, samples=config.pca_samples, steps=config.retrain, batch=config.batch
        )

    model, own = learner(config.v, config.tasks)
    others = {f"space {v}": learner(v, config.tasks)[1] for v in config.sweep}
    learners = {"finetune": protocol.learner(model, tx, told=True), "space": own} | others
    return Setup(whole, classes, network, learners, learner(config.v, 2)[1])


def sequence(config: Config, shared: Setup, seed: int) -> list[tasks.Task]:
    """The tasks of one seed: its permutations, or its order of classes."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    if config.benchmark == "permuted":
        return tasks.permuted(key, shared.whole, tasks=config.tasks)
    order = np.asarray(jax.random.permutation(key, config.tasks * shared.classes))
    return tasks.split(shared.whole, groups=order.reshape(config.tasks, -1).tolist())


def one_run(config: Config, shared: Setup, name: str, seed: int) -> Arrays:
    """What one method leaves of one seed."""
    return runner.stage(
        config, f"seed{seed}_{name.replace(' ', '_')}", functools.partial(learn, config, shared, name, seed)
    )


def learn(config: Config, shared: Setup, name: str, seed: int) -> dict[str, Any]:
    """Learn the sequence by one method: one network a task ("single"), or its first task twice ("again")."""
    own, key = sequence(config, shared, seed), jax.random.fold_in(jax.random.key(seed), 1)
    length = config.steps + (0 if name.startswith(("space", "again")) else config.retrain)
    run = functools.partial(protocol.run, key, classes=shared.classes, batch=config.batch, length=length)
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


def cost(model: nn.Model, variables: Any, x: np.ndarray) -> tuple[int, int]:
    """Parameters, and multiplications in the layers for one sample."""
    table = capture.layers(model.apply, variables, x)
    macs = sum(layer.rows * layer.d_in * layer.d_out * math.prod(layer.lead) for layer in table.values())
    return sum(leaf.size for leaf in jax.tree.leaves(variables)), macs


def measured(run: dict[str, Arrays]) -> dict[str, float]:
    """All figures of one seed; "share" is of the network with all channels and one head."""
    learned, own = with_matrix(run), run["space"]
    listed = task_sequence.report.figures(learned, dict.fromkeys(learned, 1.0))
    for kind in ("parameters", "macs"):
        share = own[kind][1:] / own[kind][0]
        listed |= {f"{kind}/share_of_task_{t + 1}": float(value) for t, value in enumerate(share)}
    for name, arrays in run.items():
        if widths := own_widths(arrays):
            listed[f"channels/{name}"] = float(sum(layer[-1] for layer in widths.values()))
    full = full_widths(own)
    listed["narrow_layers"] = float(np.mean([layer[0] < full[path] for path, layer in own_widths(own).items()]))
    listed["added_by_the_same_task"] = float(run["again"]["added"].max())
    gap = {"slice/gap": float(own["gap"]), "slice/largest_logit": float(own["largest"])}
    return listed | gap | {"slice/acc": float(own["sliced"].mean())}


def with_matrix(run: dict[str, Arrays]) -> dict[str, Arrays]:
    """The methods that were tested on all tasks."""
    return {name: arrays for name, arrays in run.items() if "matrix" in arrays}


def own_widths(arrays: Arrays) -> Arrays:
    """Channels by layer and task."""
    return {key.removeprefix("width/"): values for key, values in arrays.items() if key.startswith("width/")}


def full_widths(arrays: Arrays) -> dict[str, int]:
    """All channels of each layer."""
    return {key.removeprefix("full/"): int(value) for key, value in arrays.items() if key.startswith("full/")}


def write_widths(config: Config, runs: dict[int, dict[str, Arrays]]) -> list[dict[str, Any]]:
    """widths.csv and widths.npz, and the same rows."""
    rows = [
        {"seed": seed, "method": name, "layer": path, "task": t, "channels": int(width)}
        for seed, run in runs.items()
        for name, arrays in run.items()
        for path, values in own_widths(arrays).items()
        for t, width in enumerate(values)
    ]
    runner.write_table(config, "widths", {key: np.array([row[key] for row in rows]) for key in rows[0]})
    return rows


def sections(config: Config, means: dict[str, float], std: dict[str, float], first: dict[str, Arrays]) -> list:
    """Methods, widths, cost of the slices, accuracy over the sequence."""
    whole = {name: arrays for name, arrays in with_matrix(first).items() if len(arrays["matrix"]) > 1}
    text = (
        "Means over the seeds; floats kept are those beside one network, of SPACE the initial parameters, with which "
        "freed channels start anew. Single is one network a task, the ceiling."
    )
    return [
        task_sequence.report.scoreboard(means, std)._replace(text=text),
        costs(config, means, first["space"]),
        task_sequence.report.over_time(config, whole),
        task_sequence.report.matrices(config, whole),
    ]


def costs(config: Config, means: dict[str, float], own: Arrays) -> report.Section:
    """Channels by layer and task, and what a slice costs."""
    along, full = np.arange(1, config.tasks + 1), full_widths(own)
    lines = {path: (along, values / full[path]) for path, values in own_widths(own).items()}
    figure = plots.curves(config.workdir, "widths", lines, x="task", y="share of the channels of the layer")
    rows = [
        (t, *(int(values[t - 1]) for values in own_widths(own).values()), f"{int(own['parameters'][t]):,}",
         f"{means[f'parameters/share_of_task_{t}']:.3f}", f"{int(own['macs'][t]):,}",
         f"{means[f'macs/share_of_task_{t}']:.3f}", f"{own['sliced'][t - 1]:.3f}")
        for t in along
    ]  # fmt: skip
    head = ("task", *own_widths(own), "parameters", "share", "multiplications", "share", "accuracy")
    last = ("all channels", *full.values(), f"{int(own['parameters'][0]):,}", "1", f"{int(own['macs'][0]):,}", "1", "")
    text = "First seed; shares are means over the seeds. Each row is a network of its own, with one head."
    return report.Section("The network of each task", text, (figure,), (head, *rows, last))


def claims(config: Config, figures: dict[str, float], worst: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the digits must show; of others only that nothing is lost. Bounds are for the worst seed."""
    never = [
        runner.Claim("backward transfer is exactly 0, every seed", -worst["bwt/space"], 0.0),
        runner.Claim("a slice gives the logits of its mask to 1e-5, every seed", -worst["slice/gap"], -1e-5),
    ]
    fixed = dataclasses.replace(PRESETS["cpu"], workdir=config.workdir, resume=config.resume, seed=config.seed)
    if config != fixed:
        return never
    low, high = (figures[f"channels/space {v}"] for v in config.sweep)
    return [
        *never,
        runner.Claim("accuracy above plain training by .1", figures["acc/space"] - figures["acc/finetune"], 0.1),
        runner.Claim("layers narrower after the first task, share", figures["narrow_layers"], 0.5),
        runner.Claim(f"more channels at {config.v} than at {config.sweep[0]}", figures["channels/space"] - low, 1.0),
        runner.Claim(f"more channels at {config.sweep[1]} than at {config.v}", high - figures["channels/space"], 1.0),
        runner.Claim("a task learned twice adds at most 2 channels a layer", -worst["added_by_the_same_task"], -2.0),
    ]
