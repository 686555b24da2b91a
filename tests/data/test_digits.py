"""The built-in set: one split for ever, however it is read and whoever prepares it first."""

import os
import shutil
import subprocess
import sys

import chex
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from subspace_jax import data
from subspace_jax.data import builder, digits

LOAD = """
import sys
import subspace_jax.data
print(*{"tensorflow_datasets", "sklearn"} & set(sys.modules), subspace_jax.data.load("digits", "test")["index"].sum())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cached(cache, monkeypatch):
    """The user's cache: the module's own, filled by the first test that loads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache / "subspace_jax" / "tfds" / "digits"


def complete(folder):
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]  # no temporary folder is left
    return len(list((folder / "1.0.0").glob("*.array_record*"))) == len(digits.SPLITS)


@pytest.mark.process
def test_two_processes_may_prepare_at_once(tmp_path):
    """They print no reader's name after the import, no announcement of tfds: only the sum."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", LOAD], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0].decode().strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed == [str(digits.arrays("test")["index"].sum())] * 2
    assert complete(tmp_path / "subspace_jax" / "tfds" / "digits")


def test_the_second_to_finish_keeps_the_first_ones_set(cached):
    first = data.load("digits", "test")
    builder._prepare(cached / "1.0.0")
    assert complete(cached)
    chex.assert_trees_all_equal(data.load("digits", "test"), first)


@pytest.mark.parametrize("split", digits.SPLITS)
def test_split_is_scikits_stratified_one(cached, split):
    images, labels = load_digits(return_X_y=True)
    halves = train_test_split(np.arange(1797), test_size=360, stratify=labels, random_state=0)
    index = halves[split == "test"]
    loaded = data.load("digits", split)
    assert list(loaded) == ["image", "label", "index"]
    chex.assert_shape(loaded["image"], (digits.SPLITS[split], 8, 8, 1))
    assert [array.dtype for array in loaded.values()] == [np.uint8, np.int32, np.int64]
    np.testing.assert_array_equal(loaded["index"], index)
    np.testing.assert_array_equal(loaded["label"], labels[index])
    np.testing.assert_array_equal(loaded["image"].reshape(-1, 64), images[index])


def test_classes_are_spread_evenly_over_the_splits(cached):
    train, test = (np.bincount(data.load("digits", split)["label"], minlength=10) for split in digits.SPLITS)
    assert abs(test - (train + test) * 360 / 1797).max() < 1


@pytest.mark.parametrize("split", digits.SPLITS)
@pytest.mark.parametrize("lost", ["tfds", "cache"])
def test_without_tfds_or_cache_the_arrays_are_the_same(cached, monkeypatch, tmp_path, lost, split):
    expected = data.load("digits", split)
    if lost == "tfds":
        monkeypatch.delattr("subspace_jax.data.builder")
        monkeypatch.setitem(sys.modules, "subspace_jax.data.builder", None)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    chex.assert_trees_all_equal(data.load("digits", split), expected)


def test_our_folder_is_a_tfds_set_like_any_other(cached):
    built_in = builder.digits("train")
    loaded = data.load("digits_again", "train", data_dir=cached)
    np.testing.assert_array_equal(loaded["index"], np.sort(built_in["index"]))
    np.testing.assert_array_equal(loaded["image"], built_in["image"][np.argsort(built_in["index"])])


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="digits has the splits train and test; got 'validation'"):
        data.load("digits", "validation")


@pytest.mark.parametrize("part", ["dataset_info.json", "features.json", "digits-test.array_record-00000-of-00001"])
def test_a_damaged_cache_is_named_and_the_arrays_are_the_same(cached, monkeypatch, tmp_path, part):
    expected = data.load("digits", "test")
    copy = shutil.copytree(cached / "1.0.0", tmp_path / "subspace_jax" / "tfds" / "digits" / "1.0.0")
    (copy / part).write_bytes((copy / part).read_bytes()[:-99_000])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match=rf"{copy} is cut or damaged .*Until it is removed, digits are taken from"):
        chex.assert_trees_all_equal(data.load("digits", "test"), expected)
