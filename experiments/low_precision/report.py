"""What few bits reach, send and would cost: the tables and pictures of low_precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import agents
from experiments.harness import plots, report
from experiments.low_precision import protocol
from subspace_jax.decentralized import codes

if TYPE_CHECKING:
    from experiments.low_precision.experiment import Config

Arrays = dict[str, np.ndarray]


DRAWN = 256  # codes side by side in a picture


def sections(
    config: Config,
    listed: list[agents.Trial],
    means: dict[str, float],
    std: dict[str, float],
    first: dict[str, Arrays],
    held: dict[float, np.ndarray],
) -> list[report.Section]:
    """What it reaches, what travels, what it would cost; then the pictures of the first seed."""
    few = f"int{config.bits}"
    return [
        scoreboard(listed, means, std),
        report.Section("Where few bits beat float", words(config, listed, means, std)),
        travels(config, listed, means),
        *([energy(means)] if config.bits == 8 else []),
        *[over_the_run(config, listed, first, skew) for skew in config.skew],
        *[grids(config, first[f"{few}_skew_{skew:g}"], skew) for skew in config.skew],
        by_agent(config, listed, first, held),
    ]


def scoreboard(listed: list[agents.Trial], means: dict[str, float], std: dict[str, float]) -> report.Section:
    """Every trial with what it reaches."""
    kinds = (
        "accuracy_consensus", "accuracy_mean", "accuracy_worst", "accuracy_mean_rounds", "accuracy_consensus_rounds",
    )  # fmt: skip
    table = [
        (trial.name, *(f"{means[k]:.3f}\u00a0±\u00a0{std[k]:.3f}" for k in (f"{kind}/{trial.name}" for kind in kinds)),
         f"{means[f'seconds/{trial.name}']:.1f}")
        for trial in listed
    ]  # fmt: skip
    head = (
        "network and messages", "mean of all models", "own models", "worst agent", "own models after the rounds",
        "mean of all after them", "seconds",
    )  # fmt: skip
    text = (
        "Test accuracy, mean and deviation over the seeds; the first three are means over the evaluations of the last "
        "quarter of the steps. float and int: the network and its messages; deep_squeeze and choco send the largest "
        "entries only; messages: a float network that sends codes; centralized: all data in one place, as many samples "
        "a step as all agents together. Seconds are measured: few bits are simulated in float32 and cost time here."
    )
    return report.Section("In few bits and in float", text, table=(head, *table))


def words(config: Config, listed: list[agents.Trial], means: dict[str, float], std: dict[str, float]) -> str:
    """The gain of few bits over float, by what is sent and by the skew, and which of them are more than chance."""
    kinds = {
        "mean of all models": "accuracy_consensus", "own models": "accuracy_mean", "worst agent": "accuracy_worst",
        "own models after the rounds": "accuracy_mean_rounds",
    }  # fmt: skip
    few, said, ahead = f"int{config.bits}", [], []
    for name in (trial.name for trial in listed if trial.name.startswith(few)):
        other = "float" + name.removeprefix(few)
        gains = {title: means[f"{kind}/{name}"] - means[f"{kind}/{other}"] for title, kind in kinds.items()}
        said.append(f"{name} against {other}: " + ", ".join(f"{t} {gain:+.3f}" for t, gain in gains.items()) + ".")
        spans = {title: max(std[f"{kind}/{name}"], std[f"{kind}/{other}"]) for title, kind in kinds.items()}
        ahead += [f"{name} ({title})" for title, gain in gains.items() if gain > spans[title]]
    start = f"{config.bits} bits are ahead of float by more than the deviation over the seeds in: "
    return start + (", ".join(ahead) or "nothing") + ". " + " ".join(said)


def travels(config: Config, listed: list[agents.Trial], means: dict[str, float]) -> report.Section:
    """Bytes of a step by what is sent."""
    methods = dict.fromkeys(trial.method for trial in listed)
    at = f"_skew_{config.skew[0]:g}"
    table = [
        (method, f"{means[f'bytes_model_per_step/{method}{at}']:,.0f}",
         f"{means.get(f'bytes_ratio/{method}', 1.0):.3f}")
        for method in methods
    ]  # fmt: skip
    text = (
        "Bytes of the arrays that an agent sends to all neighbours in a step: floats of 4 bytes; packed codes of "
        f"{config.bits} bits and two floats a tensor; of the largest {1 - config.sparsity:.0%} of the entries a place "
        "of 4 bytes, and 4 bytes of value or a code. Ranges of activations travel with the model."
    )
    return report.Section("What travels", text, table=(("message", "bytes a step", "float sends times"), *table))


def energy(means: dict[str, float]) -> report.Section:
    """The model of `cost`, beside what was measured."""
    table = [
        (name, f"{means['macs_per_step']:,.0f}", f"{means[f'microjoule_per_step/{name}']:,.2f}",
         f"{means.get(f'energy_ratio/{name}', 1.0):.2f}")
        for name in ("float", "int8", "int8_all_products")
    ]  # fmt: skip
    text = (
        "A model of one agent's step, no measurement: multiply-accumulates at 4.6 pJ in float32 and .23 pJ in 8-bit "
        "integers (Horowitz, ISSCC 2014), without memory. int8 as trained here: the gradient of the weights takes the "
        "cotangent in float; all_products: in 8 bits too, the twentyfold saving that is published."
    )
    head = "products", "MACs a step", "microjoule a step", "float takes times"
    return report.Section("Energy by a model", text, table=(head, *table))


def over_the_run(config: Config, listed: list[agents.Trial], first: dict[str, Arrays], skew: float) -> report.Section:
    """Accuracy over steps and over bytes at one skew."""
    shown = {t.method: first[t.name] for t in listed if t.skew == skew and t.agents > 1}
    consensus = {name: 1 - a["consensus"] for name, a in shown.items()}
    own = {name: 1 - a["accuracy"].mean(1) for name, a in shown.items()}
    along = {name: a["step"] for name, a in shown.items()}
    sent = {name: a["bytes_model"] / 1e6 for name, a in shown.items()}

    def draw(name, across, down, **labels):
        lines = {method: (across[method], down[method]) for method in shown}
        return plots.curves(config.workdir, f"{name}_skew_{skew:g}", lines, log_y=True, **labels)

    pictures = (
        draw("consensus", along, consensus, x="steps", y="1 - accuracy of the mean of all models"),
        draw("own", along, own, x="steps", y="1 - accuracy of own models"),
        draw("bytes", sent, consensus, x="megabytes sent by an agent", y="1 - accuracy of the mean of all models",
             log_x=True),
    )  # fmt: skip
    text = f"First seed. The last {config.rounds} steps exchange without learning."
    return report.Section(f"Over the run, skew {skew:g}", text, pictures)


def grids(config: Config, arrays: Arrays, skew: float) -> report.Section:
    """Use of the codes by layer, of activations and of cotangents."""
    pictures, table = [], []
    for kind in codes.KINDS:
        shares = {name.split("/", 2)[2]: a for name, a in arrays.items() if name.startswith(f"codes/{kind}/")}
        wide = max(1, 2**config.bits // DRAWN)
        lines = {
            layer: (np.arange(0, 2**config.bits, wide), a.mean(0).reshape(-1, wide).sum(1))
            for layer, a in shares.items()
        }
        pictures.append(
            plots.curves(config.workdir, f"codes_{kind}_skew_{skew:g}", lines, x="code", y=f"share of the {kind}",
                         log_y=True)
        )  # fmt: skip
        found = protocol.code_figures(arrays, "")
        table += [
            (kind, layer, *(f"{found[f'{name}_{kind}/{layer}_']:{form}}"
                            for name, form in (("clipped", ".4f"), ("codes_used", ".3f"), ("code_entropy", ".2f"))))
            for layer in shares
        ]  # fmt: skip
    text = (
        "First seed, each agent's own model on a batch of its own after the last step. Activations clip outside the "
        "mean extremes of the samples; the range of a gradient is exact, so none clips, but one outlier widens it for "
        f"all: the entropy tells how many of the {config.bits} bits carry anything."
    )
    head = "tensor", "layer", "clipped", "codes in use", "entropy in bits"
    return report.Section(f"Use of the codes, skew {skew:g}", text, tuple(pictures), (head, *table))


def by_agent(
    config: Config, listed: list[agents.Trial], first: dict[str, Arrays], held: dict[float, np.ndarray]
) -> report.Section:
    """Accuracy of every agent, and its classes, at every skew."""
    pictures = []
    for skew, histogram in held.items():
        shown = [trial for trial in listed if trial.skew == skew and trial.agents > 1]
        last = config.steps // config.every - 1
        at_end = np.stack([first[trial.name]["accuracy"][last] for trial in shown])
        count, classes = histogram.shape
        pictures += [
            plots.heatmap(config.workdir, f"agents_skew_{skew:g}", at_end, rows=[trial.method for trial in shown],
                          columns=range(count), x=f"agent, skew {skew:g}", y="network and messages"),
            plots.heatmap(config.workdir, f"classes_skew_{skew:g}", histogram, rows=range(count),
                          columns=range(classes), x=f"class, skew {skew:g}", y="agent", format=".0f"),
        ]  # fmt: skip
    text = "First seed: accuracy of own models after the last step; training samples by agent and class."
    return report.Section("Every agent", text, tuple(pictures))
