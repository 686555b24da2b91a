"""The benchmark of attacks: the same examples and counts in all ways, every row is there, no times."""

import argparse
import json
import sys

import numpy as np
import pytest

from benchmarks import attacks as benchmark
from subspace_jax.core import attacks

ARGS = argparse.Namespace(widths=[6], images=10, models=2, entries=[12], repeats=1, out=None)


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "STEPS", 2)
        patch.setattr(benchmark, "CHUNK", 5)
        return benchmark.main(ARGS)


def test_every_number_is_there(report):
    assert list(report["pgd"]) == ["ours", "foolbox, network jitted", "foolbox"]
    assert list(report["transfer"]) == ["one program", "loop over sources", "loop over pairs"]
    assert list(report["growth"])[-1] == "80 images"
    assert list(report["neighbours"]) == ["12 entries"]
    for name in ("pgd", "transfer", "growth", "neighbours"):
        columns = [list(row) for row in report[name].values()]
        assert columns.count(columns[0]) == len(columns)
        assert all(value >= 0 for row in report[name].values() for value in row.values())
    assert len(json.loads(json.dumps(report))["claims"]) == 2


def test_a_gradient_step_takes_two_products_a_layer():
    model, variables = benchmark.family(ARGS, 1)
    one = {"params": {name: {k: leaf[0] for k, leaf in layer.items()} for name, layer in variables["params"].items()},
           "batch_stats": {}}  # fmt: skip
    _, x, _ = benchmark.case(model, variables, 10)
    assert benchmark.flops(model, one, x, 3) == 4 * (64 * 6 + 6 * 10) * 10 * 3


def test_one_program_counts_what_the_loop_counts():
    model, variables = benchmark.family(ARGS, 2)
    own, attack = benchmark.case(model, variables, 10), attacks.pgd(steps=2)
    looped = benchmark.loop(model, attack, variables, own)
    whole = benchmark.one_program(model, attack)(variables, *own, np.asarray(benchmark.STRENGTHS, np.float32))
    np.testing.assert_allclose(whole, looped, atol=1)
    assert looped.max() > 0


def test_rows_of_a_peer_are_left_out_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    assert benchmark.foolbox_calls(len, None, None) == {}
    rows = {"ours": {"over ours": 1.0}}
    transfer = {"loop over sources": {"over one program": 0.5}}
    found = benchmark.claims({"pgd": rows, "transfer": transfer})
    assert [claim["holds"] for claim in found] == [False]
