"""Can agents with other labels each train one classifier without a server? D-PSGD, NGC and their peers on one graph.

    uv run python -m experiments.decentralized --method all              (digits, 10 agents on a ring, 1 class each)
    uv run python -m experiments.decentralized --method ngc --alpha .5 --topology torus --agents 12
    uv run python -m experiments.decentralized --method compngc --agents 8 --runner processes --processes 4
    expected: accuracy of the agents: D-PSGD .79, NGC alpha=0 .90, alpha=1 .94, CompNGC .90; 4 min on 2 cores
    paper:    CIFAR-10: NGC 0-6 % above the best earlier method, alpha=0 1-35 % above those that send no gradients
              (arXiv 2209.14390, abstract)

Accuracy is each agent's own model directly after a step, with no further exchange, mean over the evaluations of the
last quarter of the run. The run leaves agents.csv and agents.npz (accuracy of every agent over steps, bytes and
backward passes) and the consensus network of each method, which every experiment loads: --checkpoint models/<method>.
"""

import dataclasses
from typing import ClassVar, Literal

from experiments.decentralized import methods, protocol, report
from experiments.families import agents
from experiments.harness import launch, runner
from subspace_jax.core import topology
from subspace_jax.data import partition


@dataclasses.dataclass(frozen=True)
class Config(agents.Config):
    """Train one network on data that are spread over agents, by each method; test every agent and their mean."""

    loads: ClassVar[bool] = False
    method: tuple[str, ...] = ("all",)
    """Methods to compare, by their names in subspace_jax.decentralized.methods (a wrong name lists them); all: each of
    them. ngc is NGC at --alpha, ngc_alpha_0.5 at that one."""
    alpha: float = 1.0
    """NGC's share of gradients of the neighbours' data at the own model; --method all runs 0 and 1."""
    partition: Literal["label_sorted", "dirichlet", "shards", "label_pairs", "iid"] = "label_sorted"
    """How the training samples are spread over the agents."""
    skew: float = 1.0
    """For --partition label_sorted: share of the samples that are sorted."""
    dirichlet: float = 0.1
    """For --partition dirichlet: the concentration; the smaller, the more the agents differ."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of parameters and computation; float64 to compare runners."""
    self_grad_at: Literal["sent", "mixed"] = "sent"
    """Where NGC takes an agent's own gradient: at the model it sent, or at the mixed one."""
    settings: tuple[str, ...] = ("qgm.lr=0.05", "choco_sgd.gamma=0.1", "deep_squeeze.gamma=0.1")
    """Flags of a single method that differ from those above: method.flag=value."""
    tuned: tuple[str, ...] = ()
    """Like --settings, as found by --tune: each method runs a second time with them."""
    tune: bool = False
    """Search the learning rate and decay of each method on a fifth of the training samples, with other seeds."""
    beside: bool = True
    """Also run: D-PSGD as long as NGC computes, the other place of the own gradient, shuffled data, all data in one
    place."""


PRESETS = {
    "smoke": Config(
        method=("d_psgd", "ngc_alpha_1", "compngc", "qgm"), seeds=1, agents=8, steps=20, every=10, widths=(16,),
        dtype="float64", beside=False, samples=400,
    ),
    "cpu": Config(
        tuned=(  # by --tune: all settings judged on a fifth of the training samples, seeds 10 to 12
            "d_psgd.lr=0.2", "d_psgd.decay=1", "ngc_alpha_0.lr=0.4", "ngc_alpha_0.decay=1", "ngc_alpha_1.lr=0.2",
            "ngc_alpha_1.decay=1", "compngc.lr=0.2", "compngc.decay=1", "qgm.lr=0.05", "qgm.decay=1",
            "choco_sgd.lr=0.4", "choco_sgd.decay=1", "deep_squeeze.lr=0.4", "deep_squeeze.decay=1", "cga.lr=0.4",
            "cga.decay=1", "compcga.lr=0.4", "compcga.decay=1",
        ),
    ),
    "study": Config(
        method=("d_psgd", "qgm", "ngc_alpha_0", "ngc_alpha_1", "compngc"), data="cifar10", samples=10_000,
        test_samples=2000, agents=8, model="cnn5", widths=(), norm="evonorm", augment=True,
        steps=600,  # 15 epochs of 1,250 samples an agent
        every=100, save_every=1, lr=0.01, decay=True, momentum=0.9, gamma=0.1,
        settings=("d_psgd.lr=0.1", "d_psgd.momentum=0", "d_psgd.gamma=1", "qgm.gamma=1"), beside=False,
    ),
    "gpu": Config(
        method=("d_psgd", "ngc_alpha_0", "ngc_alpha_1"),
        data="cifar10",
        model="resnet20",
        widths=(),
        norm="evonorm",
        augment=True,
        seeds=1,
        steps=6240,  # 40 epochs of 5,000 samples an agent
        every=156,
        lr=0.01,
        decay=True,
        momentum=0.9,
        gamma=0.1,
        settings=("d_psgd.lr=0.1", "d_psgd.momentum=0", "d_psgd.gamma=1", "qgm.gamma=1", "choco_sgd.gamma=0.01",
                  "deep_squeeze.gamma=0.01"),
        sparsity=0.99,
        beside=False,
        loop="map",
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all trials and seeds and put the report together."""
    shared = protocol.setup(config)
    if config.tune:
        config = dataclasses.replace(config, tuned=protocol.tune(config, shared, names(config)))
    listed = trials(config, names(config))
    runs = {trial.name: protocol.course(config, shared, trial) for trial in listed}
    each = [
        agents.report.figures(listed, {name: found[k] for name, found in runs.items()}) for k in range(config.seeds)
    ]
    figures, std = runner.over_seeds(each)
    if config.dtype == "float64" and (launch.several(config) or config.runner != "vmap"):
        figures["max_difference/vmap"] = protocol.difference(config, shared, listed, runs)
        std["max_difference/vmap"] = 0.0
    agents.report.write_agents(config, runs)
    parts = agents.spread(shared.data, config.seed, listed[0])
    sections = report.sections(
        config, listed, figures, std, {name: found[0] for name, found in runs.items()},
        partition.histogram(shared.data.columns["label"], parts, classes=shared.data.classes),
        agents.graph(config, config.agents),
    )  # fmt: skip
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), sections, agents.report.rows(config, runs)
    )


def names(config: Config) -> tuple[str, ...]:
    """The methods to run, as the figures name them."""
    listed = []
    for name in config.method:
        listed += methods.METHODS if name == "all" else [f"ngc_alpha_{config.alpha:g}" if name == "ngc" else name]
    for name in listed:
        methods.check(name)
    return tuple(dict.fromkeys(listed))


def trials(config: Config, compared: tuple[str, ...]) -> list[agents.Trial]:
    """The methods by the flags; then tuned; then what puts them into proportion."""

    def trial(name, method, extra=(), steps=config.steps, partition=config.partition, count=config.agents):
        own = methods.settings(config, method, extra)
        return agents.Trial(name, method, own, steps, partition, count, config.skew, config.dirichlet)

    listed = [trial(name, name) for name in compared]
    tuned = {line.split(".")[0] for line in config.tuned}
    listed += [trial(f"{name}_tuned", name, config.tuned) for name in compared if name in tuned]
    if not config.beside:
        return listed
    other = {"sent": "mixed", "mixed": "sent"}[config.self_grad_at]
    moved = [name for name in compared if "ngc" in name]
    listed += [trial(f"{name}_{other}", name, (f"{name}.self_grad_at={other}",)) for name in moved]
    passes = 1 + round(float(topology.build(config.topology, config.agents).sum(0).mean()))
    slow = methods.settings(config, "choco_sgd")["gamma"]
    if {"choco_sgd", "deep_squeeze"} & set(compared):  # what of their loss is the averaging rate, and not the bits
        listed.append(trial(f"d_psgd_gamma_{slow:g}", "d_psgd", (f"d_psgd.gamma={slow}",)))
    listed.append(trial("d_psgd_equal_compute", "d_psgd", steps=passes * config.steps))
    listed.append(trial("d_psgd_iid", "d_psgd", partition="iid"))
    listed.append(trial("centralized", "d_psgd", partition="iid", count=1))
    return listed


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show; nothing is claimed of others."""
    follows = runner.follows(config, PRESETS[config.preset], "preset", "tune", "tuned", *agents.FREE)
    if config.preset in ("smoke", "study") or not follows:
        return []
    own = {name: figures[f"accuracy_mean/{name}"] for name in names(config)}
    gains = own["ngc_alpha_0"] - own["d_psgd"], own["ngc_alpha_1"] - own["ngc_alpha_0"]
    if config.preset == "gpu":
        return [
            runner.Claim("ngc_alpha_0 above d_psgd", gains[0], 0.0),
            runner.Claim("ngc_alpha_1 above ngc_alpha_0", gains[1], 0.0),
            runner.Claim("ngc_alpha_1 above d_psgd by 5 points", sum(gains), 0.05),
        ]
    ratio = 32 * figures["bytes_cross_per_step/compngc"] / figures["bytes_cross_per_step/ngc_alpha_1"]
    return [
        runner.Claim("ngc_alpha_0 above d_psgd by 4 points", gains[0], 0.04),
        runner.Claim("ngc_alpha_1 at least ngc_alpha_0 - .01", gains[1], -0.01),
        runner.Claim("compngc at least ngc_alpha_1 - .04", own["compngc"] - own["ngc_alpha_1"], -0.04),
        runner.Claim("bytes_cross of compngc 1/32 of ngc's, within 5 %", -abs(ratio - 1), -0.05),
    ]
