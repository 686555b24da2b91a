"""A disk that becomes full in the middle of a run: one sentence, and with more room the undisturbed run's figures."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.experiments import full_disk

ROOT = pathlib.Path(__file__).parents[2]
MESSAGE = "could not be ", " (No space left on device): free space"


def mountable():
    """Whether a file system of one's own may be mounted, in a name space of one's own."""
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def rows(folder, name, *shares):
    if not mountable():
        pytest.skip("unshare -rm may not mount a file system here; test_files and test_checkpoint limit file sizes")
    command = ["unshare", "-rm", sys.executable, "-m", "tests.experiments.full_disk", str(folder), name]
    found = subprocess.run(
        [*command, *map(str, shares)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def check(row, name):
    *_, error = (line for line in row["err"].splitlines() if line.startswith("error: "))
    last = row["err"].splitlines()[-1]
    assert row["status"] == 2, row
    assert "Traceback" not in row["err"]
    assert all(part in error for part in MESSAGE), row
    if row["begun"]:
        assert last == f"what was finished is kept: python -m experiments.{name} --resume --workdir w"
    protected, status = row["protected"]
    assert re.fullmatch(r"error: .* \(Read-only file system\): make the folder writable.\n", protected), row
    assert status == 2
    assert not row["finished"]
    assert not row["left"]
    assert (row["again"], row["same"]) == (0, True), row["said"]


@pytest.mark.process
def test_nothing_is_lost_where_the_disk_becomes_full(tmp_path):
    """At the flags, a checkpoint, a picture, the report."""
    found = rows(tmp_path, "memorization", 0, 0.02, 0.3, 0.95)
    assert len(found) == 4
    for row in found:
        check(row, "memorization")


@pytest.mark.campaign
@pytest.mark.parametrize("name", full_disk.PIPELINES)
def test_nothing_is_lost_at_ten_sizes_of_the_disk(name, tmp_path):
    for row in rows(tmp_path, name, *(share / 10.5 for share in range(10))):
        check(row, name)
