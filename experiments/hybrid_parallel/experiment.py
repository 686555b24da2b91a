"""Does splitting the large dense layers over a group of devices save memory, and is the network still the same?

    uv run python -m experiments.hybrid_parallel                         (8 simulated devices, digits, 3 seeds)
    uv run python -m experiments.hybrid_parallel --splits 2x4 --schemes bk --override dense1=replicated
    uv run python -m experiments.hybrid_parallel --devices 6 --splits 6x1 2x3 --batch 72 --batch-per-worker 12 --pad
    expected: differences to one device below 1e-12, bytes as predicted; 2x4 saves two thirds of them at 64 samples a
              device; modulo saves a tenth of bk's temporaries at 1x8 there, and costs a quarter at 8 samples; 2 min
    paper:    a hybrid VGG on CIFAR-10: up to 67 % of memory saved (arXiv 2112.15317, abstract)

DxK: D groups of K devices. Convolutions and small layers are on every device, the dense layers --dense over the K of a
group. Schemes: bk passes all rows of a group at once, modulo in K parts from all members, b member by member; pair and
gather are layouts of consecutive layers. jit: the same placement by annotations, exchanges by the compiler; fsdp: every
leaf over all devices. Equality is computed, in float64, on a small network; bytes are those of compiled programs of a
large one (--memory-dense), which nothing runs. Devices of a CPU share its cores: nothing is said of speed. On one
device there is the split 1x1 alone: the gpu preset shows that, and what the memory model says of the others.
"""

import dataclasses
from typing import ClassVar, Literal

import jax

from experiments.harness import launch, runner
from experiments.hybrid_parallel import methods, protocol, report
from subspace_jax.parallel import splitbrain

EXACT = 1e-12


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Take the same steps over every split and on one device; read memory and exchanges of a large network."""

    loads: ClassVar[bool] = False
    devices: int = 8
    """Devices of this process, simulated on a CPU."""
    splits: tuple[str, ...] = ("8x1", "4x2", "2x4", "1x8")
    """Groups x members of a group; their product is --devices."""
    schemes: tuple[Literal["bk", "modulo", "b"], ...] = ("bk", "modulo", "b")
    """How the rows of a group pass the split layers; the first one is the standard."""
    layout: tuple[Literal["pair", "gather"], ...] = ("pair", "gather")
    """Consecutive split layers: column and row in turns, or columns alone. Bytes are read of the first one."""
    rule: Literal["ccr", "size"] = "ccr"
    """What is split: layers that move less that way, or those with a tenth of all parameters."""
    override: tuple[str, ...] = ()
    """PATH=KIND for layers that are placed otherwise: dense0=replicated, column or row."""
    pad: bool = False
    """Pad dense layers whose width the members cannot share."""
    baselines: tuple[Literal["jit", "fsdp"], ...] = ("jit", "fsdp")
    """What stands beside the schemes."""
    batch_per_worker: tuple[int, ...] = (8, 64)
    """Samples of a device, where bytes are read; collectives at the last one."""
    predicted: tuple[str, ...] = ()
    """Further splits, over any number of devices, of which the model alone is asked."""
    samples: int | None = None
    """Number of training samples to use, the first ones; all when not given."""
    model: str = "cnn2"
    """Network: mlp, lenet5, cnn or cnn2 of nn.build."""
    widths: tuple[int, ...] = (8, 16)
    """Channels of its convolutions."""
    dense: tuple[int, ...] = (96, 80)
    """Dense layers of the network that is trained."""
    memory_shape: tuple[int, ...] = (32, 32, 3)
    """Images of the large network."""
    memory_dense: tuple[int, ...] = (4096, 1024)
    """Dense layers of the large network."""
    batch: int = 64
    """Samples of a step, over all devices: the first ones of the training set, then the next, ..."""
    steps: int = 20
    """Steps that are compared."""
    lr: float = 0.05
    """Learning rate of SGD."""
    momentum: float = 0.9
    """Its momentum."""


PRESETS = {
    "smoke": Config(
        seeds=1, splits=("8x1", "2x4"), schemes=("bk", "modulo"), layout=("pair",), batch_per_worker=(8,), steps=3,
        widths=(4, 8), dense=(32, 16), memory_shape=(8, 8, 3), memory_dense=(256, 64),
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", devices=1, splits=("1x1",), predicted=("8x1", "4x2", "2x4", "1x8"), seeds=1, schemes=("bk",),
        layout=("pair",), baselines=(),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Compare the steps seed by seed, read the programs, put the report together."""
    check(config)
    devices = launch.devices(config.devices)
    for split in config.splits:
        splitbrain.grid(*methods.sizes(split), devices)
    foreseen = model(config)
    with jax.enable_x64(True):
        shared = protocol.setup(config, devices)
    read = runner.stage(config, "one_device", lambda: protocol.one_device(config, devices[0]))
    for split in config.splits:
        read |= runner.stage(config, f"bytes_{split}", lambda split=split: protocol.measured(config, devices, split))
    with jax.enable_x64(True):
        found = [
            runner.stage(config, f"seed{seed}", lambda seed=seed: protocol.equality(config, shared, seed))
            for seed in runner.seeds(config)
        ]
    fixed = {key: float(value) for key, value in read.items() if key.startswith("bytes_")}
    fixed |= ratios(config, read) | exchanged(config, read) | foreseen
    each = [of_seed(one) for one in found]
    figures, std = runner.over_seeds(each)
    figures, std = figures | fixed, std | dict.fromkeys(fixed, 0.0)  # shapes know no seed
    rows = [{"seed": seed} | of_seed(one) for seed, one in zip(runner.seeds(config), found, strict=True)]
    rows += [{key: float(value)} for key, value in read.items() if key.startswith("collective")]
    sections = report.sections(config, figures, shared.cases, found[0], read)
    claimed = runner.judged(claims, config, figures, [fixed | one for one in each])
    return runner.Summary(figures, std, claimed, sections, rows)


def of_seed(one: protocol.Arrays) -> dict[str, float]:
    """The plain numbers of one seed."""
    return {key: float(value) for key, value in one.items() if not key.startswith("loss/")}


def ratios(config: Config, read: protocol.Arrays) -> dict[str, float]:
    """Bytes over those without groups or of the first scheme, operations over those of one device."""
    found, own, alone = {}, config.schemes[0], f"{config.devices}x1"
    for split in config.splits:
        for b in config.batch_per_worker:

            def held(split: str, scheme: str = own, b: int = b, kinds: tuple[str, ...] = ("temporaries",)) -> float:
                return float(sum(read[f"bytes_{kind}/{split}/{scheme}/b{b}"] for kind in kinds))

            both = "arguments", "temporaries"
            if alone in config.splits:
                found[f"saved/{split}/b{b}"] = 1 - held(split, kinds=both) / held(alone, kinds=both)
            for scheme in {"modulo", "jit"} & set(methods.schemes(config, split)) - {own}:
                found[f"{scheme}_over_{own}/{split}/b{b}"] = held(split, scheme) / held(split)
            operations = config.devices * read[f"flops/{split}/{own}/b{b}"]
            found[f"work_ratio/{split}/b{b}"] = float(operations / read[f"flops/b{b}"])
    return found


def exchanged(config: Config, read: protocol.Arrays) -> dict[str, float]:
    """Bytes of collectives, measured and predicted, and the largest difference of one kind."""
    found, b = {}, config.batch_per_worker[-1]
    for split in config.splits:
        for scheme in methods.schemes(config, split):
            name = f"{split}/{scheme}"
            own, expected = (
                {
                    key.rsplit("/", 1)[1]: float(value)
                    for key, value in read.items()
                    if key.startswith(f"{kind}/{name}/b{b}/")
                }
                for kind in ("collective", "collective_predicted")
            )
            found[f"bytes_collective/{name}"] = sum(own.values())
            if scheme in splitbrain.SCHEMES:
                found[f"bytes_collective_predicted/{name}"] = sum(expected.values())
                apart = [abs(own.get(kind, 0.0) - expected.get(kind, 0.0)) for kind in own | expected]
                found[f"bytes_collective_difference/{name}"] = max(apart, default=0.0)
    return found


def of_kinds(read: protocol.Arrays, prefix: str) -> dict[str, float]:
    """Bytes of each kind of collective."""
    return {key.removeprefix(prefix): float(value) for key, value in read.items() if key.startswith(prefix)}


def model(config: Config) -> dict[str, float]:
    """What the memory model says, before anything is compiled; also of splits that are not there."""
    found, own = {}, config.schemes[0]
    for split in (*config.splits, *config.predicted):
        data, members = methods.sizes(split)
        listed = methods.schemes(config, split) if split in config.splits else (own,)
        for b in config.batch_per_worker:
            for scheme in listed:
                held = protocol.predicted(config, split, scheme, b)
                found[f"bytes_arguments_predicted/{split}/{scheme}/b{b}"] = float(held.arguments)
            whole = [protocol.predicted(config, name, own, b) for name in (split, f"{data * members}x1")]
            totals = [held.arguments + held.gradients + held.activations for held in whole]
            found[f"saved_predicted/{split}/b{b}"] = 1 - totals[0] / totals[1]
    return found


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []

    def largest(prefix: str) -> float:
        return max(value for key, value in figures.items() if key.startswith(prefix))

    apart = [
        abs(value - figures[key.replace("bytes_arguments/", "bytes_arguments_predicted/")])
        for key, value in figures.items()
        if key.startswith("bytes_arguments/")
    ]
    other = [figures[f"bytes_collective_difference/{split}/bk"] for split in config.splits]
    work = max(value for key, value in figures.items() if key.startswith("work_ratio/") and key.endswith("/b64"))
    return [
        runner.Claim("minus the largest difference of a gradient", -largest("max_difference_gradient/"), -EXACT),
        runner.Claim("minus the largest difference after 20 steps", -largest("max_difference_20_steps/"), -EXACT),
        runner.Claim("minus bytes of arguments beside the predicted ones", -max(apart), 0.0),
        runner.Claim("minus bytes of a kind of collective beside the predicted ones, bk", -max(other), 0.0),
        runner.Claim("saved/2x4/b64", figures["saved/2x4/b64"], 0.6),
        runner.Claim("minus the largest work_ratio at b64", -work, -1.1),
        runner.Claim("published: minus modulo_over_bk/1x8/b64", -figures["modulo_over_bk/1x8/b64"], -1.0),
    ]


def check(config: Config) -> None:
    """Refuse what cannot be, before data are read."""
    least = {
        "--devices": config.devices, "--batch": config.batch, "--steps": config.steps,
        "--batch-per-worker": min(config.batch_per_worker, default=0), "--splits": len(config.splits),
        "--schemes": len(config.schemes), "--layout": len(config.layout),
    }  # fmt: skip
    if few := [name for name, value in least.items() if value < 1]:
        raise ValueError(f"{few[0]} has to be at least 1 or to name at least one; got {least[few[0]]}.")
    for split in (*config.splits, *config.predicted):
        methods.sizes(split)
