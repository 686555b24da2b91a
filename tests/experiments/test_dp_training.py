"""Private training at small size: its figures, its checkpoints, its refusals, its claims."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments import dp_training
from experiments.dp_training import experiment
from subspace_jax import checkpoint, data, training
from subspace_jax.privacy import accounting, dp_sgd

NETWORKS = "eps_2", "eps_8", "eps_inf", "non_private"
TINY = "--samples 200 --batch 40 --steps 6 --save-every 3 --epsilons 4 --canaries 0".split()


def test_figures_agree_with_one_another(finished):
    figures = finished("dp_training").figures
    for kind in ("accuracy", "membership_auroc", "clip_fraction", "noise_multiplier"):
        assert all(f"{kind}/{name}" in figures for name in NETWORKS)
    spent = {name: value for name, value in figures.items() if name.startswith("epsilon_spent/")}
    assert spent.keys() == {"epsilon_spent/eps_2", "epsilon_spent/eps_8"}
    for stated in (2, 8):
        assert 0.97 * stated < spent[f"epsilon_spent/eps_{stated}"] <= stated
        sigma = figures[f"noise_multiplier/eps_{stated}"]
        assert spent[f"epsilon_spent/eps_{stated}"] == accounting.epsilon(60 / 400, sigma, 40, 1e-4)
        assert figures[f"epsilon_audited/eps_{stated}"] <= stated
    assert figures["epsilon_audited/tenth_of_noise"] > 0.5
    assert figures["epsilon_audited/eps_inf"] >= figures["epsilon_audited/tenth_of_noise"]
    assert figures["noise_multiplier/eps_inf"] == figures["clip_fraction/non_private"] == 0
    assert figures["accuracy/eps_inf"] > 0.6


def test_the_networks_are_checkpoints_with_their_reports(finished):
    run = finished("dp_training")
    test = data.load("digits", "test")
    for name, epsilon in zip(NETWORKS, (2, 8, None, None), strict=True):
        model, variables, config = checkpoint.load_model(run.workdir / "checkpoints" / name)
        accuracy = training.evaluate(
            model.apply, variables, data.scale(test["image"], data.Scaling(**config["scaling"])), test["label"]
        )
        assert float(accuracy) == pytest.approx(run.figures[f"accuracy/{name}"])
        said = config["privacy"]
        assert said["neighbouring"] == "add_or_remove_one"
        assert said["delta"] == 1e-4
        (segment,) = said["segments"]
        assert (segment["q"], segment["steps"]) == (60 / 400, 40)
        assert said["epsilon"] == (None if epsilon is None else run.figures[f"epsilon_spent/{name}"])
        assert segment["clip"] == (None if name == "non_private" else 1.0)


def test_a_finished_run_is_read_and_not_trained_again(finished, ask, tmp_path, monkeypatch):
    first = finished("dp_training")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(dp_sgd, "fit", None)
    assert ask("dp_training", "--resume").figures == first.figures


def test_a_budget_stops_the_private_networks_and_leaves_what_they_learned(ask):
    run = ask("dp_training", "--preset", "smoke", *TINY, "--max-epsilon", "2.5", "--accountant", "rdp")
    assert run.figures["epsilon_spent/eps_4"] <= 2.5
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["network"] for row in rows] == ["eps_4", "eps_inf", "non_private"]
    steps = {name: checkpoint.epochs(run.workdir / "checkpoints" / name)[-1] for name in ("eps_4", "eps_inf")}
    assert 1 <= steps["eps_4"] < steps["eps_inf"] == 6
    assert not any(name.startswith("epsilon_audited") for name in run.figures)


@pytest.mark.process
def test_the_gpu_preset_at_small_size_with_convolutions(ask):
    small = "--data digits --samples 48 --batch 12 --steps 2 --epsilons 8 --delta 1e-3 --canaries 4 --microbatch 8"
    flags = [*small.split(), "--network-args", "filters=4,8", "norm=group", "activation=gelu"]
    assert all(np.isfinite(value) for value in ask("dp_training", "--preset", "gpu", *flags).figures.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilons", "0.001"], "epsilon is looked for in [0.01, 1000]; got 0.001"),
        (["--epsilons", "1001"], "got 1001"),
        (["--epsilons", "8", "2"], "--epsilons ascend, at least one; got 8 2"),
        (["--delta", "0"], "delta is the chance of no guarantee, in (0, 1); got 0.0"),
        (["--clip", "0"], "clip is the largest norm of a gradient, above 0; got 0.0"),
        (["--batch", "401"], "--batch 401 is larger than the 400 training samples"),
        (["--model", "cnn5", "--widths", "--network-args", "norm=batch"], "BatchNorm is not differentially private"),
        (["--microbatch", "0"], "microbatch, samples whose gradients are held at a time, is at least 1; got 0"),
        (["--canaries", "1"], "--steps and --canaries are 0 or more, not 1 canary"),
        (["--checkpoint", "runs/memorization/1"], "--checkpoint has no use here"),
        (["--augment"], "--augment has no use here"),
        (["--max-epsilon", "0.0001"], "the largest epsilon, 0.0001, allows no step"),
        (["--lr", "0"], "lr must be above 0; got 0.0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse("dp_training", *flags, message=message)


FIGURES = {"accuracy/eps_1": 0.77, "accuracy/eps_2": 0.89, "accuracy/eps_3": 0.92, "accuracy/eps_8": 0.94}
FIGURES |= {"accuracy/eps_inf": 0.95, "epsilon_audited/eps_inf": 3.0, "epsilon_audited/tenth_of_noise": 2.0}
FIGURES |= {f"epsilon_audited/eps_{epsilon}": 0.5 for epsilon in (1, 2, 3, 8)}


def refuted(**changes):
    """Names of the claims that fail where one of two seeds has other figures."""
    renamed = {name.replace("__", "/"): value for name, value in changes.items()}
    claims = experiment.claims(dp_training.PRESETS["cpu"], [FIGURES, FIGURES | renamed])
    assert len(claims) == 11
    return [claim.name for claim in claims if not claim.holds]


def test_claims_are_judged_by_the_worst_audit_and_made_of_the_fixed_recipe_alone():
    assert refuted() == []
    assert refuted(accuracy__eps_8=0.85) == ["accuracy/eps_8", "accuracy of eps_8 above eps_3"]
    assert refuted(epsilon_audited__eps_1=1.1) == ["largest epsilon_audited/eps_1, negated"]
    assert refuted(epsilon_audited__tenth_of_noise=0.9) == ["smallest audit of a tenth of the noise"]
    assert refuted(epsilon_audited__eps_inf=1.0) == ["epsilon_audited/eps_inf"]
    cpu = dp_training.PRESETS["cpu"]
    assert experiment.claims(dataclasses.replace(cpu, lr=1.0), [FIGURES]) == []
    assert experiment.claims(dp_training.PRESETS["smoke"], [FIGURES]) == []
    assert len(experiment.claims(dataclasses.replace(cpu, seed=7, seeds=1, workdir="w"), [FIGURES])) == 11
