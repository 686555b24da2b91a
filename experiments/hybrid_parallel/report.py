"""Whether the splits compute the same, what a device holds, what it exchanges: the tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.harness import plots, report
from experiments.hybrid_parallel import methods, protocol

if TYPE_CHECKING:
    import pathlib

    from experiments.hybrid_parallel.experiment import Config
    from experiments.hybrid_parallel.protocol import Arrays, Case

MEGABYTE = 1e6
PARTS = "parameters", "optimiser", "batch", "gradients", "other temporaries"


def sections(
    config: Config, figures: dict[str, float], cases: list[Case], first: Arrays, read: Arrays
) -> list[report.Section]:
    """The same network, then memory, passes, exchanges, and what the model says."""
    return [
        same(config, figures, cases, first),
        held(config, figures, read),
        passes(config, figures, read),
        moved(config, figures, read),
        foreseen(config, figures),
    ]


def same(config: Config, figures: dict[str, float], cases: list[Case], first: Arrays) -> report.Section:
    """Differences to one device, and why a layer is split."""
    along = np.arange(1, config.steps + 1)
    lines = {}
    for case in cases:
        lines.setdefault(case.split, (along, first[f"loss/{case.name}"] - first["loss/one_device"]))
    drawn = plots.curves(config.workdir, "loss", lines, x="step", y="loss less that of one device")
    head = ("split / scheme / layout", "first gradient", f"parameters after {config.steps} steps", "layers")
    rows = [
        (case.name, f"{figures[f'max_difference_gradient/{case.name}']:.1e}",
         f"{figures[f'max_difference_{config.steps}_steps/{case.name}']:.1e}",
         ", ".join(f"{layer.path} {layer.kind} ({layer.why})" for layer in case.plan.layers))
        for case in cases
    ]  # fmt: skip
    ends = ", ".join(f"{split} {figures[f'accuracy/{split}']:.3f}" for split in config.splits)
    text = (
        f"Largest difference of an entry to one device, in float64, mean over {config.seeds} seed(s); the lines "
        f"are of the first one. Test accuracy then: {ends}. A group of one member passes nothing: its schemes "
        f"and layouts are one program. jit: by annotations. {config.rule}: the ratio by which a layer was placed."
    )
    return report.Section("Is it the same network?", text, (drawn,), (head, *rows))


def held(config: Config, figures: dict[str, float], read: Arrays) -> report.Section:
    """Bytes of a device by split, beside the baselines."""
    own, drawn, rows = config.schemes[0], [], []
    for b in config.batch_per_worker:
        bars = {}
        for split in config.splits:
            for scheme in methods.schemes(config, split):
                if scheme not in (own, *config.baselines):
                    continue
                label = split if scheme == own else f"{scheme} {split}"
                bars[label] = parts(config, read, split, scheme, b)
        drawn.append(stacked(config.workdir, f"memory_b{b}", bars, PARTS, y=f"megabytes a device, {b} samples each"))
        for split in config.splits:
            for scheme in methods.schemes(config, split):
                name = f"{split}/{scheme}/b{b}"
                wanted = figures[f"bytes_arguments_predicted/{name}"]
                saved = figures.get(f"saved/{split}/b{b}") if scheme == own else None
                rows.append(
                    (split, scheme, b, f"{figures[f'bytes_arguments/{name}']:,.0f}", f"{wanted:,.0f}",
                     f"{figures[f'bytes_temporaries/{name}']:,.0f}", "" if saved is None else f"{saved:.3f}")
                )  # fmt: skip
    head = ("split", "scheme", "samples a device", "arguments", "predicted", "temporaries", "saved")
    text = (
        f"Bytes of the compiled step of the large network (dense layers {config.memory_dense}), SGD "
        "with momentum, donated. Arguments: parameters, momentum and batch. Saved: share of arguments and temporaries "
        "that groups of one member take. FSDP keeps least between steps, and gathers whole weights within one."
    )
    return report.Section("What does a device hold?", text, tuple(drawn), (head, *rows))


def parts(config: Config, read: Arrays, split: str, scheme: str, b: int) -> list[float]:
    """Megabytes by what they are; gradients are a part of the temporaries."""
    model = protocol.predicted(config, split, scheme, b)
    temporaries = float(read[f"bytes_temporaries/{split}/{scheme}/b{b}"])
    gradients = min(model.gradients, temporaries)
    listed = model.parameters, model.optimizer, model.batch, gradients, temporaries - gradients
    return [each / MEGABYTE for each in listed]


def passes(config: Config, figures: dict[str, float], read: Arrays) -> report.Section:
    """Temporaries of the schemes, over those of the first one."""
    drawn, split = [], [name for name in config.splits if methods.sizes(name)[1] > 1]
    listed = (*config.schemes, *(name for name in config.baselines if name == "jit"))
    for b in config.batch_per_worker if split else ():
        heights = {
            scheme: [float(read[f"bytes_temporaries/{name}/{scheme}/b{b}"]) / MEGABYTE for name in split]
            for scheme in listed
        }
        drawn.append(
            plots.bars(config.workdir, f"temporaries_b{b}", heights, labels=split, x=f"split, {b} samples a device",
                       y="temporaries (MB)")
        )  # fmt: skip
    rows = [(key, f"{value:.3f}") for key, value in figures.items() if "_over_" in key or key.startswith("work_ratio")]
    text = (
        "Modulo and b pass the split layers in K parts, to hold fewer rows at once; their loop keeps a second sum of "
        "the weights' gradients instead, and the activations of the convolutions stay. Below 1 they save. work_ratio: "
        "operations of all devices over those of one with the whole batch; convolutions on the same samples K times "
        "would show here."
    )
    return report.Section("Do passes save memory?", text, tuple(drawn), (("temporaries and work", "ratio"), *rows))


def moved(config: Config, figures: dict[str, float], read: Arrays) -> report.Section:
    """Result bytes of the collectives, by kind."""
    b, bars = config.batch_per_worker[-1], {}
    kinds = sorted({key.rsplit("/", 1)[1] for key in read if key.startswith("collective/")})
    for split in config.splits:
        for scheme in methods.schemes(config, split):
            own = [float(read.get(f"collective/{split}/{scheme}/b{b}/{kind}", 0)) / MEGABYTE for kind in kinds]
            bars[f"{split} {scheme}"] = own
    drawn = (stacked(config.workdir, "collectives", bars, kinds, y="megabytes of results"),) if kinds else ()
    rows = [
        (name, f"{value:,.0f}", told(figures, f"bytes_collective_predicted/{name}"),
         told(figures, f"bytes_collective_difference/{name}"))
        for key, value in figures.items()
        if key.startswith("bytes_collective/") and (name := key.partition("/")[2])
    ]  # fmt: skip
    head = ("split / scheme", "measured", "predicted", "largest difference of a kind")
    text = (
        f"Bytes of the results of all collectives in one step on one device, {b} samples each, loops with all their "
        "passes. An all-reduce puts up to twice its result on a wire, an all-gather at most once. Where the compiler "
        "chooses (jit, fsdp), a CPU's puts all-reduces where bk has reduce-scatters."
    )
    return report.Section("What is exchanged?", text, drawn, (head, *rows))


def told(figures: dict[str, float], name: str) -> str:
    """A figure in the table, if there is one."""
    return f"{figures[name]:,.0f}" if name in figures else ""


def foreseen(config: Config, figures: dict[str, float]) -> report.Section:
    """What the memory model said before anything was compiled."""
    splits = list(dict.fromkeys((*config.splits, *config.predicted)))
    lines = {f"model, {b} samples": [figures[f"saved_predicted/{split}/b{b}"] for split in splits]
             for b in config.batch_per_worker}  # fmt: skip
    for b in config.batch_per_worker:
        if all(f"saved/{split}/b{b}" in figures for split in splits):
            lines[f"measured, {b} samples"] = [figures[f"saved/{split}/b{b}"] for split in splits]
    drawn = plots.bars(config.workdir, "saved", lines, labels=splits, x="split", y="share of bytes saved")
    text = (
        "The model counts parameters, momentum, batch, gradients and the activations of split layers, each once; not "
        "those of the convolutions, nor what a compiler copies. A share s of parameters in split layers saves at most "
        "s (1 - 1 / K)."
    )
    if config.devices == 1:
        text = (
            "There is one device: the split 1x1 is all that was compiled and run. For more devices this is what the "
            "model says, and nothing is said of speed. " + text
        )
    return report.Section("What was predicted?", text, (drawn,))


def stacked(
    workdir: str, name: str, bars: Mapping[str, Sequence[float]], parts: Sequence[str], *, y: str
) -> pathlib.Path:
    """One bar a label, its parts above each other."""
    figure, ax = plots.axes(width=max(7.0, 0.55 * len(bars) + 2))
    heights, along = np.array(list(bars.values())).reshape(len(bars), len(parts)), np.arange(len(bars))
    for number, part in enumerate(parts):
        color = plots.COLORS[number % len(plots.COLORS)]
        ax.bar(along, heights[:, number], 0.7, bottom=heights[:, :number].sum(1), label=part, color=color)
    ax.set_xticks(along, list(bars), rotation=40, ha="right")
    ax.set(ylabel=y)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return plots.save(figure, workdir, name)
