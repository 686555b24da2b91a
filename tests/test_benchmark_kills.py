"""The kill campaign: one pipeline and one kill with the process tests, all of it by `pytest -m campaign`."""

import copy
import signal

import numpy as np
import pytest

from benchmarks import kills as benchmark

OUTCOME = {
    "figures": {"auroc": 0.5, "empty": float("nan")},
    "stages": {"scores.npz": {"index": np.arange(3), "names": np.array(["a", "b"])}},
    "networks": {"checkpoints/seed0": [np.ones((2, 2), np.float32)]},
}


def test_outcomes_are_compared_bit_by_bit():
    assert benchmark.same(OUTCOME, copy.deepcopy(OUTCOME))
    last_bit = copy.deepcopy(OUTCOME)
    last_bit["networks"]["checkpoints/seed0"][0][1, 0] = np.nextafter(np.float32(1), np.float32(2))
    assert not benchmark.same(OUTCOME, last_bit)
    renamed = copy.deepcopy(OUTCOME)
    renamed["stages"]["scores.npz"]["names"][0] = "c"
    assert not benchmark.same(OUTCOME, renamed)
    assert not benchmark.same(OUTCOME, OUTCOME | {"networks": {}})


@pytest.mark.parametrize(
    ("status", "text", "is_polite"),
    [(130, "stopped\n", True), (130, "Traceback ...\nstopped\n", False), (1, "stopped\n", False), (130, "", False)],
)
def test_ctrl_c_leaves_a_word_and_no_traceback(status, text, is_polite):
    assert benchmark.polite(status, text) == is_polite


@pytest.mark.process
def test_a_killed_run_goes_on_to_the_same_and_a_changed_one_is_counted(tmp_path, monkeypatch):
    small = "memorization --preset smoke --samples 120 --widths 8 --scores loss --no-refits --epochs 20 --save-every 2"
    monkeypatch.setitem(benchmark.PIPELINES, "train", f"{small} --score-every 10 --duplicates 3 --batch 32")
    row = benchmark.campaign("train", tmp_path, kills=1, seed=0)
    assert (row["kills"], row["between_saves"], row["lost"], row["networks"]) == (1, 1, 0, 1)
    assert row["seconds_per_recovery"] > 0
    monkeypatch.setattr(benchmark, "same", lambda a, b: False)
    (tmp_path / "second").mkdir()
    assert benchmark.campaign("train", tmp_path / "second", kills=1, seed=1)["lost"] == 1


@pytest.mark.campaign
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("name", benchmark.PIPELINES)
def test_nothing_is_lost_at_ten_random_moments(name, by, tmp_path):
    row = benchmark.campaign(name, tmp_path, kills=10, seed=0, by=by)
    assert (row["kills"], row["lost"]) == (10, 0)
    assert row["between_saves"] >= 5
