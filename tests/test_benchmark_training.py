"""The benchmark of training: every row and number, a peer that may be missing or broken, claims of ratios."""

import argparse
import json
import sys

import pytest

from benchmarks import training as benchmark


@pytest.fixture(scope="module")
def report():
    return benchmark.main(
        argparse.Namespace(networks=["cnn2"], batch=2, widths=[], batches=[], repeats=1, torch=None, out=None)
    )


def test_a_row_has_rates_ratios_and_the_share_of_the_limit(report):
    row = report["networks"]["cnn2"]
    assert set(row) == {
        "forward_per_second", "step_per_second", "of_forward", "of_forward_training", "of_plain", "of_limit",
    }  # fmt: skip
    assert all(value > 0 for value in row.values())
    assert row["of_forward"] == pytest.approx(row["forward_per_second"] / row["step_per_second"])
    assert json.loads(json.dumps(report, default=str))["claims"][0]["threshold"] == -benchmark.MOST_FORWARDS


def test_claims_are_of_forward_passes():
    held = benchmark.claims({"a": {"of_forward": 4.9}, "b": {"of_forward": 5.1}})
    assert [claim["holds"] for claim in held] == [True, False]


def test_a_peer_that_cannot_be_run_gives_no_rows(capsys):
    args = argparse.Namespace(batch=2, repeats=1)
    assert benchmark.peer(None, ["cnn2"], args) == {}
    assert benchmark.peer("false", ["cnn2"], args) == {}
    assert "no rows of PyTorch" in capsys.readouterr().out


def test_a_peer_says_what_it_measured(tmp_path):
    script = tmp_path / "python"
    script.write_text(f'#!{sys.executable}\nprint(\'{{"cnn2": {{"torch_step_per_second": 1.0}}}}\')\n')
    script.chmod(0o755)
    args = argparse.Namespace(batch=2, repeats=1)
    assert benchmark.peer(str(script), ["cnn2"], args) == {"cnn2": {"torch_step_per_second": 1.0}}
