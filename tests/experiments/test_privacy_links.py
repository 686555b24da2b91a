"""The experiment on links at small size: figures against their arrays, what is planted, resuming, refusals, claims."""

import csv
import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import privacy_links
from experiments.families import classifier
from experiments.privacy_links import experiment, methods, protocol, report
from subspace_jax.privacy import accounting, dp_sgd, links

SMOKE = privacy_links.PRESETS["smoke"]
CASES = "rmsprop/eps_0.5", "rmsprop/eps_8"


def stage(run, name):
    with np.load(run.workdir / "stages" / f"seed0_{name}.npz") as found:
        return dict(found)


def test_every_figure_is_there_and_agrees_with_its_arrays(finished):
    run = finished("privacy_links")
    figures = run.figures
    for name in ("rmsprop", "sgd"):
        arrays = stage(run, f"curvature_{name}")
        for kind in ("curvature", "trace", "accuracy"):
            said = [figures[f"{kind}/{name}/{eps}"] for eps in ("eps_0.5", "eps_8", "eps_inf")]
            np.testing.assert_allclose(said, arrays[f"{kind}/{name}"], rtol=1e-6)
        assert 0 <= figures[f"r2_saturation/{name}"] <= 1
    for case in CASES:
        value = stage(run, f"memorization_{case.replace('/', '_')}")[f"memorization/{case}/value"]
        assert figures[f"memorization_mean/{case}"] == pytest.approx(value.mean())
        assert figures[f"memorization_largest/{case}"] == pytest.approx(np.abs(value).max())
        bound = links.memorization_bound(float(case.split("_")[1]), delta=1e-4, kind="tight")
        assert figures[f"memorization_largest_of_tight/{case}"] == pytest.approx(np.abs(value).max() / bound)
    assert figures["violations"] == figures["violations_tight"] == 0
    assert "memorization_noisy/non_private" in figures
    assert -1 <= figures["pearson/link1_bins"] <= 1
    assert run.line["claims"] == []  # of the fixed recipe alone


def test_the_table_has_every_sample_with_its_memorization(finished):
    run = finished("privacy_links")
    with (run.workdir / "links.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert {f"memorization/{case}" for case in (*CASES, "non_private")} < set(rows[0])
    column = np.array([float(row["memorization/rmsprop/eps_8"]) for row in rows])
    assert column.mean() == pytest.approx(run.figures["memorization_mean/rmsprop/eps_8"])


def test_a_finished_run_is_read_and_not_trained_again(finished, ask, tmp_path, monkeypatch):
    first = finished("privacy_links")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(dp_sgd, "fit", None)
    assert ask("privacy_links", "--resume").figures == first.figures


def test_a_half_is_trained_on_and_nothing_else_with_the_same_chance_and_divisor():
    """Rows that do not count have no gradient; all halves have one shape."""
    config, seen = dataclasses.replace(SMOKE, steps=2, samples=100), []
    shared = classifier.setup(config)
    task = classifier.task(config, shared, 0)
    private = methods.Private(shared.network, {}, {0.5: 1.0})

    def fit(key, loss, tx, variables, data, **arguments):
        x, (label, counts) = data
        seen.append((x, label, counts, arguments["batch"]))
        values = jax.jit(loss)(variables, x, (label, counts))
        assert (np.asarray(values) > 0).tolist() == (counts == 1).tolist()
        return dp_sgd.Fitted(variables, None, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dp_sgd, "fit", fit)
        patch.setattr(protocol, "answers", lambda apply, variables, x, y: (None, np.zeros((4, len(y)), np.float32)))
        protocol.memorized(config, shared, private, task, 0, "rmsprop", 0.5)
    keep = protocol.halves(config, task, 0)
    assert len(seen) == len(keep) == 4
    assert len({x.shape for x, *_ in seen}) == 1
    for (x, label, counts, batch), row in zip(seen, keep, strict=True):
        np.testing.assert_array_equal(x[counts == 1], task.x[row])
        np.testing.assert_array_equal(label[counts == 1], task.label[row])
        assert batch / len(x) == pytest.approx(config.private_batch / 50)


def test_noises_are_those_of_whole_data_and_of_halves():
    private = methods.private(SMOKE, classifier.setup(SMOKE))
    for sigmas, size in ((private.whole, 300), (private.half, 150)):
        spent = accounting.epsilon(40 / size, sigmas[8.0], 15, 1e-4, "rdp")
        assert 0.97 * 8 < spent <= 8
    assert private.whole[np.inf] == 0


@pytest.mark.parametrize(("kind", "epsilon"), [("paper", 0.5), ("tight", 0.5), ("tight", 1.0)])
def test_a_planted_table_above_the_bound_is_found_and_one_that_cannot_be_is_not_planted(kind, epsilon):
    config = dataclasses.replace(SMOKE, bound=kind, memorization_epsilons=(epsilon,), models=64)
    task = classifier.task(config, classifier.setup(config), 0)
    assert report.above_planted(config, protocol.planted(config, task, 0)) >= 3
    wide = dataclasses.replace(config, memorization_epsilons=(8.0,))
    assert protocol.planted(wide, task, 0) == {}


@pytest.mark.process
def test_the_gpu_preset_at_small_size_with_convolutions(ask):
    small = (
        "--data digits --samples 48 --batch 8 --epochs 1 --models 4 --group 2 --steps 2 --private-batch 8 --delta 1e-3"
    )
    more = "--epsilons 1 8 --memorization-epsilons 1 --trace-samples 2 --probes 1 --accountant rdp"
    own = ["filters=4,8", "norm=group", "activation=tanh"]  # with others unoptimised programs give NaN here
    nets = ["--network-args", *own, "--private-network-args", *own]
    run = ask("privacy_links", "--preset", "gpu", *small.split(), *more.split(), *nets)
    assert run.status == 0, run.err
    assert all(np.isfinite(value) for value in run.figures.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilons", "0.001", "2"], "epsilon is looked for in [0.01, 1000]; got 0.001"),
        (["--epsilons", "8", "2"], "--epsilons ascend, at least 2; got 8 2"),
        (["--epsilons", "8"], "--epsilons ascend, at least 2; got 8"),
        (["--memorization-epsilons"], "--memorization-epsilons ascend, at least 1; got none"),
        (["--optimizers", "sgd", "sgd"], "--optimizers names each optimiser once, at least one; got sgd sgd"),
        (["--memorize"], "--memorize names each optimiser once, at least one; got none"),
        (["--models", "7"], "--models come in pairs, an even number from 4 on; got 7"),
        (["--private-batch", "151"], "--private-batch is in (0, 150], the samples of a half; got 151"),
        (["--batch", "151"], "--batch is in (0, 150], the samples of a half; got 151"),
        (["--group", "0"], "--group is the number of networks trained at a time, at least 1; got 0"),
        (["--bins", "2"], "--bins are at least 3"),
        (["--probes", "0"], "probes must be at least 1; got 0"),
        (["--delta", "0"], "delta is the chance of no guarantee, in (0, 1); got 0.0"),
        (["--checkpoint", "runs/memorization/1"], "--checkpoint has no use here"),
        (["--augment"], "--augment has no use here"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse("privacy_links", *flags, message=message)


def run_with(**changed):
    """Figures of a seed for which every claim holds, some of them changed."""
    names = "eps_0.5", "eps_2", "eps_8", "eps_30", "eps_inf"
    figures = {f"{kind}/rmsprop/{name}": float(k) for kind in ("curvature", "trace") for k, name in enumerate(names)}
    figures |= {f"curvature/sgd/{name}": -float(k) for k, name in enumerate(names)}
    figures |= {"violations": 0.0, "violations_tight": 0.0, "violations_planted": 40.0}
    figures |= {"memorization_noisy/non_private": 0.8, "pearson/link1_bins": 0.95}
    return figures | changed


@pytest.mark.parametrize(
    ("changed", "refuted"),
    [
        ({}, None),
        ({"curvature/rmsprop/eps_8": 0.5}, "curvature rises with epsilon by RMSprop, least step"),
        ({"trace/rmsprop/eps_inf": 2.5}, "trace rises with epsilon by RMSprop, least step"),
        ({"curvature/sgd/eps_2": 1.0}, "curvature falls by SGD up to eps_8, least step"),
        ({"curvature/sgd/eps_inf": 9.0}, None),
        ({"violations_tight": 1.0}, "violations_tight, negated"),
        ({"violations": 1.0}, "violations, negated"),
        ({"violations_planted": 0.0}, "violations_planted"),
        ({"memorization_noisy/non_private": 0.4}, "memorization_noisy/non_private"),
        ({"pearson/link1_bins": 0.7}, "pearson/link1_bins"),
    ],
)
def test_claims_are_judged_by_the_worst_seed(changed, refuted):
    claims = experiment.claims(privacy_links.PRESETS["cpu"], [run_with(), run_with(**changed)])
    assert [claim.name for claim in claims if not claim.holds] == ([refuted] if refuted else [])
    assert len(claims) == 8


def test_another_recipe_claims_nothing():
    cpu = privacy_links.PRESETS["cpu"]
    assert experiment.claims(dataclasses.replace(cpu, sgd_lr=1.0), [run_with()]) == []
    assert len(experiment.claims(dataclasses.replace(cpu, seed=3, seeds=1, workdir="w"), [run_with()])) == 8
