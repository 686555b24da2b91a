"""Networks that see in several ways, at small size: figures, brute-force counts, saved networks, refusals, claims."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import transferability
from experiments.families import classifier
from experiments.transferability import experiment, methods, protocol
from subspace_jax import checkpoint, data, nn, training
from subspace_jax.core import quantize

SMOKE, CPU = transferability.PRESETS["smoke"], transferability.PRESETS["cpu"]
NAMES = SMOKE.models
VOTES = "fp3", "mix", "designed"


@pytest.fixture
def arrays(finished):
    with np.load(finished("transferability").workdir / "stages" / "seed0_attacks.npz") as found:
        return dict(found)


def test_every_network_and_ensemble_has_its_figures(finished):
    figures = finished("transferability").figures
    for name in (*NAMES, *VOTES):
        kinds = methods.SINGLE if name in NAMES else methods.TOGETHER
        robust = {kind: figures[f"robust/{name}/{kind}"] for kind in kinds}
        assert figures[f"robust/{name}/min"] <= min(robust.values()) <= figures[f"accuracy/{name}"]
        assert f"masked/{name}" in figures
    for matrix in ("transfer", "transfer_share", "transfer_fitted", "fit_rmse"):
        pairs = {key for key in figures if key.startswith(f"{matrix}/")}
        single = {f"{matrix}/{s}/{t}" for s in NAMES for t in NAMES}
        means = {f"{matrix}/fp/{t}" for t in ("q2", "q1", "ht", "fp")} | {
            f"{matrix}/{s}/fp" for s in ("q2", "q1", "ht")
        }
        assert pairs == single | means
    assert {key for key in figures if key.startswith("changeable/")} == {"changeable/q2", "changeable/q1"}
    assert {"power", "robust_scaled/dag", "robust_scaled/agd", "robust_scaled/ugd"} <= set(figures)
    assert finished("transferability").line["claims"] == []


def test_figures_are_those_of_the_saved_answers(finished, arrays):
    figures, at = finished("transferability").figures, list(SMOKE.strengths).index(SMOKE.eps)
    names = arrays["names"].tolist()
    assert sorted(names) == sorted(NAMES)
    for name in ("fp0", "mix"):
        kinds = [values[at] for key, values in arrays.items() if key.startswith(f"right/{name}/")]
        assert figures[f"robust/{name}/min"] == pytest.approx(np.all(kinds, axis=0).mean())
    counts, q2 = arrays["counts"][..., at], names.index("q2")
    assert figures["transfer/fp0/q2"] == pytest.approx(counts[0, q2] / counts[0, 0])
    assert figures["transfer_share/fp0/q2"] == pytest.approx(counts[0, q2] / counts[q2, q2])
    plain = [figures[f"transfer/{s}/{t}"] for s in ("fp0", "fp1", "fp2") for t in ("fp0", "fp1", "fp2") if s != t]
    assert figures["transfer/fp/fp"] == pytest.approx(np.mean(plain))
    white = figures["accuracy/fp0"] - figures["robust/fp0/pgd"]
    assert counts[0, 0] == pytest.approx(white * SMOKE.images)


def test_networks_of_full_precision_are_checkpoints(finished):
    run = finished("transferability")
    model, variables, config = checkpoint.load_model(run.workdir / "checkpoints" / "fp1")
    test = data.load("digits", "test")
    x = data.scale(test["image"][: SMOKE.images], data.Scaling(**config["scaling"]))
    right = np.asarray(training.predict(model.apply, variables, x)).argmax(1) == test["label"][: SMOKE.images]
    assert run.figures["accuracy/fp1"] == pytest.approx(right.mean())
    assert not (run.workdir / "checkpoints" / "q2").exists()


def test_a_saved_network_stands_beside_the_others(finished, tmp_path):
    run = finished("transferability")
    shutil.copytree(run.workdir / "stages", tmp_path / "stages")
    given = str(run.workdir / "checkpoints" / "fp1")
    config = dataclasses.replace(SMOKE, workdir=str(tmp_path), checkpoint=given)
    shared = classifier.setup(config)
    zoo = protocol.networks(config, shared, 0)
    assert [group.names for group in zoo] == [NAMES, (methods.GIVEN,)]
    said = protocol.answers(zoo, classifier.case(shared, 0, config.images).x)
    np.testing.assert_array_equal(said[-1], said[NAMES.index("fp1")])


def test_networks_see_pixels_bins_or_dots():
    inner, x = nn.build("mlp", widths=(4,)), np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    mean, std = (0.3,), (0.5,)
    model = methods.seeing(inner, mean, std, True)
    stacked = methods.started(jax.random.key(0), model, ("fp0", "q1", "ht"), x)
    z = (jnp.asarray(x) - 0.3) / 0.5
    inputs = [z, quantize.quantize_input(z, 1, -0.6, 1.4), quantize.halftone(z)]
    for number, expected in enumerate(inputs):
        variables = jax.tree.map(lambda leaf, number=number: leaf[number], stacked)
        plain = {"params": variables["params"], "batch_stats": {}}
        np.testing.assert_allclose(model.apply(variables, x), inner.apply(plain, expected), atol=1e-5)
        logits, stats = model.train_apply(variables, x, jax.random.key(1))
        np.testing.assert_allclose(logits, model.apply(variables, x), atol=1e-6)
        assert stats["bits"] == variables["batch_stats"]["bits"]
    before = jax.tree.map(lambda leaf: leaf[0], methods.started(jax.random.key(0), model, ("fp0",), x))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(lambda leaf: leaf[0], stacked))


def test_groups_train_together_and_are_merged_where_the_network_is_the_same():
    assert methods.groups(("fp0", "adam", "q2", "vgg11")) == [("fp0", "q2"), ("adam",), ("vgg11",)]
    one, two, other = (protocol.Group((n,), apply, {"w": jnp.ones((1, 2))}) for n, apply in
                       (("a", len), ("b", len), ("c", max)))  # fmt: skip
    found = protocol.merged([one, other, two])
    assert [group.names for group in found] == [("a", "b"), ("c",)]
    assert found[0].variables["w"].shape == (2, 2)


def test_the_report_says_what_it_must(finished):
    page = (finished("transferability").workdir / "report.html").read_text()
    for said in (
        "right under all attacks",
        "What carries over",
        "One sure member",
        "Changeable pixels",
        "Square reaches",
    ):
        assert said in page


@pytest.mark.parametrize(("flags", "message"), [
    (("--models", "fp0", "q9"), "--models: there is no 'q9'; there are fp<number>"),
    (("--models", "fp0", "fp0"), "each named once; got fp0 fp0"),
    (("--eps", "0.3"), "--strengths are 3 or more, 0.3 (--eps) among them"),
    (("--eps", "8", "--strengths", "2", "4", "8"), "8 instead of 8/255?"),
    (("--size", "9"), "--size is 2 to 6, the number of --models; got 9"),
    (("--steps", "0"), "--strengths, --steps and --queries are positive"),
])  # fmt: skip
def test_flags_without_a_meaning_are_refused(refuse, flags, message):
    refuse("transferability", *flags, message=message)


def test_claims_belong_to_the_fixed_recipe_alone():
    figures = dict.fromkeys((
        "robust/mix/min", "robust/fp3/min", "robust/q2/min", "transfer/fp/fp", "transfer/fp/q2", "transfer/q2/fp",
        "transfer_share/fp/q2", "transfer_share/fp/ht", "robust_scaled/ugd", "robust_scaled/agd",
    ), 0.5)  # fmt: skip
    assert len(experiment.claims(dataclasses.replace(CPU, seed=4, workdir="w"), figures)) == 7
    assert experiment.claims(dataclasses.replace(CPU, steps=5), figures) == []
