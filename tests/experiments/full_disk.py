"""Runs on a disk of their own that becomes full.

    unshare -rm python -m tests.experiments.full_disk FOLDER NAME SHARES...

Prints a line of JSON a share: of the room that the undisturbed run took, how much there is until the run has stopped.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.kills import outcome, same
from tests.experiments.conftest import asked

TINY = (  # what is tested is the order of files, not what is learned
    "--preset smoke --samples 120 --widths 8 --epochs 4 --save-every 2 --score-every 2 --batch 32 --probes 1 "
    "--duplicates 3 --scores fd_norm"
)
PIPELINES = {
    "memorization": TINY,
    "decentralized": "--preset smoke --steps 20 --every 5",
    "lifecycle": "--preset smoke",
    "membership_inference": "--preset smoke",
    "stability_memorization": "--preset smoke --models 4 --group 2 --epochs 2",
}
ROOMY = 2**30  # bytes
SMALLEST = 4096  # a page: the folder of the run, and no file
MARGIN = 4  # times the room of the undisturbed run
STATES = {"begun": "config", "finished": "summary"}  # by their file


class Disk:
    """A file system in memory."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        """A new and empty one, of so many bytes."""
        self._mount(f"size={size}")
        yield
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def grow(self, size: int) -> None:
        self._mount(f"remount,rw,size={size}")

    def protect(self) -> None:
        """Nobody may write."""
        self._mount("remount,ro")

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)], check=True)

    def used(self) -> int:
        return sum(path.lstat().st_blocks * 512 for path in self.folder.rglob("*"))


def run(folder: pathlib.Path, name: str, shares: list[float]) -> None:
    flags, disk = PIPELINES[name].split(), Disk(folder / "disk")
    with disk.of(ROOMY):
        whole = asked(name, *flags, cwd=disk.folder, draw=True)
        assert whole.status == 0, whole.err
        expected, room = outcome(whole.workdir), disk.used()
    for share in shares:
        with disk.of(max(SMALLEST, int(share * room))):
            stopped = asked(name, *flags, cwd=disk.folder, draw=True)
            line = {state: (stopped.workdir / f"{file}.json").exists() for state, file in STATES.items()}
            line |= {"share": share, "status": stopped.status, "err": stopped.err}
            further = ["--resume"] if line["begun"] else flags
            disk.protect()
            line["protected"] = asked(name, *further, cwd=disk.folder)[2:]
            disk.grow(MARGIN * room)
            again = asked(name, *further, cwd=disk.folder, draw=True)
            line |= {"again": again.status, "said": again.err}
            line["left"] = [str(path) for path in again.workdir.rglob("*.partial")]
            line["same"] = bool(again.status == 0 and same(outcome(again.workdir), expected))
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    run(pathlib.Path(sys.argv[1]), sys.argv[2], [float(share) for share in sys.argv[3:]])
