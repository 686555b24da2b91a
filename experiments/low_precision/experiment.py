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
from typing import ClassVar, Literal

from experiments.families import agents
from experiments.harness import runner
from experiments.low_precision import protocol, report
from subspace_jax.data import partition


@dataclasses.dataclass(frozen=True)
class Config(agents.Config):
    """Train one network on data that are spread over agents, in float and in few bits, by the same exchange."""

    loads: ClassVar[bool] = False
    agents: int = 8
    """Number of agents; a multiple of devices x processes."""
    method: Literal["none", "deep_squeeze", "choco", "all"] = "all"
    """Methods that send only the largest entries, to run beside those that send whole models; all: both."""
    bits: int = 8
    """Bits of inputs, weights, cotangents and messages, 1 to 16."""
    stochastic_act: bool = False
    """Round inputs at random while training, as the authors' code does, instead of to the nearest value."""
    skew: tuple[float, ...] = (0.0, 0.8)
    """Shares of the samples that are dealt out sorted by label."""
    norm: str = "none"
    """Norm of the network; where it is evonorm in float, the network in few bits has range_evonorm."""
    init: str = "lecun"
    """Initial weights: lecun, he, he_out."""
    steps: int = 1500
    """Steps of every agent."""
    rounds: int = 50
    """Further steps, after --steps, that exchange without learning."""
    lr: float = 0.02
    """Learning rate."""
    warmup: int = 0
    """Number of first steps at a tenth of --lr."""
    momentum: float = 0.9
    """Nesterov momentum of each agent's own optimiser."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    gamma: float = 0.1
    """Averaging rate of deep_squeeze and choco; 1 where whole models are sent."""
    beside: bool = True
    """Also run: a float network whose messages alone have few bits, and all data in one place."""
    every: int = 50
    """Steps between two evaluations; a divisor of the steps."""
    save_every: int = 40
    """Evaluations between two checkpoints."""


PRESETS = {
    "smoke": Config(seeds=1, agents=4, steps=20, rounds=10, every=10, widths=(16,), method="none",
                    skew=(0.8,), samples=400, beside=False),
    "cpu": Config(),
    "study": Config(
        data="cifar10", samples=10_000, test_samples=2000, model="cnn5", widths=(), norm="evonorm", init="he_out",
        augment=True, steps=400,  # 10 epochs of 1,250 samples an agent
        every=100, save_every=1, warmup=40, decay=True, sparsity=0.99, gamma=0.01, beside=False,
        lr=0.03,  # the better of .01 and .03 by test accuracy in float, 200 steps, seed 10; at .1 8 bits diverge
    ),
    "gpu": Config(
        data="cifar10", model="resnet20", widths=(), norm="evonorm", init="he_out", augment=True, seeds=1,
        steps=11700,  # 60 epochs of 6,250 samples an agent
        every=195, save_every=5, warmup=195, lr=0.1, decay=True, sparsity=0.99, gamma=0.01, beside=False, loop="map",
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all trials and seeds and put the report together."""
    listed = protocol.trials(config)
    shared = protocol.setup(config, listed)
    runs = {trial.name: protocol.course(config, shared, trial) for trial in listed}
    cost = protocol.cost(shared.models[None], shared.data.test[0][:1], config.batch) if config.bits == 8 else {}
    each = [{name: found[k] for name, found in runs.items()} for k in range(config.seeds)]
    own = [protocol.figures_of(config, listed, found) | cost for found in each]
    figures, std = runner.over_seeds(own)
    agents.report.write_agents(config, runs)
    labels, classes = shared.data.columns["label"], shared.data.classes
    held = {
        trial.skew: partition.histogram(labels, agents.spread(shared.data, config.seed, trial), classes=classes)
        for trial in listed if trial.agents > 1
    }  # fmt: skip
    sections = report.sections(config, listed, figures, std, each[0], held)
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, own), sections, agents.report.rows(config, runs)
    )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show; nothing is claimed of others."""
    if config.preset in ("smoke", "study") or not runner.follows(
        config, PRESETS[config.preset], "preset", *agents.FREE
    ):
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
