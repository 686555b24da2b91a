"""What the experiment decentralized runs, claims and says, without running it; its recipe for a GPU at small size."""

import dataclasses

import numpy as np
import pytest

from experiments.decentralized import PRESETS, experiment, methods, report
from experiments.families import agents

CPU = PRESETS["cpu"]


def figures(**changed):
    own = dict.fromkeys(methods.METHODS, 0.9) | {"d_psgd": 0.8} | changed
    sent = {"bytes_cross_per_step/compngc": 3348.0, "bytes_cross_per_step/ngc_alpha_1": 105040.0}
    return {f"accuracy_mean/{name}": value for name, value in own.items()} | sent


def test_all_is_every_method_by_the_flags_then_tuned_then_what_puts_them_into_proportion():
    listed = {trial.name: trial for trial in experiment.trials(CPU, experiment.names(CPU))}
    assert tuple(listed)[: len(methods.METHODS)] == methods.METHODS
    assert {f"{name}_tuned" for name in methods.METHODS} < set(listed)
    assert listed["d_psgd_equal_compute"].steps == 3 * CPU.steps
    assert listed["d_psgd_iid"].partition == "iid"
    assert listed["centralized"].agents == 1
    assert listed["compngc_mixed"].settings["self_grad_at"] == "mixed"
    assert listed["d_psgd_gamma_0.1"].settings["gamma"] == 0.1
    fixed = [listed[name].settings for name in methods.METHODS if name not in ("qgm", "choco_sgd", "deep_squeeze")]
    assert all(found == fixed[0] for found in fixed)
    assert listed["d_psgd_tuned"].settings | {"lr": 0.1, "decay": False} == fixed[0]


def test_methods_are_named_one_by_one_or_all():
    config = dataclasses.replace(CPU, method=("ngc", "d_psgd", "ngc_alpha_0.25", "d_psgd"), alpha=0.5)
    assert experiment.names(config) == ("ngc_alpha_0.5", "d_psgd", "ngc_alpha_0.25")


@pytest.mark.parametrize("method", ["sgd", "ngc_alpha_", "ngc_alpha_x", "qgm_alpha_1"])
def test_an_unknown_method_is_refused_with_all_there_are(method):
    with pytest.raises(ValueError, match=f"one or several of d_psgd, compngc.*got '{method}'"):
        experiment.names(dataclasses.replace(CPU, method=(method,)))


@pytest.mark.parametrize("line", ["qgm", "qgm.lr", "qgm.rate=1", "lr=.1"])
def test_a_setting_that_sets_nothing_is_refused(line):
    with pytest.raises(ValueError, match="a setting is method"):
        methods.settings(dataclasses.replace(CPU, settings=(line,)), "qgm")


def test_no_test_samples_are_refused():
    with pytest.raises(ValueError, match="--test-samples is at least 1; got 0"):
        agents.load(dataclasses.replace(CPU, test_samples=0))


def test_a_rate_decays_at_half_and_three_quarters():
    schedule = agents.rate(0.4, 100, 1.0)
    np.testing.assert_allclose([schedule(t) for t in (0, 49, 50, 74, 75)], [0.4, 0.4, 0.04, 0.04, 0.004], rtol=1e-6)
    assert agents.rate(0.4, 100, 0.0) == 0.4


def test_claims_are_made_of_the_fixed_recipe_alone():
    held = experiment.claims(dataclasses.replace(CPU, seed=4, workdir="x", processes="2"), figures())
    assert [claim.holds for claim in held] == [True] * 4
    missed = experiment.claims(CPU, figures(ngc_alpha_0=0.83, compngc=0.8))
    assert [claim.holds for claim in missed] == [False, True, False, True]
    for other in ({"lr": 0.2}, {"method": ("d_psgd",)}, {"agents": 20}, {"skew": 0.5}):
        assert experiment.claims(dataclasses.replace(CPU, **other), figures()) == []
    assert len(experiment.claims(dataclasses.replace(PRESETS["gpu"], preset="gpu", data_dir="x"), figures())) == 3


def test_the_report_says_where_a_fairer_comparison_turns_the_order_round():
    tuned = {"accuracy_mean_tuned/ngc_alpha_0": 0.95, "accuracy_mean_tuned/d_psgd": 0.96}
    said = report.words(figures() | tuned | {"accuracy_mean/d_psgd_equal_compute": 0.92})
    assert "ngc_alpha_0 against d_psgd depends on the comparison: +0.100 by the recipe, -0.010 tuned." in said
    assert "as many backward passes reaches 0.920: ngc_alpha_0 is -0.020 from it" in said


def test_the_recipe_for_a_gpu_runs_at_small_size(tmp_path):
    small = {"data": "digits", "model": "mlp", "widths": (16,), "agents": 3, "samples": 60, "steps": 4, "every": 2}
    config = dataclasses.replace(
        PRESETS["gpu"], workdir=str(tmp_path), method=("ngc",), batch=4, test_samples=7, **small
    )
    found = experiment.main(config)
    right = 7 * found.figures["accuracy_consensus/ngc_alpha_1"]
    assert right == pytest.approx(round(right))
    assert found.figures["bytes_cross_per_step/ngc_alpha_1"] == found.figures["bytes_model_per_step/ngc_alpha_1"] > 0
    assert all(np.isfinite(value) for value in found.figures.values())
    assert found.claims == []
