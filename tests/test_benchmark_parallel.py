"""The benchmark of hybrid steps: every row and number, and claims that can fail."""

import argparse

import pytest

from benchmarks import parallel as benchmark


@pytest.mark.process
def test_rows_have_seconds_ratios_and_bytes():
    args = argparse.Namespace(widths=[16], split=[2, 4], batch=4, repeats=1)
    report = benchmark.main(args)
    rows = report["widths"]["width 16"]
    assert tuple(rows) == benchmark.SCHEMES
    for row in rows.values():
        assert row["of_one"] == pytest.approx(row["step_seconds"] / rows["one"]["step_seconds"])
        assert row["step_seconds"] > 0
    assert rows["one"]["collective_mib"] == 0 < rows["bk"]["collective_mib"]
    assert rows["bk"]["temp_mib"] < rows["one"]["temp_mib"]
    assert report["claims"][0]["threshold"] == -benchmark.MOST


def test_claims_are_of_bk_beside_annotations():
    rows = {"width 1": {"bk": {"of_jit": 1.1}}, "width 2": {"bk": {"of_jit": 1.3}}}
    assert [claim["holds"] for claim in benchmark.claims(rows)] == [True, False]
