"""The processes of an experiment: this one alone, several on this machine watched by a parent, or those of a cluster.

`--processes K` starts K processes of one simulated CPU device each on this machine. They run one program together and
share what the library shares between processes (scores by samples, networks, agents); the first one writes the results.
The parent computes nothing: it watches them, names the process that fails, ends the rest and leaves a run that --resume
continues.
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
from collections.abc import Iterator

import jax
from rich.console import Console
from rich.text import Text

RANK, COORDINATOR = "SUBSPACE_PROCESS", "SUBSPACE_COORDINATOR"  # environment variables of a child process
POLL, SETTLE = 0.1, 0.5  # seconds between polls, and after a failure until those it causes have mostly shown
PLACES = "runner", "devices", "processes", "timeout"  # flags that a resumed run may change
REFUSED = 2  # exit status after bad input


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of every experiment that several processes can compute together."""

    processes: str = ""
    """Processes to start on this machine's CPU; auto: join a SLURM, Kubernetes or TPU job; 0: this one alone."""
    timeout: int = 20
    """Seconds without a heartbeat after which a process counts as dead."""

    def check(self) -> None:
        """Refuse what cannot run, without touching a device.

        Raises:
          ValueError: names the flags and the remedy.
        """
        if several(self) and self.processes != "auto" and not started(self):
            raise ValueError(f"--processes is a number of at least 1, or auto; got {self.processes!r}.")
        if self.processes == "auto" and not getattr(self, "workdir", ""):
            raise ValueError("--processes auto needs a --workdir that all processes see.")
        if self.timeout < 1:
            raise ValueError(f"--timeout is at least 1 second; got {self.timeout}.")

    def cpu_devices(self) -> int | None:
        """Into how many devices a CPU is divided, in each process; None leaves that to the user."""
        return 1 if several(self) else None

    def holds(self, rank: int) -> str:
        """What of the work a process has for good, for the message of its death."""
        return ""


def several(config: Config) -> bool:
    """Whether several processes compute."""
    return config.processes not in ("", "0")


def started(config: Config) -> int:
    """How many processes this one starts; 0 where it starts none."""
    return int(config.processes) if config.processes.isdecimal() else 0


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
    config.check()
    if parent(config):
        return
    if (count := config.cpu_devices()) is not None:
        jax.config.update("jax_num_cpu_devices", count)
    if several(config):
        _join(config)


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
    held = f" ({what})" if (what := config.holds(failed)) else ""
    print(f"process {failed}{held} {how}{said}", file=sys.stderr)
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
