"""Networks that differ in one layer, at small size: figures, the saved networks, refusals, claims."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import robust_layer
from experiments.families import classifier
from experiments.robust_layer import experiment, methods, protocol
from subspace_jax import data, nn

SMOKE, CPU = robust_layer.PRESETS["smoke"], robust_layer.PRESETS["cpu"]
USUAL = "pgd", "margin", "dlr", "long", "restarts", "square"
OF = classifier.on_pixels(nn.build("mlp", widths=(6,), classes=0), (0.2,), (0.5,))
X = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype(np.float32)


def stage(run, name):
    with np.load(run.workdir / "stages" / f"seed0_{name}.npz") as found:
        return dict(found)


def test_every_network_and_attack_has_its_figures(finished):
    figures = finished("robust_layer").figures
    for name in SMOKE.networks:
        more = [*(["transfer"] if name != "dense" else []), *(methods.SURROGATES if name == "npl" else [])]
        robust = {key.split("/")[2]: value for key, value in figures.items() if key.startswith(f"robust/{name}/")}
        assert set(robust) == {*USUAL, *more, "min"}
        assert robust["min"] <= min(robust.values()) <= figures[f"accuracy/{name}"]
        assert {f"masked/{name}", f"gradient_norm/{name}", f"margin_ratio/{name}"} <= set(figures)
        curve = [figures[f"pgd_{eps}/{name}"] for eps in (0.05, 0.1, 0.2, 1)]
        assert max(curve) <= figures[f"accuracy/{name}"]
        assert curve[1] == robust["pgd"]
    assert finished("robust_layer").line["claims"] == []


def test_saved_networks_give_the_accuracies(finished):
    run = finished("robust_layer")
    config = dataclasses.replace(SMOKE, workdir=str(run.workdir))
    shared, arrays = classifier.setup(config), stage(run, "networks")
    test = data.load("digits", "test")
    x, y = test["image"][: SMOKE.images] / np.float32(16), test["label"][: SMOKE.images]
    for name in SMOKE.networks:
        logits = protocol.function(config, shared, arrays, 0, name)(jnp.asarray(x))
        assert run.figures[f"accuracy/{name}"] == pytest.approx((np.asarray(logits).argmax(1) == y).mean())
    labels = arrays["source/label"]
    assert len(labels) == SMOKE.table_size
    position = arrays["npl/batch_stats/position"]
    of = methods.encoder(config, shared)
    again = protocol.features(of, protocol.nested(arrays, "npl"), arrays["source/image"])
    np.testing.assert_allclose(position, again, rtol=1e-4, atol=1e-5)  # refreshed after the last epoch


def variables_of(model):
    return model.init(jax.random.key(0), X)


def test_a_bounded_network_has_kernels_of_norm_one_before_its_head():
    variables = variables_of(methods.dense(OF, 3, 4))
    grown = jax.tree.map(lambda leaf: 5 * leaf, variables)
    limited = methods.limited(grown["params"])
    for part in (limited["encoder"]["dense0"], limited["embedding"]):
        assert np.linalg.norm(part["kernel"], 2) <= 1 + 1e-5
    np.testing.assert_array_equal(limited["head"]["kernel"], grown["params"]["head"]["kernel"])
    plain = methods.dense(OF, 3, 4).apply({"params": limited, "batch_stats": grown["batch_stats"]}, X)
    np.testing.assert_allclose(methods.dense(OF, 3, 4, True).apply(grown, X), plain, rtol=1e-4, atol=1e-5)


def test_the_spectral_norm_and_its_gradient_are_those_of_the_svd():
    for shape in ((3, 7), (7, 3)):
        w = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        value, slope = jax.value_and_grad(methods.spectral_norm)(w)
        u, s, vt = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
        np.testing.assert_allclose(value, s[0], rtol=1e-5)
        np.testing.assert_allclose(slope, np.outer(u[:, 0], vt[0]), atol=1e-5)


def table_of(variables, entries=5):
    h = OF.apply(methods.inner(variables), X)
    params = variables["params"] | {"embedding": methods.affine(variables["params"]["embedding"], h)[:entries]}
    return {"params": params, "batch_stats": variables["batch_stats"] | {"position": h[:entries]}}


def test_one_neighbour_among_the_samples_themselves_is_the_dense_network():
    variables = variables_of(methods.dense(OF, 3, 4))
    expected = methods.dense(OF, 3, 4).apply(variables, X)
    found = methods.looked_up(OF, neighbors=1)(table_of(variables), X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_votes_are_logarithms_of_label_shares():
    labels = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    flat = X[:3].reshape(3, -1)
    variables = {"params": {"embedding": jnp.asarray(labels)}, "batch_stats": {"position": jnp.asarray(flat)}}
    read = methods.looked_up(None, neighbors=None, weighting="constant", tau=2.0, votes=True)
    found = read(variables, jnp.asarray(X))
    weights = np.exp(-((X.reshape(5, 1, -1) - flat) ** 2).sum(2) / 2)
    shares = weights / weights.sum(1, keepdims=True) @ labels
    np.testing.assert_allclose(found, np.log(shares + 1e-3), rtol=1e-4)


@pytest.mark.parametrize("average", [False, True])
def test_fine_tuning_moves_positions_only_by_the_average(average):
    table = table_of(variables_of(methods.dense(OF, 3, 4)))
    objective = methods.through_layer(OF, neighbors=2, weighting="adaptive", weight=0.1, average=average)
    batches = ((X, jnp.array([0, 1, 2, 3, 0])),)
    loss = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (value, stats), grads = loss(table["params"], table["batch_stats"], batches, None, jax.random.key(0))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["embedding"]).max() > 0
    assert bool((stats["position"] == table["batch_stats"]["position"]).all()) != average


def test_every_attack_is_tried_at_the_other_strengths_too(finished):
    for name in SMOKE.networks:
        arrays = stage(finished("robust_layer"), name)
        usual = {key.split("/")[1] for key in arrays if key.startswith("right/")}
        assert {key.split("/")[1] for key in arrays if key.startswith("weaker/")} == usual
        assert all(arrays[f"weaker/{kind}"].shape == (1, SMOKE.images) for kind in usual)
        assert arrays["weaker/pgd"].mean() == arrays["curve"][arrays["strengths"].tolist().index(0.05)]


def test_a_hardened_objective_is_that_of_attacked_images():
    table = table_of(variables_of(methods.dense(OF, 3, 4)))
    plain = methods.through_layer(OF, neighbors=2, weighting="adaptive", weight=0.0, average=False)
    model = methods.dense(OF, 3, 4)._replace(apply=methods.looked_up(OF, neighbors=2))
    batches, key = ((jnp.asarray(X), model.apply(table, X).argmax(1)),), jax.random.key(0)
    given = table["params"], table["batch_stats"], batches, None, key
    expected, _ = plain(*given)
    np.testing.assert_allclose(methods.hardened(plain, model, 0.0)(*given)[0], expected, rtol=1e-6)
    hard = jax.jit(jax.value_and_grad(methods.hardened(plain, model, 0.3), has_aux=True))
    (value, stats), slope = hard(*given)
    assert value > expected
    assert np.abs(slope["embedding"]).max() > 0
    np.testing.assert_array_equal(stats["position"], table["batch_stats"]["position"])


def test_the_reference_comes_first_and_a_brought_network_last():
    config = dataclasses.replace(SMOKE, networks=("npl", "dense"), checkpoint="runs/1")
    assert protocol.listed(config) == ("dense", "npl", "given")


@pytest.mark.process
def test_a_layer_is_trained_on_attacked_images_and_apgd_joins(ask):
    found = ask("robust_layer", "--preset", "smoke", "--networks", "npl_adversarial", "dense", "--adaptive", "4")
    assert {f"robust/{name}/apgd_{kind}" for name in ("dense", "npl_adversarial") for kind in ("ce", "dlr")} <= set(
        found.figures
    )
    assert "robust/adversarial/min" not in found.figures


def test_the_report_says_what_it_must(finished):
    page = (finished("robust_layer").workdir / "report.html").read_text()
    for said in ("right under all attacks", "smoother forms of the layer", "Can it be believed?", "What decided"):
        assert said in page


@pytest.mark.parametrize(("flags", "message"), [
    (("--networks", "dense", "wide"), "--networks: there is no 'wide'; there are dense, dense_decay"),
    (("--networks", "npl"), "dense is the reference of all others"),
    (("--neighbors", "61"), "--neighbors are 1 to --table-size 60; got 61"),
    (("--restarts", "1"), "--restarts at least 2"),
    (("--adaptive", "-1"), "--adaptive are steps of APGD, 0 for none; got -1"),
    (("--eps", "8"), "8 instead of 8/255?"),
    (("--table-size", "301"), "--table-size is at most the 300 training samples"),
    (("--neighbor-weight", ".1", "--neighbors", "32"), "needs --batch above --neighbors 32; got 32"),
])  # fmt: skip
def test_flags_without_a_meaning_are_refused(refuse, flags, message):
    refuse("robust_layer", *flags, message=message)


def test_claims_belong_to_the_fixed_recipe_alone():
    figures = {f"robust/{name}/min": 0.5 for name in methods.NETWORKS} | {"robust/npl/pgd": 0.6}
    figures |= {"accuracy/npl": 0.9, "accuracy/dense": 0.9}
    assert [claim.holds for claim in experiment.claims(CPU, figures)] == [False, True, True, False]
    assert experiment.claims(dataclasses.replace(CPU, steps=5), figures) == []
