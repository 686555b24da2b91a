"""A pass over a data set that is stopped goes on where it was; rows that stay on disk are read a batch at a time."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import training
from subspace_jax.training import partial, scoring
from tests.several import together

ROOT = pathlib.Path(__file__).parents[2]
X = np.random.default_rng(0).normal(size=(70 * 8, 3)).astype(np.float32)  # 70 batches of 8 on one device
WEIGHTS = {"w": jnp.arange(3.0)}


def fn(keys, variables, x):
    return {"drawn": jax.vmap(jax.random.uniform)(keys), "score": x @ variables["w"]}


def run(folder, x=X, key=0, **options):
    options = {"devices": jax.devices()[:1], "batch": 8} | options
    return jax.device_get(training.score_dataset(jax.random.key(key), fn, WEIGHTS, (x,), folder=folder, **options))


class Rows:
    """Rows that count how often they are asked for, and fail at one of them."""

    shape, dtype = X.shape, X.dtype

    def __init__(self, fails=-1):
        self.asked, self.fails = 0, fails

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        self.asked += 1
        if self.asked == self.fails:
            raise KeyboardInterrupt
        return X[rows]


def test_a_stopped_pass_goes_on_behind_what_was_kept(tmp_path):
    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "p", Rows(fails=69))  # one more row was asked for its shape: 67 batches are done
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["0.npz", "512.npz", "pass.json"]
    again = Rows()
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "p", again), whole)
    assert again.asked == 1 + 71 - 67  # the last batch is padding alone, with sample 0
    finished = Rows()
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "p", finished), whole)
    assert finished.asked == 1


def test_several_processes_keep_their_parts_in_one_folder(tmp_path, monkeypatch):
    """Another number of them goes on behind what was kept."""
    whole, options = run(None), {"devices": None, "batch": 64}

    def stopped():
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "p", Rows(fails=4), **options)  # one row was asked for its shape: two batches are done

    together(monkeypatch, 3, stopped)  # nine batches of 64, the last one padding in part: three in each
    again = []

    def finished():
        again.append(Rows())
        return run(tmp_path / "p", again[-1], **options)

    for found in together(monkeypatch, 2, finished):
        jax.tree.map(np.testing.assert_array_equal, found, whole)
    assert sum(rows.asked - 1 for rows in again) == 3
    assert {path.suffix for path in (tmp_path / "p").iterdir()} == {".npz", ".json"}


def test_a_folder_belongs_to_one_pass(tmp_path, monkeypatch):
    run(tmp_path, X[:16])
    for change, said in (({"key": 1}, "key"), ({"index": np.arange(16) + 1}, "index"), ({"batch": 4}, "batch")):
        with pytest.raises(ValueError, match=f"holds a pass with another {said}: give this one a folder of its own"):
            run(tmp_path, X[:16], **change)
    monkeypatch.setitem(WEIGHTS, "w", jnp.ones(3))
    with pytest.raises(ValueError, match="another variables"):
        run(tmp_path, X[:16])


def test_check_sums_tell_arrays_and_keys_apart():
    values = [jnp.arange(3), jnp.arange(3.0), jax.random.key(0), jax.random.key(1), jnp.arange(4)]
    assert len({partial.check_sum({"a": value}) for value in values}) == len(values)
    assert partial.check_sum(jnp.arange(3)) == partial.check_sum(np.arange(3, dtype=np.int32))


GROWTH = """
import json, pathlib, re, sys
import jax, numpy as np
from subspace_jax import data, training

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

columns = data.mapped(sys.argv[1])
score = lambda keys, w, image: (image.reshape(len(image), -1).astype(np.float32) @ w).max(-1)
w = np.ones((3072, 10), np.float32)
first = {name: column[:4096] for name, column in columns.items()}
training.score_dataset(jax.random.key(0), score, w, (first["image"],), batch=512)
before = held()
found = np.asarray(training.score_dataset(jax.random.key(0), score, w, (columns["image"],), batch=512))
assert found.shape == columns["label"].shape
print(json.dumps(held() - before))
"""


@pytest.mark.process
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_a_set_on_disk(tmp_path):
    """Anonymous memory: pages of mapped files are the system's cache."""
    grown = []
    for times in (1, 4):
        folder = tmp_path / str(times) / "train"
        folder.mkdir(parents=True)
        shape = (times * 40_000, 32, 32, 3)  # 123 and 492 MB
        image = np.lib.format.open_memmap(folder / "image.npy", "w+", np.uint8, shape)
        image[:] = 7
        image.flush()
        del image
        np.save(folder / "label.npy", np.arange(shape[0]) % 10)
        command = [sys.executable, "-c", GROWTH, str(folder.parent)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_ENABLE_X64": "0"}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        grown.append(json.loads(run.stdout))
    assert max(grown) < 100, grown


def test_no_pass_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_partial", None)
    monkeypatch.chdir(tmp_path)
    run(None, X[:16])
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_of_a_pass_is_computed_again(tmp_path):
    whole = run(tmp_path)
    cut = tmp_path / "512.npz"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"512.npz is damaged \(.*\): its results are computed again"):
        jax.tree.map(np.testing.assert_array_equal, run(tmp_path), whole)
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path), whole)
    (tmp_path / "pass.json").write_text("{")
    with pytest.raises(ValueError, match=r"pass.json is damaged .*: remove .*, and the pass starts anew"):
        run(tmp_path)
