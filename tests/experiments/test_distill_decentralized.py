"""The experiment on public images: its figures and claims, its data, its controls, and the recipe for a GPU small."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import distill_decentralized
from experiments.distill_decentralized import experiment, methods, protocol, report

ROOT = pathlib.Path(__file__).parents[2]
CPU, GPU, SMOKE = (dataclasses.replace(distill_decentralized.PRESETS[p], preset=p) for p in ("cpu", "gpu", "smoke"))
NAMES = "d_psgd", "d_psgd_kd", "d_psgd_idkd", "d_psgd_good_only"
FLOAT64 = 1e-10


def test_figures_have_their_names_and_numbers(finished):
    run = finished("distill_decentralized")
    figures = run.figures
    for kind in ("accuracy_mean", "accuracy_worst", "accuracy_consensus", "accuracy_gossiped", "bytes_labels", "steps"):
        assert {f"{kind}/{name}" for name in NAMES} <= figures.keys()
    assert {figures[f"steps/{name}"] for name in NAMES} == {20}
    assert figures["bytes_labels/d_psgd"] == 0
    samples, entry = 400, 8  # half of 400 moved, as many of noise; float64
    assert figures["bytes_labels/d_psgd_kd"] == 2 * (samples // 8 + 10 * entry * samples)
    assert figures["bytes_labels/d_psgd_good_only"] == 2 * (samples // 8 + 10 * entry * samples // 2)
    kept = (figures["kept/good"] + figures["kept/noise"]) / 2 * samples
    assert figures["bytes_labels/d_psgd_idkd"] == pytest.approx(2 * (samples // 8 + 10 * entry * kept))
    assert figures["covered/good"] >= figures["kept/good"]
    assert figures["skew/after"] < figures["skew/before"]
    assert 0 < figures["threshold"] <= 1
    assert run.line["claims"] == []


def test_all_start_together_and_only_labels_part_them(finished):
    rows = [json.loads(row) for row in (finished("distill_decentralized").workdir / "metrics.jsonl").open()]
    at = {step: [row["accuracy"] for row in rows if row["step"] == step] for step in (10, 20)}
    assert len(at[10]) == len(at[20]) == len(NAMES)
    assert len(set(at[10])) == 1
    last = [row for row in rows if row["step"] == 20]
    assert len({row["loss"] for row in last}) == len(NAMES)
    assert last[0]["bytes_model"] == 20 * 2 * 8 * (64 * 16 + 16 + 16 * 10 + 10)


def test_the_report_shows_what_was_labelled(finished):
    page = (finished("distill_decentralized").workdir / "report.html").read_text()
    for part in ("What is labelled", "Classes of each agent", "Kept and dropped", "Over the run"):
        assert part in page
    assert page.count("data:image/png") == 6


@pytest.mark.process
@pytest.mark.parametrize("where", [("--processes", "2"), ("--runner", "shard_map", "--devices", "4")])
def test_processes_and_devices_give_the_same_figures(where, finished, tmp_path):
    same = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")  # thresholds are float32
    flags = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": same}
    command = [sys.executable, "-m", "experiments.distill_decentralized", "--preset", "smoke", *where]
    process = subprocess.run(command, cwd=tmp_path, env=flags, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found, expected = json.loads(process.stdout)["figures"], finished("distill_decentralized").figures
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(*([values[k] for k in expected] for values in (found, expected)), rtol=0, atol=FLOAT64)


# --- data of a seed


@pytest.fixture(scope="module")
def shared():
    return protocol.setup(dataclasses.replace(SMOKE, dtype="float32"), None)


def split(shared, config=SMOKE, seed=0, **changed):
    config = dataclasses.replace(config, **changed)
    return protocol.split(config, shared, methods.worlds(config)[0], seed)


def test_half_is_private_half_public_and_as_much_is_noise(shared):
    found = split(shared)
    assert found.sets[0].shape == (8, 23, 8, 8, 1)
    assert found.inside.shape == (8, 2, 8, 8, 1)  # of 25 samples a tenth, 2.5 to the even number
    np.testing.assert_array_equal(found.held.sum(1), found.sets[0].shape[1])
    assert (found.held > 0).sum(1).max() <= 3
    assert found.public.shape == (400, 8, 8, 1)
    np.testing.assert_array_equal(found.good, np.arange(400) < 200)
    x = shared.data.columns["x"]
    assert found.public[found.good].max() <= x.max()
    assert found.outside.shape == (500, 8, 8, 1)
    assert not np.array_equal(split(shared, seed=1).public, found.public)


def test_the_detectors_may_be_calibrated_on_a_tenth_of_the_public_images(shared):
    found, whole = split(shared, calibration="public"), split(shared)
    assert (len(found.outside), len(found.public), len(found.good)) == (40, 360, 360)
    both = np.concatenate([found.outside, found.public])
    np.testing.assert_array_equal(np.sort(both.sum((1, 2, 3))), np.sort(whole.public.sum((1, 2, 3))))
    assert found.good.sum() == (found.public == np.round(found.public)).all((1, 2, 3)).sum()


def test_own_public_images_replace_the_half(shared, tmp_path):
    image = np.random.default_rng(0).integers(0, 17, (30, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", image=image)
    config = dataclasses.replace(SMOKE, public_from=str(tmp_path / "images.npz"), public_noise=0.0)
    found = split(shared._replace(public=protocol.public_images(config)), config)
    np.testing.assert_array_equal(found.public, image)
    assert found.good.all()
    assert sum(part.shape[1] for part in (found.sets[0], found.inside)) == 50
    assert [one.name for one in methods.runs(config)] == ["d_psgd", "d_psgd_kd", "d_psgd_idkd"]


def test_public_images_that_are_test_images_are_told(tmp_path):
    from subspace_jax import data

    np.savez(tmp_path / "leak.npz", image=data.load("digits", "test")["image"][:3])
    with pytest.warns(UserWarning, match="3 of 3 public images are test images: accuracies are too high"):
        protocol.public_images(dataclasses.replace(SMOKE, public_from=str(tmp_path / "leak.npz")))


# --- runs


def test_each_method_is_run_alone_and_with_the_labels_of_three_choices():
    listed = {one.name: one for one in methods.runs(CPU)}
    here = [f"{base}{variant}" for base in ("d_psgd", "qgm") for variant in ("", "_kd", "_idkd", "_good_only")]
    assert list(listed) == here + [f"{name}_dirichlet_0.05" for name in here]
    assert listed["qgm_kd_dirichlet_0.05"].world == methods.World("_dirichlet_0.05", "dirichlet", 0.05, 8)
    assert (methods.turn(CPU), CPU.steps, CPU.seeds) == (960, 1200, 5)


@pytest.mark.process
def test_labels_spread_further_while_it_trains(ask):
    flags = "--relabel-every", "5", "--merge", "hop", "--threshold", "tpr95", "--base", "qgm", "--steps", "20"
    found = ask("distill_decentralized", "--preset", "smoke", *flags)
    assert found.status == 0, found.err
    figures = found.figures
    assert figures["covered/good"] >= figures["kept/good"]
    assert figures["bytes_labels/qgm_kd"] == 2 * 2 * (400 // 8 + 10 * 8 * 400)
    assert figures["bytes_labels/qgm"] == 0
    again = ask("distill_decentralized", "--preset", "smoke", *flags, "--resume")
    assert again.outcome() == found.outcome()


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:the threshold of agent")
def test_the_recipe_for_a_gpu_runs_at_small_size(tmp_path):
    image = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", image=image)
    small = {"data": "digits", "model": "mlp", "widths": (16,), "norm": "none", "agents": 4, "samples": 200}
    small |= {"steps": 10, "every": 5, "seeds": 1, "batch": 4}
    small |= {"public": "", "public_from": str(tmp_path / "images.npz")}
    found = experiment.main(dataclasses.replace(GPU, workdir=str(tmp_path), **small))
    assert {"accuracy_mean/qgm", "accuracy_mean/qgm_kd", "accuracy_mean/qgm_idkd"} < found.figures.keys()
    assert "kept/noise" not in found.figures
    assert all(np.isfinite(value) for value in found.figures.values())
    assert found.claims == []


# --- claims and refusals

FIGURES = {"gain/d_psgd_idkd": 0.02, "gain_over_kd/d_psgd_idkd": 0.01, "kept/noise": 0.1}
BROKEN = {"gain/d_psgd_idkd": 0.009}, {"gain_over_kd/d_psgd_idkd": 0.004}, {"kept/noise": 0.21}


@pytest.mark.parametrize("worse", [{}, *BROKEN])
def test_each_claim_can_fail(worse):
    claims = experiment.claims(CPU, FIGURES | worse)
    assert len(claims) == 3
    assert sum(not claim.holds for claim in claims) == len(worse)


def test_claims_are_made_of_the_fixed_recipes_alone():
    for other in ({"lr": 0.2}, {"base": ("d_psgd",)}, {"agents": 20}, {"threshold": "0.98"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **other), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=3, processes="2", workdir="x"), FIGURES)
    of_gpu = {"gain/qgm_idkd": 0.02, "bytes_share/qgm_idkd": 0.02}
    assert [claim.holds for claim in experiment.claims(dataclasses.replace(GPU, data_dir="x"), of_gpu)] == [True, True]


def test_a_gain_within_its_deviation_is_said_to_be_noise():
    listed = [one for one in methods.runs(CPU) if one.base == "qgm" and not one.world.suffix]
    means = {f"accuracy_mean/{one.name}": 0.9 for one in listed}
    means |= {"gain/qgm_idkd": 0.001, "gain_over_kd/qgm_idkd": 0.01}
    said = report.words(listed, means, dict.fromkeys(means, 0.002))
    assert "qgm_idkd is +0.0010 ± 0.0020 from qgm, within noise at this size." in said
    assert "qgm_idkd is +0.0100 ± 0.0020 from qgm_kd." in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--homogenize-at", "1"], "--homogenize-at leaves steps before and after it, in (0, 1); got 1.0 of 20"),
        (["--homogenize-at", "0"], "got 0.0 of 20"),
        (["--public-noise", "1"], "--public-noise is the share of noise among the public images, in [0, 1); got 1.0"),
        (["--threshold", "fpr95"], "threshold is youden, tpr95 or a number in [0, 1]; got 'fpr95'"),
        (["--threshold", "1.5"], "lies in [0, 1]; got 1.5"),
        (["--held-out", "0"], "--held-out leaves an agent some of its 25 samples to train on"),
        (["--held-out", "1"], "threshold on; got 1.0"),
        (["--relabel-every", "-1"], "--relabel-every is a number of steps, 0 for never; got -1"),
        (["--gamma", "0"], "--gamma must lie in (0, 1]"),
        (["--partition", "dirichlet", "--dirichlet", "0"], "alpha is the concentration"),
        (["--partition", "dirichlet", "--samples", "100"], "8 agents and 10 classes take 80 samples, there are 50"),
        (["--public", "cifar100", "--public-from", "a.npz"], "those of --public or of --public-from; got both"),
        (["--public-from", "nowhere.npz"], "nowhere.npz"),
        (["--topology", "torus", "--agents", "7"], "7"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused_before_anything_runs(flags, message, refuse):
    refuse("distill_decentralized", *flags, message=message)


def test_public_images_of_another_size_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((3, 9, 8, 1), np.uint8))
    config = dataclasses.replace(SMOKE, public_from=str(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"public images are \(9, 8, 1\), those of digits \(8, 8, 1\): bring both"):
        protocol.public_images(config)


def test_a_graph_in_pieces_is_refused(monkeypatch):
    monkeypatch.setattr("experiments.families.agents.protocol.graph", lambda config, agents: np.eye(agents))
    with pytest.raises(ValueError, match="8 components"):
        protocol.setup(dataclasses.replace(SMOKE, dtype="float32"), None)  # which switches nothing
