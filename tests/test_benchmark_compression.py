"""The benchmark's ways agree, its memory is constant, and its report has every row; no time is tested."""

import argparse
import json

import pytest

from benchmarks import compression as benchmark


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "CALL", 20)
        patch.setattr(benchmark, "SIDE", 6)
        patch.setattr(benchmark, "BATCH", 2)
        return benchmark.main(argparse.Namespace(images=[20, 40], widths=[5, 4], shapes=[(6, 4)], repeats=1, out=None))


def test_the_memory_of_counting_does_not_grow_with_the_images(report):
    few, many = report["counting"].values()
    assert many["temp_mib"] == few["temp_mib"]
    assert many["responses_mib"] == 2 * few["responses_mib"]


def test_a_packed_kernel_is_as_small_as_its_bits(report):
    (row,) = report["packed"].values()
    assert row["float_kib"] * 1024 == 9 * 6 * 6 * 4
    assert row["packed_kib"] * 1024 == 9 * 6 + 4 * 6  # a byte holds six channels of a tap; a scale a filter
    assert {"packed_ms", "levels_ms", "float_ms", "of_levels", "of_float"} <= row.keys()


def test_counts_that_differ_are_no_benchmark(monkeypatch):
    monkeypatch.setattr(benchmark, "counts", lambda spectra: [0, 0])
    monkeypatch.setattr(benchmark, "SIDE", 6)
    with pytest.raises(AssertionError, match="counts differ"):
        benchmark.counting(20, (5, 4), 1)


def test_the_report_is_json(report):
    assert json.loads(json.dumps(report, default=str))["arguments"]["repeats"] == 1
