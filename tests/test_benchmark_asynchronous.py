"""The benchmark of the clocks: every row is there, simulated times are those of the recursion, no times of its own."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import asynchronous as benchmark

SMALL = argparse.Namespace(
    workers=[3, 4], threads=[2, 3], events=200, size=5, iterations=5, compute_ms=1.0, repeats=1, out=None
)


def test_every_number_is_there():
    report = benchmark.main(SMALL)
    assert list(report["simulator"]) == ["3 workers", "4 workers"]
    assert list(report["threads"]) == ["2 threads", "3 threads"]
    for rows in (report["simulator"], report["threads"]):
        assert len({tuple(row) for row in rows.values()}) == 1
        assert all(np.isfinite(value) for row in rows.values() for value in row.values())
    assert report["simulator"]["4 workers"]["events"] == 7 * 4 * 7  # 7 iterations
    assert all(row["NOTIFY-ACK, real over it"] >= 1 for row in report["threads"].values())
    assert json.loads(json.dumps(report, default=vars))["claims"] == []


def test_another_end_time_than_that_of_the_recursion_would_show(monkeypatch):
    makespan = benchmark.asap.makespan
    monkeypatch.setattr(benchmark.asap, "makespan", lambda times, graph: makespan(times, graph) + 1e-6)
    with pytest.raises(AssertionError):
        benchmark.simulator(SMALL)


def test_the_claim_reads_sixteen_workers():
    rows = {"16 workers": {"events a second, times alone": 1e4}}
    assert [claim["holds"] for claim in benchmark.claims(rows)] == [False]
    rows["16 workers"]["events a second, times alone"] = 2e5
    assert [claim["holds"] for claim in benchmark.claims(rows)] == [True]
