"""Federated training with proxies at small size: its bytes, its pieces on disk, its refusals, its claims."""

import dataclasses
import shutil

import numpy as np
import pytest

from experiments import federated_proxy
from experiments.federated_proxy import experiment
from subspace_jax.federated import tofu

QUESTION, PIXELS = "federated_proxy", 64
SIZE = 64 * 16 + 16 + 16 * 10 + 10  # parameters of the network of the smoke preset
PROXY = 4 * (3 * (PIXELS + 10 + 1) + 1)


def untimed(figures):
    return {name: value for name, value in figures.items() if not name.startswith("seconds_client")}


def test_bytes_are_those_of_formulas_and_ratios_count_both_directions(finished):
    figures = finished(QUESTION).figures
    expected = {"fedavg": 4 * SIZE, "tofu_3": PROXY, "tofu_ef_3": PROXY, "tofu_3_full": (4 * PROXY + 2 * 4 * SIZE) / 6}
    expected |= {"top_k_3": PROXY // 8 * 8, "sign": sum(-(-n // 8) + 4 for n in (64 * 16, 16, 16 * 10, 10))}
    for name, up in expected.items():
        assert figures[f"bytes_uplink/{name}"] == pytest.approx(up)
        assert figures[f"bytes_downlink/{name}"] == 4 * SIZE
        assert figures[f"ratio_uplink/{name}"] == pytest.approx(4 * SIZE / up)
        assert figures[f"ratio_total/{name}"] == pytest.approx(8 * SIZE / (4 * SIZE + up))
        assert 0 <= figures[f"accuracy/{name}"] <= 1
        assert figures[f"seconds_client/{name}"] > 0
    assert figures["rounds/fedavg_equal_bytes_3"] == 6 * PROXY // (4 * SIZE)
    assert figures["cosine/fedavg"] == pytest.approx(1, abs=1e-6)
    assert {name for name in figures if name.startswith("accuracy_sorted/")} == {
        f"accuracy_sorted/{name}" for name in ("fedavg", "sign", "tofu_3")
    }


def test_every_attack_is_beside_its_guess(finished):
    figures = finished(QUESTION).figures
    cases = [case + suffix for case in ("images_1", "images_2", "steps_2x16") for suffix in ("", "_trained")]
    for case in cases:
        for source in ("true", "decoded_3"):
            for attack in ("ig", "analytic", "proxy"):
                name = f"{attack}/{source}/{case}"
                assert (f"mse/{name}" in figures) == (name[:10] != "proxy/true")
                if f"mse/{name}" in figures:
                    guess = figures[f"mse/guess/{case.removesuffix('_trained')}"]
                    assert figures[f"mse_over_guess/{name}"] == pytest.approx(figures[f"mse/{name}"] / guess, rel=1e-5)
                    assert 0 <= figures[f"share_ssim_above_half/{name}"] <= 1
    assert figures["mse/analytic/true/images_1"] < 1e-6  # a unit of a dense layer tells a single image exactly
    assert figures["mse/guess_random/images_1"] > 0


def test_a_training_goes_on_where_it_was_cut_and_nothing_finished_is_done_again(finished, ask, tmp_path, monkeypatch):
    first = finished(QUESTION)
    shutil.copytree(first.workdir, tmp_path / "w")
    (tmp_path / "w" / "stages" / "tofu_ef_3_seed0_rounds4.npz").unlink()
    again = ask(QUESTION, "--resume")
    assert untimed(again.figures) == pytest.approx(untimed(first.figures), abs=0)
    monkeypatch.setattr(tofu, "encode", None)
    assert ask(QUESTION, "--resume").figures == again.figures


@pytest.mark.process
def test_the_gpu_preset_at_small_size_with_convolutions(ask):
    small = (
        "--data digits --samples 60 --clients 2 --rounds 3 --local-steps 1 --batch 4 --proxies 1 --full-rounds 1 "
        "--encode-steps 1 --round-encode-steps 1 --attack-steps 1 --images 1 --updates 1 --warm-epochs 1 --restarts 1"
    )
    args = ["--network-args", "blocks=[1,1,1]", "width=4", "norm=evonorm"]
    run = ask(QUESTION, "--preset", "gpu", *small.split(), *args)
    assert run.status == 0, run.err
    assert all(np.isfinite(value) for value in run.figures.values())
    assert not any(name.startswith("mse/analytic") for name in run.figures)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--proxies", "16", "4"], "--proxies ascend from 1 on, each once; got 16 4"),
        (["--proxies", "0"], "--proxies ascend from 1 on, each once; got 0"),
        (["--clients", "0"], "--clients is at least 1; got 0"),
        (["--clients", "201"], "--clients is at most the 200 training samples; got 201"),
        (["--images", "0"], "--images are at least 1; got 0"),
        (["--full-rounds", "6"], "--full-rounds are some of the 6 rounds, not all; got 6"),
        (["--methods", "fedavg_equal_bytes"], "is read off the training of fedavg: name it too"),
        (["--checkpoint", "runs/memorization/1"], "--checkpoint has no use here"),
        (["--lr", "0", "--parts", "rounds"], "lr is a step size, above 0 and finite; got 0.0"),
        (["--model", "cnn2", "--widths", "--network-args", "norm=batch", "--parts", "encoding"], "running statistics"),
        (
            ["--model", "cnn2", "--widths", "--network-args", "norm=minibatch", "--parts", "encoding"],
            "rest of its batch",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse(QUESTION, *flags, message=message)


FIGURES = {
    f"one_minus_cos/{weights}/{steps}/{n}": value
    for weights in ("fresh", "trained")
    for steps in (1, 10, 40)
    for n, value in ((4, 0.3), (16, 0.004), (64, 0.001))
} | {
    "accuracy/fedavg": 0.96, "accuracy/tofu_16": 0.95, "accuracy/tofu_64": 0.955, "accuracy/fedavg_equal_bytes_64": 0.8,
    "accuracy_sorted/fedavg": 0.9, "accuracy_sorted/tofu_16": 0.89, "ratio_uplink/tofu_16": 21.75,
    "mse/ig/true/images_1": 0.01, "mse/ig/decoded_16/images_1": 0.01, "mse_over_guess/ig/decoded_16/images_16": 0.3,
    "mse_over_guess/ig/true/steps_9x32": 3.0, "mse_over_guess/ig/decoded_16/steps_9x32": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, None),
        ({"one_minus_cos/trained/10/64": 0.005}, "smallest fall of one_minus_cos"),
        ({"accuracy/tofu_16": 0.93}, "tofu_16 above fedavg"),
        ({"mse_over_guess/ig/true/steps_9x32": 1.0}, "mse_over_guess/ig/true/steps_9x32"),
        ({"mse_over_guess/ig/decoded_16/images_16": 0.6}, "leak: minus mse_over_guess"),
    ],
)
def test_claims_are_those_of_the_fixed_recipe_alone(changed, name):
    cpu = federated_proxy.PRESETS["cpu"]
    refuted = [claim.name for claim in experiment.claims(cpu, FIGURES | changed) if not claim.holds]
    assert [one.startswith(name) for one in refuted] == ([True] if name else [])
    assert experiment.claims(dataclasses.replace(cpu, lr=0.1), FIGURES) == []
    gpu = dataclasses.replace(federated_proxy.PRESETS["gpu"], preset="gpu")
    served = {"accuracy/tofu_64_full": 0.95, "ratio_uplink/tofu_64": 6.0}
    assert [claim.holds for claim in experiment.claims(gpu, FIGURES | served)] == [True] * 3
    assert len(experiment.claims(dataclasses.replace(cpu, seed=7, seeds=1, workdir="w"), FIGURES)) == 13
