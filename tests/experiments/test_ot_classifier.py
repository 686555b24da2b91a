"""Codes drawn to a prior and attacked, at small size: figures, the saved networks, refusals, claims."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import ot_classifier
from experiments.families import classifier
from experiments.ot_classifier import experiment, methods, protocol, report
from subspace_jax import data

SMOKE, CPU = ot_classifier.PRESETS["smoke"], ot_classifier.PRESETS["cpu"]
USUAL = "pgd", "margin", "dlr", "square"
OF_CODES = *report.OF_CODES, "gradient_norm", "margin_ratio"


def stage(run, name):
    with np.load(run.workdir / "stages" / f"seed0_{name}.npz") as found:
        return dict(found)


def test_every_network_and_attack_has_its_figures(finished):
    figures = finished("ot_classifier").figures
    for name in SMOKE.networks:
        robust = {key.split("/")[2]: value for key, value in figures.items() if key.startswith(f"robust/{name}/")}
        assert set(robust) == {*USUAL, "min"}
        assert robust["min"] <= min(robust.values()) <= figures[f"accuracy/{name}"]
        assert {f"masked/{name}", *(f"{word}/{name}" for word in OF_CODES)} <= set(figures)
    assert [key for key in figures if key.startswith("discriminator")] == ["discriminator_accuracy/gan4"]
    assert 0 <= figures["discriminator_accuracy/gan4"] <= 1
    assert finished("ot_classifier").line["claims"] == []


def test_the_saved_networks_give_the_figures_of_accuracy_and_codes(finished):
    run = finished("ot_classifier")
    shared = classifier.with_images(dataclasses.replace(SMOKE, workdir=str(run.workdir)))
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, y = test["image"][: SMOKE.images] / np.float32(16), test["label"][: SMOKE.images]
    for name in SMOKE.networks:
        model = methods.parts(SMOKE, shared, name).whole
        variables = protocol.restored(model.init, x[:1], stage(run, f"{name}_network"))
        logits = model.apply(variables, x)
        assert run.figures[f"accuracy/{name}"] == pytest.approx((np.asarray(logits).argmax(1) == y).mean())
        codes = np.asarray(model.features(variables, train["image"][: SMOKE.samples] / np.float32(16))["code"])
        assert codes.shape == (SMOKE.samples, 4)
        assert run.figures[f"latent_mean_max/{name}"] == pytest.approx(np.abs(codes.mean(0)).max(), rel=1e-3)
        assert run.figures[f"latent_std_min/{name}"] == pytest.approx(codes.std(0).min(), rel=1e-3)


def test_each_strength_is_attacked_with_everything_and_the_headline_is_that_of_eps(finished):
    run = finished("ot_classifier")
    for name in SMOKE.networks:
        arrays = stage(run, name)
        for kind in USUAL:
            right = arrays[f"right/{kind}"]
            assert right.shape == (2, SMOKE.images)
            assert run.figures[f"robust/{name}/{kind}"] == pytest.approx(right[1].mean())  # eps = .1 is the second
            assert not (right & ~arrays["clean"]).any()


def test_names_say_divergence_width_and_training():
    assert methods.kind("at_mmd16") == (True, "mmd", 16)
    assert methods.kind("none4") == (False, "none", 4)
    assert methods.undefended(("gan4", "none4", "at_none64", "none16")) == ["none16", "none4"]


def test_the_weight_and_the_attack_follow_the_name():
    shared = classifier.with_images(SMOKE)
    built = {name: methods.algorithm(SMOKE, shared, name, 10).init.__self__ for name in ("none16", "gan4", "at_mmd16")}
    assert [b.div for b in built.values()] == ["none", "gan", "mmd"]
    assert [b.weight for b in built.values()] == [0.0, 0.3, 1.0]
    assert [b.eps for b in built.values()] == [0.0, 0.0, 0.1]
    heavy = methods.algorithm(dataclasses.replace(SMOKE, weight=2.0), shared, "gan4", 10)
    assert heavy.init.__self__.weight == 2.0
    assert set(methods.tried(dataclasses.replace(SMOKE, adaptive=3), 10)) == {*USUAL, "apgd_ce", "apgd_dlr"}
    assert set(methods.tried(SMOKE, 2)) == {"pgd", "margin", "square"}


def test_the_plane_of_codes_is_the_one_in_which_they_vary_most():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 5)) * np.array([0.1, 3, 0.1, 2, 0.1])
    shown = report.plane(points + 1)
    np.testing.assert_allclose(np.sort(shown.std(0)), np.sort(points[:, [3, 1]].std(0)), rtol=0.02)
    assert report.plane(points[:, :1]).shape == (200, 2)


def test_a_network_without_a_gradient_reaches_as_far_as_a_pixel_can_change():
    """A linear network's ratio is its distance to the boundary; where nothing changes the answer it is 1."""
    w = np.array([[1.0, -1.0], [2.0, -2.0]], np.float32)
    x, y = np.array([[0.6, 0.6], [0.5, 0.9]], np.float32), np.array([0, 0])

    def found(w):
        fn = jax.tree_util.Partial(lambda w, x: (x - 0.5) @ w, w)
        return classifier.smoothness(fn, x, y, np.ones(2, bool))

    # margins 2 (0.1 + 0.2) and 2 (0.8) over the l1 norm 2 + 4
    assert found(w)["margin_ratio"] == pytest.approx((0.6 / 6 + 1.6 / 6) / 2, rel=1e-5)
    assert found(0 * w)["margin_ratio"] == 1.0
    assert found(0 * w)["gradient_norm"] == 0


def test_the_report_says_what_it_must(finished):
    page = (finished("ot_classifier").workdir / "report.html").read_text()
    for said in ("right under all attacks", "circles hold half", "How the codes are distributed", "Can it be believed"):
        assert said in page


@pytest.mark.parametrize(("flags", "message"), [
    (("--networks", "none4", "kl16"), "there is no 'kl16'; a name is none, gan, mmd or sliced and the length"),
    (("--networks", "mmd16", "at_none4"), "a none<d> among them, on which Square shows its power"),
    (("--strengths", "0"), "--eps and --strengths are above 0; got 0.1 and (0.0,)"),
    (("--strengths", ".1"), "one beside --eps 0.1 at least; got (0.1,)"),
    (("--eps", "8"), "8 instead of 8/255?"),
    (("--prior-std", "0"), "prior_std is the deviation of the prior, above 0; got 0.0"),
    (("--weight", "-1"), "--latent-noise and --weight are not negative; got 0.0, -1.0"),
    (("--networks", "none4", "mmd64"), "a code of 64 numbers is no bottleneck for 64 pixels"),
    (("--checkpoint", "runs"), "--checkpoint has no use here"),
])  # fmt: skip
def test_flags_without_a_meaning_are_refused(refuse, flags, message):
    refuse("ot_classifier", *flags, message=message)


def test_claims_belong_to_the_fixed_recipe_alone():
    figures = {f"robust/{name}/min": value for name, value in (("none64", 0.4), ("none4", 0.2), ("sliced4", 0.26))}
    figures |= {"accuracy/mmd16": 0.97, "accuracy/none16": 0.98, "latent_mean_max/mmd16": 0.5}
    figures |= {"latent_std_min/mmd16": 0.6, "latent_std_max/mmd16": 1.4, "sliced_w2/mmd16": 0.1, "sliced_w2/none16": 9}
    holds = [claim.holds for claim in experiment.claims(CPU, figures)]
    assert holds == [True, False, True, True, True, True, True]
    assert experiment.claims(dataclasses.replace(CPU, steps=5), figures) == []


@pytest.mark.process
def test_noise_on_the_codes_is_attacked_by_the_mean_of_draws(ask):
    flags = "--latent-noise", ".5", "--draws", "2", "--networks", "none4", "at_mmd4"
    with pytest.warns(UserWarning, match="--draws 2: attacks on noise take 20 draws or more"):
        found = ask("ot_classifier", "--preset", "smoke", *flags)
    assert found.status == 0, found.err
    assert found.figures["latent_std_min/none4"] > 0.4
    assert found.figures["robust/at_mmd4/min"] <= found.figures["accuracy/at_mmd4"]
