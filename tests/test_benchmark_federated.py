"""The benchmark has every row, and refuses an encoder that states what the server does not find."""

import argparse
import json

import pytest

from benchmarks import federated as benchmark
from experiments import results
from subspace_jax.federated import tofu

SMALL = {"mlp": ("mlp", {"widths": (4,), "activation": "silu"}, (8, 8, 1))}
ARGUMENTS = {
    "networks": ["mlp"], "proxies": [1, 2], "clients": [2], "steps": 2, "local_steps": 1, "batch": 4, "repeats": 1,
    "out": None,
}  # fmt: skip


@pytest.mark.process
def test_the_report_is_json_and_tables_of_numbers(monkeypatch):
    monkeypatch.setattr(benchmark, "NETWORKS", SMALL)
    report = json.loads(json.dumps(benchmark.main(argparse.Namespace(**ARGUMENTS))))
    parts = results._parts(report, results.TABLES["federated"][1])
    assert len(parts) == 2
    rows = [row for part in parts.values() for row in part.values()]
    assert [row["bytes"] for row in rows[:2]] == [4 * (n * (64 + 10 + 1) + 1) for n in (1, 2)]
    assert all(value >= 0 for row in rows for value in row.values())


def test_an_encoder_that_states_something_else_would_show(monkeypatch):
    monkeypatch.setattr(benchmark, "NETWORKS", SMALL)
    given = benchmark.problem("mlp", 1, 4)
    encode = tofu.encode
    monkeypatch.setattr(tofu, "encode", lambda *args, **options: (
        (found := encode(*args, **options))._replace(trace=found.trace / 2)
    ))  # fmt: skip
    with pytest.raises(AssertionError, match="1 proxies: the encoder states 1 - cos"):
        benchmark.calls(given, 1, 2)
