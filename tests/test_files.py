"""A file is whole or absent, also where the disk takes no more."""

import contextlib
import errno
import os
import resource

import numpy as np
import pytest

from subspace_jax import files

LARGE = 100_000  # bytes, more than a buffer of Python's


@contextlib.contextmanager
def limited(size):
    """A real limit on file sizes, which needs no file system of one's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_has_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with files.written(path) as file:
        file.write("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(ZeroDivisionError), files.written(path) as file:
        file.write(f"second{1 / 0}")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.json", "first")]


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_file_that_does_not_fit_leaves_the_one_before(size, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("first")
    message = r"a.json could not be written \(File too large\): free space or raise the limit on file sizes"
    with limited(5), pytest.raises(files.NotSavedError, match=message), files.written(path, "wb") as file:
        file.write(bytes(size))
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.json", "first")]


def test_an_archive_that_does_not_fit_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).normal(size=LARGE)
    with limited(LARGE), pytest.raises(files.NotSavedError), files.written(tmp_path / "a.npz", "wb") as file:
        np.savez(file, noise=noise)
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), files.written(tmp_path / "nowhere" / "a") as file:
        file.write("a")
    assert not list(tmp_path.iterdir())


def test_room_is_taken_before_a_file_is_mapped(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (LARGE,))
    files.reserve(path)
    assert path.stat().st_blocks * 512 >= 4 * LARGE
    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(files.NotSavedError, match=r"a.npy could not be written .No space left on device.: free"):
        files.reserve(path)
    assert not path.exists()
