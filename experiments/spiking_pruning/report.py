"""Accuracy over energy with every control, counts and spectra, time steps, bits, noise: pictures of spiking_pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import spiking
from experiments.harness import plots, report
from experiments.spiking_pruning.methods import MODES

if TYPE_CHECKING:
    from experiments.spiking_pruning.experiment import Config
    from experiments.spiking_pruning.protocol import Arrays

CEILING = 6  # nines of variance that are drawn


def sections(config: Config, figures: dict[str, float], names: list[str], one: Arrays) -> list[report.Section]:
    """Means over the seeds first; spectra, other potentials and spikes of the first one."""
    read = {name: one[f"raster/{name}/kernel"] for name in names}
    text = f"The first test image on its way through the base network, {config.order}, {config.timesteps[0]} steps."
    found = [frontier(config, figures), counts(config, figures, names[:-1], one), spectra(config, names[:-1], one)]
    found += [steps(config, figures)] if len(config.timesteps) > 1 else []
    found += [bits(config, figures)] if config.bits else []
    found += [noise(config, figures)] if config.pixel_noise else []
    return [
        *found, spiking.report.raster(config.workdir, names, read, text),
        spiking.report.layers(config.workdir, names[:-1], figures, one),
    ]  # fmt: skip


def frontier(config: Config, figures: dict[str, float]) -> report.Section:
    """Whether the cuts were worth it."""
    names = [key.removeprefix("energy_ratio/") for key in figures if key.startswith("energy_ratio/")]
    energy = {name: figures[f"energy_ratio_unpruned/{name}"] for name in names}
    places = {"classifier": (1.0, figures["accuracy/ann"])}
    places |= {name: (energy[name], figures[f"accuracy/{name}"]) for name in names}
    x = "energy of the full classifier over that of the network, every addition counted"
    drawn = plots.points(config.workdir, "accuracy_energy", places, x=x, y="test accuracy")
    first = f"tau_{config.tau[0]}"
    better = [name for name in names if name != first and energy[name] >= energy[first]
              and figures[f"accuracy/{name}"] >= figures[f"accuracy/{first}"]]  # fmt: skip
    text = (
        f"Further right is cheaper. As cheap as {first} or cheaper, and as accurate or more: "
        f"{', '.join(better) or 'none'}. An addition takes .9 pJ, a multiply-accumulate 4.6 pJ; memory is left out. "
        f"Networks without a number of steps run for {config.timesteps[0]}. tau_ and uniform_ start from fresh values, "
        "random_, magnitude_ and pca_ from weights of the classifier; all are trained by the same recipe."
    )
    head = ("network", "accuracy", "its classifier", "parameters left", "energy: full classifier over it",
            "its own classifier over it", "the same by the papers' formula", "spikes a sample",
            "spikes a neuron")  # fmt: skip
    ones = "1.000", "1.00", "1.00", "1.00"
    rows: list[tuple[str, ...]] = [("classifier", f"{figures['accuracy/ann']:.4f}", "", *ones, "", "")]
    for name in names:
        own = figures["accuracy/ann"] if name == "base" else figures.get(f"accuracy_ann/{name}")
        kinds = (f"{kind}/{name}" for kind in ("energy_ratio_unpruned", "energy_ratio", "energy_ratio_rate"))
        rows.append((
            name, f"{figures[f'accuracy/{name}']:.4f}", "" if own is None else f"{own:.4f}",
            f"{figures[f'parameters_ratio/{name}']:.3f}", *(f"{figures[kind]:.2f}" for kind in kinds),
            f"{figures[f'spikes/{name}']:.0f}", f"{figures[f'spikes_per_neuron/{name}']:.2f}",
        ))  # fmt: skip
    return report.Section("Was it worth it? Accuracy against energy", text, (drawn,), (head, *rows))


def counts(config: Config, figures: dict[str, float], names: list[str], one: Arrays) -> report.Section:
    """Significant dimensions of each layer beside its width, its fan-in, and the network before training."""
    kinds = {"width": [len(one[f"spectrum_dims/{name}/kernel"]) for name in names]}
    kinds |= {"rank": [figures[f"rank/{name}"] for name in names]}
    for tau in config.tau:
        kinds[f"tau {tau}"] = [figures[f"dims/{name}/tau_{tau}"] for name in names]
        if "untrained" in config.controls:
            kinds[f"tau {tau}, untrained"] = [figures[f"dims_untrained/{name}/tau_{tau}"] for name in names]
    others = [mode for mode in MODES if mode != config.accumulate]
    table = {"fan-in": [str(one[f"fan_in/{name}/kernel"].item()) for name in names]}
    table |= {kind: [f"{value:.1f}" for value in values] for kind, values in kinds.items()}
    for mode in others:
        for tau in config.tau:
            own = [one[f"mode_{mode}/dims/{name}/kernel/tau_{tau}"].item() for name in names]
            table[f"tau {tau}, {mode}, first seed"] = list(map(str, own))
    drawn = plots.bars(config.workdir, "dims", kinds, labels=names, x="layer", y="significant dimensions")
    rows = [(name, *(values[i] for values in table.values())) for i, name in enumerate(names)]
    text = (
        f"Of the potential '{config.accumulate}'; only convolutions are narrowed. No count exceeds the rank of what "
        "the kernel reads: a 3x3 kernel on a grey image has nine inputs, and so nine dimensions at most. Where the "
        "untrained network has as many, the count tells of data and kernels, and not of what was learned."
    )
    return report.Section("How many channels?", text, (drawn,), (("layer", *table), *rows))


def spectra(config: Config, names: list[str], one: Arrays) -> report.Section:
    """Cumulative spectra with the cuts, the untrained network's and the bound by the rank."""
    drawn = []
    for name in names:
        figure, ax = plots.axes(5.5, 3.4)
        for label, key, style in (("trained", "dims", "-"), ("untrained", "dims_untrained", "--")):
            values = one.get(f"spectrum_{key}/{name}/kernel")
            if values is not None:
                left = 1 - np.cumsum(values) / values.sum()
                nines = -np.log10(np.maximum(left, 10.0**-CEILING))
                ax.plot(
                    1 + np.arange(len(values)), nines, style, color=plots.COLORS[0], label=label, marker="o", ms=2.5
                )
        for number, tau in enumerate(config.tau, 1):
            count, color = one[f"dims/{name}/kernel/tau_{tau}"].item(), plots.COLORS[number % len(plots.COLORS)]
            ax.axhline(-np.log10(max(1 - tau, 10.0**-CEILING)), color=color, lw=0.8, ls=":")
            ax.axvline(count, color=color, lw=1.2, label=f"tau {tau}: {count}")
        rank = one[f"rank/{name}/kernel"].item()
        fan_in = one[f"fan_in/{name}/kernel"].item()
        ax.axvline(rank, color="black", lw=1.2, ls="-.", label=f"rank: {rank}, fan-in {fan_in}")
        ax.set(xlabel="principal components", ylabel="nines of the variance kept", title=name)
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        drawn.append(plots.save(figure, config.workdir, f"spectrum_{name}"))
    text = (
        "First seed. 1, 2, 3 on the axis: .9, .99, .999 of the variance. A design is as wide as where the curve "
        "crosses the line of its tau; the rank of the first layer is bounded by the pixels that its kernel reads."
    )
    return report.Section("Spectra of the accumulated potentials", text, tuple(drawn))


def steps(config: Config, figures: dict[str, float]) -> report.Section:
    """Accuracy over time steps of the first design, three ways."""
    first, *later = config.timesteps
    start = figures[f"accuracy/tau_{config.tau[0]}"]
    lines = {
        kind: ([first, *later], [start, *(figures[f"accuracy/{name}_{steps}"] for steps in later)])
        for kind, name in {"annealed, stage by stage": "annealed", "trained there at once, as many epochs": "direct",
                           "as it is": "untuned"}.items()
    }  # fmt: skip
    drawn = plots.curves(config.workdir, "accuracy_steps", lines, x="time steps", y="test accuracy")
    gaps = ", ".join(
        f"{figures[f'accuracy/annealed_{steps}'] - figures[f'accuracy/direct_{steps}']:+.3f} at {steps}"
        for steps in later
    )
    text = (
        f"Poisson spikes, thresholds of {first} steps throughout. Annealed above trained at once, for as many epochs: "
        f"{gaps}."
    )
    return report.Section("How many time steps?", text, (drawn,))


def bits(config: Config, figures: dict[str, float]) -> report.Section:
    """Accuracy over bits."""
    own = sorted(config.bits)
    lines = {
        "base, rounded": (own, [figures[f"accuracy/bits_{bits}"] for bits in own]),
        "base": ([own[0], own[-1]], [figures["accuracy/base"]] * 2),
    }
    drawn = plots.curves(config.workdir, "accuracy_bits", lines, x="bits of a weight", y="test accuracy")
    text = "Weights rounded to a symmetric grid of each layer, without tuning; thresholds and membranes as they are."
    return report.Section("How many bits?", text, (drawn,))


def noise(config: Config, figures: dict[str, float]) -> report.Section:
    """Accuracy over noise, of classifiers and their spiking networks."""
    first = f"tau_{config.tau[0]}"
    clean = {"ann": "accuracy/ann", "base": "accuracy/base", "pruned": f"accuracy/{first}",
             "ann_pruned": f"accuracy_ann/{first}"}  # fmt: skip
    legends = {"ann": "classifier", "base": "base", "ann_pruned": f"classifier of {first}", "pruned": first}
    lines = {
        legends[name]: (
            [0.0, *config.pixel_noise],
            [figures[clean[name]], *(figures[f"accuracy_noise/{sigma}/{name}"] for sigma in config.pixel_noise)],
        )
        for name in legends
    }
    drawn = plots.curves(config.workdir, "accuracy_noise", lines, x="deviation of the noise", y="test accuracy")
    gained = [
        f"{legends[own]} at {sigma}"
        for own, other in (("base", "ann"), ("pruned", "ann_pruned"), ("pruned", "base"))
        for sigma in config.pixel_noise
        if figures[f"accuracy_noise/{sigma}/{own}"] > figures[f"accuracy_noise/{sigma}/{other}"]
    ]
    text = (
        "Normal noise on test images, clipped to [-1, 1] as a spike's chance is: the same images for all. More "
        "accurate than its own classifier, or than the network it was pruned from: "
        f"{', '.join(dict.fromkeys(gained)) or 'none, so no gain in robustness is seen'}."
    )
    return report.Section("Does noise harm it less?", text, (drawn,))
