"""The benchmark's routes give what the SVD gives, and its report has every row; no time is tested."""

import argparse
import functools
import json

import jax
import numpy as np
import pytest

from benchmarks import subspace as benchmark

CHOLESKY, EIGH = "float32 Cholesky", "float64 eigh"
ROUNDING = {CHOLESKY: 1e-4, EIGH: 1e-9}  # relative error of a projector


@pytest.fixture(scope="module")
def report():
    args = argparse.Namespace(sizes=[(12, 2880), (12, 5760)], repeats=1, vit=False, vit_depth=1, vit_images=2, out=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "growth", functools.partial(benchmark.growth, batch=8))
        return benchmark.main(args)


@pytest.mark.process
def test_routes_agree_with_the_svd(report):
    first, second = report["routes"].values()
    assert list(first) == list(second) == [CHOLESKY, EIGH, benchmark.XLA_SVD, benchmark.SVD]
    assert all(first[name]["error"] < tolerance for name, tolerance in ROUNDING.items())
    assert second[CHOLESKY]["error"] is None


def test_a_wrong_route_would_show(monkeypatch):
    monkeypatch.setattr(benchmark, "soften", lambda gram: benchmark.subspace.resolvent(gram, 90.0))
    rows = benchmark.routes(12, 1440, 1, check=True)
    assert rows[CHOLESKY]["error"] > 10 * ROUNDING[CHOLESKY]


@pytest.mark.process
def test_the_memory_of_our_routes_does_not_grow_with_the_rows(report):
    few, many = report["routes"].values()
    for name in (CHOLESKY, EIGH):
        assert many[name]["temp_mib"] == pytest.approx(few[name]["temp_mib"], rel=0.01)
    assert many[benchmark.XLA_SVD]["temp_mib"] > 1.5 * few[benchmark.XLA_SVD]["temp_mib"]


@pytest.mark.process
def test_the_memory_of_capture_does_not_grow_with_the_samples(report):
    rows = list(report["growth"].values())
    assert rows[2]["temp_mib"] == pytest.approx(rows[1]["temp_mib"], rel=0.01)
    assert rows[2]["activations_mib"] == 4 * rows[1]["activations_mib"]
    assert rows[3]["temp_mib"] > rows[1]["temp_mib"]


@pytest.mark.process
def test_claims_are_those_of_the_first_size(report):
    first = next(iter(report["routes"].values()))
    for claim, (name, least) in zip(report["claims"], benchmark.TARGETS.items(), strict=True):
        assert claim["value"] == first[name]["times_faster"]
        assert claim["holds"] == (claim["value"] >= least)
    rows = {name: {"times_faster": least - 0.1} for name, least in benchmark.TARGETS.items()}
    assert not any(claim["holds"] for claim in benchmark.claims(rows))


@pytest.mark.process
def test_the_report_is_json(report):
    assert json.loads(json.dumps(report, default=str))["arguments"]["repeats"] == 1


def test_flops_of_the_vit_are_those_of_its_sizes(monkeypatch):
    """A block of width 768 has Grams of 768 (q, k and v share one; out; dense0) and 3072, the patches one of 768."""
    build = benchmark.nn.build
    small = lambda name, **arguments: build("vit_tiny", patch=16, width=24, heads=2, **arguments)  # noqa: E731
    monkeypatch.setattr(benchmark.nn, "build", small)
    monkeypatch.setattr(benchmark, "SIDE", 64)
    row = benchmark.vit(1, 2, 1)
    assert (row["kernels"], row["inputs"], row["images"]) == (8, 6, 2)
    d, patch, wide = 24, 768, 96
    rows = {"patches": 2 * 196, "tokens": 2 * 197, "head": 2}
    grams = rows["patches"] * patch**2 + rows["tokens"] * (3 * d**2 + wide**2) + rows["head"] * d**2
    products = rows["patches"] * patch * d + rows["tokens"] * (4 * d**2 + 2 * d * wide) + rows["head"] * d * 1000
    solves = 2 * 7 / 3 * (patch**3 + 4 * d**3 + wide**3)
    edits = 4 * (patch**2 * d + 4 * d**3 + d**2 * wide + wide**2 * d + d**2 * 1000)
    assert row["tflop"] == pytest.approx((4 * grams + 4 * products + solves + edits) / 1e12)
    assert np.isfinite(row["of_its_flops"])
    assert jax.default_backend() == "cpu"
