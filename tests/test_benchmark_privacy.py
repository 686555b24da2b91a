"""The benchmark refuses results that do not agree, leaves out a peer that is missing, and has every row."""

import argparse
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import privacy as benchmark
from experiments import results

SMALL = {"mlp": ({"widths": (8,)}, (8, 8, 1))}
ARGUMENTS = {
    "networks": ["mlp"], "models": [2], "samples": 32, "epochs": 1, "batch": 8, "model_repeats": 1, "batches": [16],
    "microbatch": 4, "widths": [4], "width_batch": 8, "repeats": 1, "out": None,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "NETWORKS", SMALL)
        yield


@pytest.fixture(scope="module")
def report():
    return benchmark.main(argparse.Namespace(**ARGUMENTS))


@pytest.mark.process
def test_the_report_is_json_and_tables_of_numbers(report):
    assert json.loads(json.dumps(report, default=str))["arguments"]["repeats"] == 1
    parts = results._parts(report, results.TABLES["privacy"][1])
    assert len(parts) == 3
    for rows in parts.values():
        assert len({tuple(row) for row in rows.values()}) == 1
        assert all(value is None or value >= 0 for row in rows.values() for value in row.values())


@pytest.mark.process
def test_every_way_to_train_was_measured(report):
    (rows,) = report["models"].values()
    assert set(rows["2 models"]) == {"vmap", "map", "loop_over_models", "vmap_times_faster", "map_times_faster"}
    assert min(rows["2 models"].values()) > 0


@pytest.mark.process
def test_micro_batches_take_less_memory_and_every_gradient_was_measured(report):
    for rows in report["step"].values():
        (row,) = rows.values()
        assert 0 < row["microbatch_mib"] < row["ours_mib"]
        assert min(row[name] for name in ("ordinary", "ours", "ours_microbatch")) > 0


def test_a_sum_that_clips_something_else_would_show(monkeypatch):
    wrong = lambda params, x, y, pad: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    monkeypatch.setattr(benchmark, "peer", lambda given: {"jax_privacy": wrong})
    with pytest.raises(AssertionError, match="the clipped sum of jax_privacy lies 1 from ours"):
        benchmark.check(benchmark.problem("mlp", 8))


def test_models_that_end_elsewhere_would_show(monkeypatch):
    monkeypatch.setattr(benchmark, "trainings", lambda *_: {
        "vmap": lambda: {"w": np.ones(3)}, "map": lambda: {"w": np.ones(3)}, "loop": lambda: {"w": np.full(3, 1.1)}
    })  # fmt: skip
    with pytest.raises(AssertionError, match=r"2 models by vmap end 0\.091 from those trained one after the other"):
        benchmark.models_a_minute("mlp", [2], 32, 1, 8, 1)


def test_a_peer_that_is_missing_has_an_empty_column(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_privacy", None)
    given = benchmark.problem("mlp", 8)
    assert benchmark.peer(given) == {}
    monkeypatch.setattr(benchmark, "gradients", lambda *_: {
        name: lambda params, x, y, pad: x.sum() for name in ("ours", "ours_microbatch", "ordinary")
    })  # fmt: skip
    row = benchmark.step_time(given, 8, 4, 1)
    assert [name for name, value in row.items() if value is None] == [
        "jax_privacy", "jax_privacy_of_ours", "jax_privacy_mib",
    ]  # fmt: skip
