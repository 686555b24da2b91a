"""Do agents with other labels learn more from what their neighbours make of common images? IDKD and its controls.

    uv run python -m experiments.distill_decentralized                    (digits, 10 agents on a ring, 1 class each)
    uv run python -m experiments.distill_decentralized --base qgm --partition dirichlet --agents 8 --threshold .98
    uv run python -m experiments.distill_decentralized --data cifar10 --public cifar100 --public-noise 0 --data-dir DIR
    expected: accuracy of the agents: D-PSGD .88, all images labelled .87, IDKD .90; QGM .94 with and without labels;
              the agents keep .17 of the related images and .06 of the noise; 1 min on 2 cores
    paper:    CIFAR-10, 16 agents: 2-13 % above distillation from all images, about 2 % more traffic
              (arXiv 2304.04326, abstracts)

Every method trains --homogenize-at of the steps alone. Then agents label public images, exchange these labels, and go
on with private and labelled images: _kd labels all images, _idkd those that an agent's detector takes for its own kind,
_good_only those that are no noise (which nobody knows outside of an experiment); the method alone goes on as before, by
as many steps. Accuracy is each agent's own model directly after the last step, accuracy_gossiped one exchange later.
The run leaves agents.csv and agents.npz: accuracy of every agent over the steps.
"""

import dataclasses
from typing import ClassVar, Literal

from experiments.distill_decentralized import methods, protocol, report
from experiments.families import agents
from experiments.harness import runner
from subspace_jax.decentralized.soft_labels import Rule


@dataclasses.dataclass(frozen=True)
class Config(agents.Config):
    """Train one network on data that are spread over agents, and on public images that the agents label."""

    loads: ClassVar[bool] = False
    seeds: int = 5
    """Number of seeds: figures are means over them."""
    base: tuple[Literal["d_psgd", "qgm"], ...] = ("d_psgd", "qgm")
    """Methods that train, without labels and with them."""
    partition: Literal["sorted", "dirichlet"] = "sorted"
    """How the private samples are spread over the agents: sorted by label, or by shares of each class."""
    dirichlet: float = 0.1
    """For --partition dirichlet: the concentration; the smaller, the more the agents differ."""
    widths: tuple[int, ...] = (64, 64)
    """Hidden layers of an mlp."""
    threshold: str = "youden"
    """From which probability of its largest class on an agent labels an image: youden or tpr95, measured on its
    held-out samples, or a number in [0, 1]."""
    calibration: Literal["noise", "public"] = "noise"
    """Images that youden tells the held-out samples from: uniform noise, or a tenth of the public ones."""
    merge: Rule = "mean"
    """Which of several labels of an image counts: the mean; that of the agent that owns most samples of its class; or
    the one that came the shortest way, own before neighbours'."""
    public: str = ""
    """Data set whose training images are public, such as cifar100; see --public-from when not given."""
    public_from: str = "ID"
    """ID: half of the training samples, each moved by up to a pixel, are public and belong to no agent; or the PATH of
    an npz file with image, or x for rows of numbers."""
    public_noise: float = 0.5
    """Share of uniform noise among the public images, in [0, 1)."""
    homogenize_at: float = 0.8
    """Share of the steps after which the images are labelled, in (0, 1)."""
    relabel_every: int = 0
    """Steps after which the labels are sent one edge further, again and again; 0: never."""
    held_out: float = 0.1
    """Share of an agent's samples that it does not train on, for its threshold."""
    lr_qgm: float = 0.05
    """Learning rate of qgm; --lr is that of d_psgd."""
    decay: bool = False
    """Multiply the learning rate by .1 halfway between the labelling and the end."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of parameters and computation; float64 to compare runners."""
    beside: bool = True
    """Also run: 8 agents with a Dirichlet partition of concentration .05."""
    every: int = 120
    """Steps between two evaluations."""


PRESETS = {
    "smoke": Config(
        base=("d_psgd",), seeds=1, agents=8, steps=20, every=10, homogenize_at=0.5, widths=(16,), dtype="float64",
        beside=False, samples=400,
    ),
    "cpu": Config(),
    "study": Config(
        base=("qgm",), data="cifar10", samples=10_000, test_samples=2000, public="cifar100", public_noise=0.0,
        model="cnn5", widths=(), norm="evonorm", augment=True, agents=8, partition="dirichlet",
        steps=1000,  # 28 epochs an agent
        every=200, save_every=1, lr_qgm=0.1, decay=True, beside=False,
    ),
    "gpu": Config(
        base=("qgm",),
        data="cifar10",
        public="cifar100",
        public_noise=0.0,
        model="resnet20",
        widths=(),
        norm="evonorm",
        augment=True,
        agents=16,
        partition="dirichlet",
        seeds=3,
        steps=7040,  # 80 epochs of 2,813 samples an agent
        every=1408,
        save_every=1,
        lr_qgm=0.1,
        decay=True,
        beside=False,
        loop="map",
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all methods, variants and seeds and put the report together."""
    public = protocol.public_images(config)
    shared = protocol.setup(config, public)
    listed = methods.runs(config)
    runs = {}
    for world in methods.worlds(config):
        runs |= protocol.course(config, shared, world, [one for one in listed if one.world == world])
    each = [{name: found[k] for name, found in runs.items()} for k in range(config.seeds)]
    own = [report.figures(config, listed, found) for found in each]
    figures, std = runner.over_seeds(own)
    agents.report.write_agents(config, runs)
    first = protocol.split(config, shared, methods.worlds(config)[0], config.seed)
    sections = report.sections(config, listed, figures, std, each[0], first.public)
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, own), sections, agents.report.rows(config, runs)
    )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show; nothing is claimed of others."""
    if config.preset in ("smoke", "study") or not runner.follows(
        config, PRESETS[config.preset], "preset", *agents.FREE
    ):
        return []
    if config.preset == "gpu":
        return [
            runner.Claim("qgm_idkd above qgm by 1.5 points", figures["gain/qgm_idkd"], 0.015),
            runner.Claim("labels at most 3 % of the bytes of models", -figures["bytes_share/qgm_idkd"], -0.03),
        ]
    return [
        runner.Claim("d_psgd_idkd above d_psgd by 1 point", figures["gain/d_psgd_idkd"], 0.01),
        runner.Claim("d_psgd_idkd above d_psgd_kd by half a point", figures["gain_over_kd/d_psgd_idkd"], 0.005),
        runner.Claim("at most .2 of the noise is kept", -figures["kept/noise"], -0.2),
    ]
