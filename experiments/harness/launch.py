"""Where the agents of an experiment run: on devices of this process, or in several processes watched by a parent.

`--processes K` starts K processes of one simulated CPU device each on this machine. They run one program together, each
on its agents, and the first one writes the results. The parent computes nothing: it watches them, names the process
that fails, ends the rest and leaves a run that --resume continues.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Literal

import jax
from rich.console import Console
from rich.text import Text

from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm

RANK, COORDINATOR = "SUBSPACE_PROCESS", "SUBSPACE_COORDINATOR"  # environment variables of a child process
POLL, SETTLE = 0.1, 0.5  # seconds between polls, and after a failure until those it causes have mostly shown
PLACES = "runner", "devices", "processes", "timeout"  # flags that a resumed run may change
REFUSED = 2  # exit status after bad input


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of every experiment whose agents can run on several devices."""

    agents: int = 10
    """Number of agents; a multiple of devices x processes."""
    runner: Literal["vmap", "pmap", "shard_map", "processes"] = "vmap"
    """vmap: all agents on one device; pmap: one each; shard_map: equally many each; processes: see --processes."""
    devices: int = 0
    """Devices per process, simulated on a CPU; 0: all that divide --agents, on a CPU one per agent or process."""
    processes: str = ""
    """Processes to start on this machine's CPU; auto: join a SLURM, Kubernetes or TPU job; 0: none. Sets --runner."""
    timeout: int = 20
    """Seconds without a heartbeat after which a process counts as dead."""


def several(config: Config) -> bool:
    """Whether the agents are spread over processes."""
    return config.processes not in ("", "0")


def parent(config: Config) -> bool:
    """Whether this process only starts and watches those that compute."""
    return several(config) and config.processes != "auto" and RANK not in os.environ


def first() -> bool:
    """Whether this process writes; the only one, or the first of several."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def resuming(module: str, workdir: str) -> str:
    """The command that goes on with a run."""
    return f"python -m {module} --resume --workdir {shlex.quote(workdir)}"


def start(config: Config) -> None:
    """Set up the devices and join the other processes; before the first JAX computation.

    Raises:
      ValueError: flags that contradict each other, or agents that cannot be spread equally.
    """
    check(config)
    if parent(config):
        return
    if several(config):
        jax.config.update("jax_num_cpu_devices", config.devices or 1)
        _join(config)
    elif config.runner == "vmap":
        jax.config.update("jax_num_cpu_devices", 1)
    else:
        jax.config.update("jax_num_cpu_devices", config.devices or config.agents)


def _join(config: Config) -> None:
    if config.processes != "auto":
        jax.config.update("jax_enable_preemption_service", False)  # it would swallow the parent's SIGTERM
        return jax.distributed.initialize(
            os.environ[COORDINATOR], int(config.processes), int(os.environ[RANK]),
            cluster_detection_method="deactivate", heartbeat_timeout_seconds=config.timeout,
        )  # fmt: skip
    try:
        return jax.distributed.initialize(heartbeat_timeout_seconds=config.timeout)
    except ValueError as error:
        raise ValueError("--processes auto finds no SLURM, Kubernetes or TPU job; --processes 2 needs none.") from error


def check(config: Config) -> None:
    """Refuse what cannot run, without touching a device.

    Raises:
      ValueError: names the flags and the remedy.
    """
    count = int(config.processes) if config.processes.isdecimal() else 0
    if several(config) and config.processes != "auto" and not count:
        raise ValueError(f"--processes is a number of at least 1, or auto; got {config.processes!r}.")
    if several(config) and config.runner in ("pmap", "shard_map"):
        raise ValueError(f"--processes has a runner of its own; leave --runner {config.runner} away.")
    if config.runner == "processes" and not several(config):
        raise ValueError("--runner processes needs --processes: 2 starts two of them here, auto joins a cluster's job.")
    if config.processes == "auto" and not getattr(config, "workdir", ""):
        raise ValueError("--processes auto needs a --workdir that all processes see.")
    if config.timeout < 1 or config.devices < 0 or config.agents < 1:
        raise ValueError(
            "--timeout and --agents are at least 1, --devices at least 0; "
            f"got {config.timeout}, {config.agents} and {config.devices}."
        )
    alone = count or (config.runner == "vmap" and not several(config))
    if alone and config.devices > 1:
        raise ValueError(f"vmap and each of --processes has one device; got --devices {config.devices}: use shard_map.")
    places = (config.devices or 1) * (count or 1)
    if config.agents % places:
        fitting = ", ".join(str(d) for d in range(1, config.agents + 1) if config.agents % d == 0)
        raise ValueError(
            f"agents must be a multiple of devices x processes; got {config.agents} agents on "
            f"{config.devices or 1} x {count or 1}: {config.agents} is divided by {fitting}."
        )


def exchange_of(config: Config, agents: int) -> tuple[Comm, Callable]:
    """(Comm, runner) of a method; agents in another number than --agents all run on one device, in every process alike.

    Raises:
      ValueError: agents that cannot be spread equally over the devices there are.
    """
    if agents != config.agents or (config.runner == "vmap" and not several(config)):
        return exchange.spread(agents, 1), exchange.vmap
    if several(config):
        return exchange.spread(agents, jax.device_count()), exchange.shard_map
    fitting = max(d for d in range(1, min(agents, jax.device_count()) + 1) if agents % d == 0)
    return exchange.spread(agents, config.devices or fitting), exchange.RUNNERS[config.runner]


def devices(count: int) -> list[jax.Device]:
    """The first devices of this process; a CPU becomes as many, unless JAX has started or XLA_FLAGS says how many.

    Raises:
      ValueError: there are fewer.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices()
    if not 1 <= count <= len(found):
        raise ValueError(f"--devices {count}: this process has {len(found)}; take 1 to {len(found)}.")
    return found[:count]


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Let a process that fails leave at once: an ordinary exit waits for the others, which wait for it."""
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def watch(module: str, config: Config, workdir: str) -> int:
    """Run all processes of an experiment; the exit status: 0, 2 where they refused their input, else 1.

    Args:
      module: of the experiment, as `python -m` takes it.
      config: of the run.
      workdir: holds the run's config.json; gets logs/process<rank>.txt.
    """
    folder, count = pathlib.Path(workdir) / "logs", int(config.processes)
    folder.mkdir(exist_ok=True)
    logs = [folder / f"process{rank}.txt" for rank in range(count)]
    print(f"{count} processes compute; their messages: {folder}", file=sys.stderr)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the processes end with it
    children = _spawn([sys.executable, "-m", module, "--resume", "--workdir", workdir], logs)
    try:
        failed = _wait(children, logs)
    finally:
        _end(children)
        signal.signal(signal.SIGTERM, before)
    if failed is None:
        return 0
    message, status = logs[failed].read_text(errors="replace").splitlines(), children[failed].returncode
    if status == REFUSED:
        told = "error: ", "details: ", "what was finished "
        print("\n".join(line for line in message if line.startswith(told)), file=sys.stderr)
        return REFUSED
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    said = f": {message[-1].strip()}" if message and status != -signal.SIGKILL else ""
    block = config.agents // count
    held = f"agents {failed * block}-{(failed + 1) * block - 1}" if block > 1 else f"agent {failed}"
    print(f"process {failed} ({held}) {how}{said}", file=sys.stderr)
    print(f"messages: {folder}; what was finished is kept: {resuming(module, workdir)}", file=sys.stderr)
    return 1


def _spawn(command: list[str], logs: list[pathlib.Path]) -> list[subprocess.Popen]:
    """One process a log; into it goes all it says, and what its libraries print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    children = []
    for rank, path in enumerate(logs):
        place = {RANK: str(rank), COORDINATOR: coordinator, "JAX_PLATFORMS": "cpu"}
        with path.open("w") as log:
            children.append(subprocess.Popen(command, env=os.environ | place, stdout=log, stderr=subprocess.STDOUT))
    return children


def _wait(children: list[subprocess.Popen], logs: list[pathlib.Path]) -> int | None:
    """The process that failed before all others, or None when all have ended well.

    The death of one makes the others fail at once, by an error or by SIGABRT: one that was killed comes first, then the
    one that wrote its last words first.
    """
    with Console(stderr=True).status("") as bar:
        while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
            bar.update(Text("".join(logs[0].read_text(errors="replace").splitlines()[-1:])))
            time.sleep(POLL)
    time.sleep(SETTLE * any(child.poll() for child in children))
    failed = [rank for rank, child in enumerate(children) if child.poll()]

    def order(rank):
        killed = children[rank].returncode < 0 and children[rank].returncode != -signal.SIGABRT
        return not killed, logs[rank].stat().st_mtime_ns

    return min(failed, key=order, default=None)


def _end(children: list[subprocess.Popen]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + 1
    for child in children:
        try:
            child.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
