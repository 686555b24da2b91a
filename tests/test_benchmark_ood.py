"""The benchmark of detectors: every row, costs that are those of the sizes, a peer that may be broken, no times."""

import argparse
import json
import sys
import types

import numpy as np
import pytest

import benchmarks
from benchmarks import ood as benchmark


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "benchmarks.ood_torch", None)  # as where it cannot be imported
        return benchmark.main(argparse.Namespace(network="mlp", samples=128, batch=64, repeats=1, out=None))


def test_every_detector_has_a_row(report):
    rows = report["detectors"]
    assert set(rows) == {*benchmark.candidates((np.ones((2, 2)), np.ones(2)), len), "aux", "forward"}
    macs = 64 * 256 + 256 * 128 + 128 * 10
    assert rows["forward"]["flops_predicted"] == 2 * macs
    assert rows["forward"]["flops"] == pytest.approx(2 * macs, rel=0.02)
    assert rows["knn"]["floats"] == 128 * 128
    assert json.loads(json.dumps(report, default=str))["peer"] == {}


def test_what_products_cost_is_what_the_compiler_counts(report):
    for name, row in report["detectors"].items():
        if name not in ("aux", "forward"):
            assert row["flops"] == pytest.approx(row["flops_predicted"], rel=0.25), name
    aux = report["detectors"]["aux"]
    assert aux["flops"] == pytest.approx(aux["flops_predicted"], rel=0.05)
    odin = report["detectors"]["odin"]
    assert 2.5 < odin["of_forward_flops"] < 3.5


def test_claims_are_of_operations_and_numbers(report):
    rows = report["detectors"]
    assert [claim["value"] for claim in report["claims"]] == [
        -rows["aux"]["of_forward_flops"], rows["odin"]["of_forward_flops"], 128 * 128 / 129,
    ]  # fmt: skip


def test_a_peer_is_asked_where_it_can_be_imported(monkeypatch):
    fake = types.ModuleType("ood_torch")
    fake.VERSIONS = {"torch": "0"}
    fake.calls = lambda train, label, test, k: {"energy": lambda: -test[0].max(axis=1)}
    monkeypatch.setitem(sys.modules, "benchmarks.ood_torch", fake)
    monkeypatch.setattr(benchmarks, "ood_torch", fake, raising=False)
    outputs = benchmark.Outputs(np.eye(4, 3, dtype=np.float32), {"penultimate": np.ones((4, 2), np.float32)})
    found, versions = benchmark.peer(outputs, np.zeros(4, int), outputs)
    np.testing.assert_array_equal(found["energy"](), [-1, -1, -1, 0])
    assert versions == {"torch": "0"}
