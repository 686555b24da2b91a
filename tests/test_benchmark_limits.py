"""What the benchmark of limits counts: operations and bytes by formula, against the compiler and by hand; no times."""

import argparse
import json
import math

import numpy as np
import pytest

from benchmarks import limits as benchmark
from subspace_jax.core import costs

COUNTED = {  # at most, over the formula: biases, softmax, random numbers, mixing and updates come on top
    "fd_norm": 1.15, "ggn_exact": 1.15, "d_psgd": 1.5, "ngc": 1.5, "moments": 2.2,  # X'X: both halves
}  # fmt: skip
ARGS = argparse.Namespace(
    networks=["mlp"], batch=4, probes=2, precisions=["highest"], grams=[(40, 12)], agents="mlp", count=4,
    agent_batch=8, side=32, repeats=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "LONGEST", 0.0)
        return benchmark.main(ARGS)


def test_operations_of_scores_are_passes_through_the_network():
    assert benchmark.curvature_flops(100, 3, probes=10) == 2 * 100 * 3 * 22
    assert benchmark.curvature_flops(100, 3, classes=10) == 2 * 100 * 3 * 11


def test_operations_of_a_gram_are_those_of_its_distinct_entries():
    rows = np.random.default_rng(0).normal(size=(7, 4))
    distinct = [(i, j) for i in range(4) for j in range(i + 1)]
    assert benchmark.gram_flops(*rows.shape) == 2 * 7 * len(distinct)


def test_operations_and_bytes_of_agents_by_hand():
    step = costs.Step(outputs=60, inputs=10, kernels=60)
    assert benchmark.agents_flops(step, 4 * 8, 3) == 2 * 130 * 32 * 3
    assert benchmark.agents_bytes(50, 4, 2) == 4 * (50 * 4) * 4  # read, written, and two neighbours read


@pytest.mark.process
def test_every_path_and_part_was_measured(report):
    assert list(report["rates"]) == ["highest"]
    names = list(report["paths"])
    assert [name.split(",")[0] for name in names] == ["fd_norm", "ggn_exact", "moments", "d_psgd", "ngc"]
    for row in report["paths"].values():
        assert min(value for value in row.values() if value is not None) > 0
    assert {name.split(": ")[0] for name in report["parts"]} == set(names)
    assert len(benchmark.summary(report).ratios) == 5
    assert json.loads(json.dumps(report))["paths"].keys() == report["paths"].keys()


@pytest.mark.process
def test_the_compiler_counts_little_more_than_the_formulas(report):
    counted = {name.split(",")[0]: row["product"] for name, row in report["paths"].items()}
    for path, most in COUNTED.items():
        assert 1 <= counted[path] < most, path


def test_the_limit_is_the_longer_of_the_two_times():
    row = {"ms": 2.0, "share of operations": 0.25, "share of bytes": 0.5}
    other = row | {"share of operations": 0.75}
    ratios = benchmark.summary({"paths": {"a": row, "b": other}}).ratios
    assert [(one.ratio, one.kind) for one in ratios] == [(0.5, "limit"), (0.75, "limit")]
    assert "copy" in ratios[0].against
    assert "operations" in ratios[1].against


def test_operations_behind_a_loop_are_not_told():
    rows = 2 * benchmark.moments.CHUNK
    (work,) = benchmark.gram_work(rows, 3).values()
    assert math.isnan(work.counted)
    assert work.flops == rows * 12
