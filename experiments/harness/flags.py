"""The flags that all experiments share, their presets, and the run folder: new, resumed, or locked while in use."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeVar

import tyro

from experiments.harness import guide, launch
from experiments.harness.published import numbered
from subspace_jax.files import written


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of every experiment."""

    loads: ClassVar[bool] = True
    """Whether the question can start from --checkpoint."""

    preset: Literal["smoke", "cpu", "study", "gpu"] = "cpu"
    """Defaults of all flags: smoke < 20 s, cpu < 5 min on 2 cores, study: a convolutional network on real images,
    < 45 min a seed on 2 cores, gpu < 20 min on one GPU."""
    seed: int = 0
    """First random seed; the run takes this one and those after it."""
    seeds: int = 3
    """Number of seeds: figures are means over them."""
    workdir: str = ""
    """Folder of this run; runs/<experiment>/<next number> when not given."""
    resume: bool = False
    """Continue the run in --workdir, or the latest unfinished one."""
    data: str = "digits"
    """Data set: digits needs nothing else; mnist, cifar10, your own, ... are read from --data-dir."""
    data_dir: str = ""
    """Folder of data sets; the environment variable SUBSPACE_DATA_DIR when not given."""
    image_size: int = 0
    """Height and width in pixels to which a folder of images is resized; 0: as they are."""
    network_args: tuple[str, ...] = ()
    """Further arguments of the network as NAME=VALUE: filters=32,32 norm=group use_bias=false; see nn.build."""
    checkpoint: str = ""
    """Folder of a run or saved network: use that network instead of training one."""
    epoch: int | None = None
    """Epoch of --checkpoint to load; its last one when not given."""


C = TypeVar("C", bound=Config)


def configure(name: str, presets: dict[str, Any], description: str, argv: list[str]) -> Any:
    """--preset (or the resumed run's config) gives the defaults, every other flag overrides them."""
    chosen = next((argv[i + 1] for i, flag in enumerate(argv[:-1]) if flag == "--preset"), "cpu")
    chosen = next((flag.split("=", 1)[1] for flag in argv if flag.startswith("--preset=")), chosen)
    default = dataclasses.replace(presets.get(chosen, presets["cpu"]), preset=chosen if chosen in presets else "cpu")
    screen = guide.screen(name, presets, description)
    config = tyro.cli(type(default), default=default, args=argv, description=screen, prog=f"experiments.{name}")
    if config.preset not in presets:
        raise ValueError(f"experiments.{name} has the presets {', '.join(presets)}; got --preset {config.preset}.")
    if config.seeds < 1:
        raise ValueError(f"--seeds must be at least 1; got {config.seeds}.")
    if config.checkpoint and not config.loads:
        raise ValueError("--checkpoint has no use here: the networks are trained from their initial values.")
    if config.epoch is not None and not config.checkpoint:
        raise ValueError(f"--epoch is one of those that --checkpoint kept; got --epoch {config.epoch} without it.")
    if config.resume:
        config = resumed(name, config, argv, description)
    if isinstance(config, launch.Config):
        launch.start(config)
    return config if config.resume else opened(name, config)


def opened(name: str, config: C) -> C:
    """A new run's folder, in which the first process writes the flags."""
    workdir = pathlib.Path(config.workdir) if config.workdir else following(pathlib.Path("runs") / name)
    workdir.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, workdir=str(workdir))
    if launch.first():
        _claim(config)
    return config


def _claim(config: Config) -> None:
    """Write the flags where there are none; of two runs that start at once in one folder, one does."""
    path = pathlib.Path(config.workdir) / "config.json"
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise ValueError(
            f"{path.parent} already holds a run: continue it with --resume, or give another --workdir."
        ) from None
    try:
        _write(config)
    except BaseException:
        path.unlink()
        raise


def _write(config: Config) -> None:
    with written(pathlib.Path(config.workdir) / "config.json") as file:
        json.dump(dataclasses.asdict(config), file, indent=2)


def resumed(name: str, config: C, argv: list[str], description: str) -> C:
    """The saved flags of the run to resume; refuses changed flags, except those of where it computes (PLACES)."""
    runs = pathlib.Path("runs") / name
    unfinished = [d for d in numbered(runs) if (d / "config.json").exists() and not (d / "summary.json").exists()]
    workdir = pathlib.Path(config.workdir) if config.workdir else (unfinished or [None])[-1]
    if workdir is None or not (workdir / "config.json").exists():
        where = workdir or runs
        raise FileNotFoundError(f"no run to resume at {where}: give its --workdir, or start one without --resume.")
    old = started(config, workdir)
    fields = [f.name for f in dataclasses.fields(config)]
    again = tyro.cli(type(old), default=old, args=argv, description=description)
    differ = [f for f in fields if f not in ("resume", "workdir", "preset") and getattr(again, f) != getattr(old, f)]
    changed = [f for f in differ if f not in launch.PLACES]
    if changed:
        flag, was = changed[0], getattr(old, changed[0])
        raise ValueError(f"the run at {workdir} was started with {flag} = {was}; resume it unchanged or start another.")
    config = dataclasses.replace(again, preset=old.preset, workdir=str(workdir), resume=True)
    if differ:  # the processes that a parent starts read it
        _write(config)
    return config


def started(config: C, workdir: pathlib.Path) -> C:
    """The flags that a run was started with.

    Raises:
      ValueError: a file that is no JSON, or flags that this version has not: the run of another version.
    """
    path, fields = workdir / "config.json", {f.name: f.default for f in dataclasses.fields(config)}
    try:
        saved = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): start another run without --resume.") from None
    if foreign := sorted(saved.keys() - fields.keys()):
        raise ValueError(f"{path} has {', '.join(foreign)}, which this version lacks: resume it with its own version.")
    return type(config)(**{k: tuple(v) if isinstance(fields[k], tuple) else v for k, v in saved.items()})


def following(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the next number; of runs that start at once, the first process of each makes one of its own."""
    for number in itertools.count(max([0, *(int(d.name) for d in numbered(folder))]) + 1):
        with contextlib.suppress(FileExistsError):
            if launch.first():
                (folder / str(number)).mkdir(parents=True)
            return folder / str(number)
    raise AssertionError


def refuse_others(config: Config, saved: dict[str, Any]) -> None:
    """A flag that is neither the preset's value nor what the network at --checkpoint was trained with.

    Raises:
      ValueError: it was given, and would have no effect.
    """
    default = sys.modules[type(config).__module__].PRESETS[config.preset]
    for name, value in saved.items():
        if getattr(config, name) not in (value, getattr(default, name)):
            flag, given = name.replace("_", "-"), getattr(config, name)
            raise ValueError(f"--{flag} {given}, but the network at {config.checkpoint} has {value}: leave it away.")


def network_arguments(config: Config) -> dict[str, Any]:
    """--network-args as nn.build takes them: numbers, true and false, lists of numbers, words.

    Raises:
      ValueError: a flag that is no NAME=VALUE, or a name that is given twice.
    """
    found: dict[str, Any] = {}
    for line in config.network_args:
        name, _, value = line.partition("=")
        if not name or not value or name in found:
            raise ValueError(f"--network-args are NAME=VALUE, each name once; got {' '.join(config.network_args)!r}.")
        try:
            found[name] = json.loads(f"[{value}]" if "," in value and value[0] != "[" else value)
        except json.JSONDecodeError:
            found[name] = value
    return found


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Hold <workdir>/.lock, which names this process, as long as it writes there.

    Raises:
      ValueError: another process writes there.
    """
    if not launch.first() or launch.RANK in os.environ:  # others of the same run: the first, or their parent, holds it
        yield
        return
    with (pathlib.Path(workdir) / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(f"process {holder} writes in {workdir}: wait for it, stop it, or use another.") from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
