"""Two real processes, joined by JAX, compute what one does: scores, moments, many models, one network over a mesh."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from scipy import stats

from subspace_jax import checkpoint, nn, training, trees
from subspace_jax.core import capture
from subspace_jax.memorization import scores
from subspace_jax.privacy import masks, shadows

ROOT = pathlib.Path(__file__).parents[1]
ROUNDING = 1e-5  # of the largest value
RANK, COUNT, ADDRESS = "RANK", "COUNT", "ADDRESS"
N, BATCH, EPOCHS = 300, 20, 3
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
MODEL = nn.build("mlp", classes=2, widths=(8,))
TX = training.optimizer(training.Recipe(lr=0.1), 100)
CONFIG = {"model": {"name": "mlp", "kwargs": {"classes": 2, "widths": [8]}}, "input_shape": [6]}
EPOCH = training.train_epoch(MODEL, TX, batch=BATCH)


class Stopped(Exception):
    pass


def stopping(state, x, y):
    if int(state.step) == 2 * N // BATCH:
        raise Stopped
    return EPOCH(state, x, y)


def fitted(folder, mesh, epoch_fn=EPOCH):
    state = jax.jit(training.create, static_argnums=(1, 2))(jax.random.key(1), MODEL, TX, X[:1])
    return checkpoint.resumable_fit(
        folder, epoch_fn, state, (X, Y), epochs=EPOCHS, config=CONFIG, save_every=1, mesh=mesh
    )[0]  # fmt: skip


def everything(folder):
    """By name, what each process has in the end; of several processes each measures a part of the moments."""
    index, several = jax.process_index(), jax.process_count() > 1
    mesh = Mesh(np.array(jax.devices()), ("data",)) if several else None
    variables = MODEL.init(jax.random.key(0), X[:1])
    own = [X[:64], X[64:128]] if index else [X[128:]]
    batches = own if several else [X]
    found = {"score": scores.score(jax.random.key(2), MODEL.apply, variables, X, Y, probes=3)}
    for dtype in ("float32", "float64"):
        found[dtype] = capture.collect(MODEL.apply, variables, batches, mesh=mesh, dtype=dtype)
    table = np.stack([np.random.default_rng(t).permutation(N)[:100] for t in range(3)])
    many, _ = training.train_many(jax.random.key(3), MODEL, TX, (X, Y), table, epochs=EPOCHS, batch=BATCH)
    found["many"] = training.variables(many)
    keep = masks.shadow_masks(jax.random.key(4), 4, N)
    found["shadows"] = shadows.train(
        jax.random.key(4), MODEL, TX, (X, Y), keep, folder / "shadows", epochs=1, batch=BATCH, group=2
    )
    with pytest.raises(Stopped):
        fitted(folder / "stopped", mesh, stopping)
    found["mesh"] = fitted(folder / "whole", mesh).params
    found["loaded"] = checkpoint.load_model(folder / "whole")[1]["params"]
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(found).items()}


@pytest.mark.process
def test_each_of_two_processes_has_what_one_has(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ADDRESS, f"127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv(COUNT, "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "tests.test_processes", str(tmp_path)]
    children = [
        subprocess.Popen(command, env=os.environ | {RANK: str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    (tmp_path / "alone").mkdir()
    alone = everything(tmp_path / "alone")
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2))
    assert first.keys() == second.keys() == alone.keys()
    for path, expected in alone.items():
        np.testing.assert_array_equal(first[path], second[path])
        assert np.abs(first[path] - expected).max() <= ROUNDING * np.abs(expected).max(), path
    assert stats.spearmanr(first["score"], alone["score"]).statistic >= 0.99999
    resumed = fitted(tmp_path / "stopped", None)  # what two have begun, one ends
    for path, leaf in trees.flatten(resumed.params).items():
        assert jnp.abs(leaf - alone[f"mesh/{path}"]).max() <= ROUNDING


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[RANK]))
    at = pathlib.Path(sys.argv[1])
    np.savez(at / f"{jax.process_index()}.npz", **everything(at))
