"""The benchmark of analog memories: all ways give the same results, every row is there, no times."""

import argparse
import json

import pytest

from benchmarks import hardware as benchmark

SMALL = argparse.Namespace(batch=12, widths=[2, 3], channels=17, chips=3, repeats=1, out=None)


@pytest.fixture(scope="module")
def report():
    return benchmark.main(SMALL)


def test_every_number_is_there(report):
    for name in ("sums", "chips", "snap", "step"):
        assert report[name]
        assert all(value > 0 for value in report[name].values())
    assert json.loads(json.dumps(report | {"arguments": None}))["peers"].keys() == set(benchmark.PEERS)


def test_claims_read_the_rows():
    for gather, loop, held in ((3.5, 12.0, 2), (2.0, 12.0, 1), (3.5, 9.0, 1)):
        rows = {"sums": {"gather over it": gather}, "snap": {"loop over it": loop}}
        assert sum(claim["holds"] for claim in benchmark.claims(rows)) == held
