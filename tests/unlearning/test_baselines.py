"""The baselines of class unlearning: what each must leave alone, what it must reach, what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from subspace_jax import nn, training, trees
from subspace_jax.core import losses
from subspace_jax.unlearning import baselines
from subspace_jax.unlearning.baselines import METHODS, RECIPE

MODEL = nn.build("mlp", classes=3, widths=(16, 12))
KEY = jax.random.key(0)
PER_CLASS, BATCH = 20, 16
FAST = dataclasses.replace(RECIPE, lr=0.1, epochs=20, batch=BATCH)
ORIGINAL = training.Recipe(lr=0.05, epochs=8, batch=BATCH, weight_decay=0.0)  # its loss is not yet zero
FEW = dataclasses.replace(FAST, epochs=2)
FORGOTTEN = 2


def draw(seed):
    """Three clouds in eight dimensions, (x, y) of the classes that stay and of the last."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), PER_CLASS)
    x = (2 * np.eye(8)[y] + 0.4 * rng.normal(size=(len(y), 8))).astype(np.float32)
    gone = y == FORGOTTEN
    return (x[~gone], y[~gone]), (x[gone], y[gone])


RETAIN, FORGET = draw(0)
apply, init = jax.jit(MODEL.apply), jax.jit(MODEL.init)


def accuracy(variables, samples):
    return float((np.asarray(apply(variables, samples[0])).argmax(-1) == samples[1]).mean())


@pytest.fixture(scope="module")
def trained():
    both = tuple(np.concatenate(parts) for parts in zip(RETAIN, FORGET, strict=True))
    found = METHODS["retrain"](KEY, MODEL, {}, both, FORGET, recipe=ORIGINAL).variables
    assert accuracy(found, both) > 0.95
    return found


def call(name, variables, recipe=FAST, **options):
    return METHODS[name](KEY, MODEL, variables, RETAIN, FORGET, recipe=recipe, **options)


def mean_loss(variables, samples):
    log_p = log_softmax(np.asarray(apply(variables, samples[0])), axis=1)
    return float(-log_p[np.arange(len(log_p)), samples[1]].mean())


def test_the_names_are_those_of_the_field():
    names = "retrain, neggrad, neggrad_plus, finetune, random_labels, salun, ssd, scrub, unsir, cf_k, eu_k"
    assert ", ".join(METHODS) == names


COST = {  # forward, backward, in passes of one sample: 40 stay, 20 go, 2 epochs in batches of 16
    "retrain": (80, 80), "finetune": (80, 80), "cf_k": (80, 80), "eu_k": (80, 80),
    "neggrad": (32, 32), "neggrad_plus": (160, 160), "random_labels": (160, 160), "salun": (180, 180),
    "ssd": (60, 60), "scrub": (256, 128), "unsir": (1040, 1040),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_function_of_its_key_keeps_the_tree_and_counts_its_cost(name, trained):
    found, again = (call(name, trained, FEW) for _ in range(2))
    assert (found.forward, found.backward) == COST[name]
    found, again = found.variables, again.variables
    assert jax.tree.structure(found) == jax.tree.structure(trained)
    for old, new, same in zip(*map(jax.tree.leaves, (trained, found, again)), strict=True):
        assert new.dtype == old.dtype
        assert np.isfinite(new).all()
        np.testing.assert_array_equal(new, same)


@pytest.mark.parametrize("name", ["retrain", "neggrad", "neggrad_plus", "random_labels"])
def test_the_class_is_forgotten(name, trained):
    recipe = ORIGINAL if name == "retrain" else FAST
    found = call(name, trained, recipe).variables
    assert accuracy(trained, FORGET) > 0.95
    assert accuracy(found, FORGET) < 0.4
    if name != "neggrad":
        assert accuracy(found, RETAIN) > 0.9


def test_ascent_ends_by_itself(trained):
    """Ten times the steps do not take the network further than momentum carries it."""
    short, long = (call("neggrad", trained, dataclasses.replace(FAST, epochs=n)).variables for n in (100, 1000))
    assert accuracy(short, FORGET) == 0
    assert mean_loss(long, FORGET) == pytest.approx(mean_loss(short, FORGET), rel=1e-3)


def test_fine_tuning_descends_where_the_loss_is_not_yet_zero(trained):
    start = init(KEY, RETAIN[0][:1])
    assert mean_loss(call("finetune", start).variables, RETAIN) < 0.5 * mean_loss(start, RETAIN)


@pytest.mark.parametrize("name", ["random_labels", "salun"])
def test_labels_are_drawn_from_all_classes(name, trained, monkeypatch):
    seen = []
    module = __import__(f"subspace_jax.unlearning.baselines.{'descent' if name == 'random_labels' else name}",
                        fromlist=["descend"])  # fmt: skip
    original = module.descend
    monkeypatch.setattr(module, "descend", lambda *args, **kw: seen.append(args[3]) or original(*args, **kw))
    call(name, trained, FEW)
    retain, forget = seen[0]
    assert retain is RETAIN
    assert forget[0] is FORGET[0]
    counts = np.bincount(np.asarray(forget[1]), minlength=3)
    assert len(counts) == 3
    assert counts.min() > 0


def test_salun_moves_the_tenth_with_the_largest_summed_gradient(trained):
    @jax.jit
    @jax.grad
    def total(params):
        logits = MODEL.apply(trained | {"params": params}, FORGET[0])
        return losses.softmax_cross_entropy(logits, FORGET[1]).sum()

    found = call("salun", trained, dataclasses.replace(FAST, weight_decay=0.1)).variables["params"]
    gradient, old, new = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (total(trained["params"]), trained["params"], found)
    )
    largest = np.argsort(-np.abs(gradient))[: len(gradient) // 10]
    assert set(np.flatnonzero(new != old)) <= set(largest)
    assert np.mean(new[largest] != old[largest]) > 0.9


def test_ssd_dampens_by_the_squared_gradients_of_single_samples():
    """A linear network: grad of sample i with respect to W is x_i (p_i - e_y)'."""
    model = nn.from_function(lambda key, x: {"w": jnp.zeros((8, 3))}, lambda params, x: x @ params["w"])
    w = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)

    def importance(x, y):
        error = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True) - np.eye(3)[y]
        return np.mean([np.outer(a, b) ** 2 for a, b in zip(x, error, strict=True)], axis=0)

    stay, go = importance(*RETAIN), importance(*FORGET)
    chosen = go > 10 * stay
    assert 0 < chosen.sum() < w.size
    variables = {"params": {"w": jnp.asarray(w)}, "batch_stats": {}}
    found = baselines.ssd(KEY, model, variables, RETAIN, FORGET)
    np.testing.assert_allclose(found.variables["params"]["w"], np.where(chosen, w * stay / go, w), rtol=2e-5)
    assert found.forward == found.backward == 3 * PER_CLASS


def test_scrub_has_nothing_to_distil_at_the_teacher_and_is_far_after_its_ascent():
    scrub = __import__("subspace_jax.unlearning.baselines.scrub", fromlist=["kl"])
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    kl = jax.jit(scrub.kl)
    np.testing.assert_array_equal(kl(teacher, teacher), 0)
    p, q = (np.exp(z / 4) / np.exp(z / 4).sum(1, keepdims=True) for z in (teacher, student))
    np.testing.assert_allclose(kl(teacher, student), 16 * (p * np.log(p / q)).sum(1), rtol=1e-3)


def test_scrub_keeps_what_stays_and_leaves_what_goes():
    """From a network that is not at its optimum, so that the first descent sets the ascent off."""
    start = init(KEY, RETAIN[0][:1])
    found = call("scrub", start).variables
    assert mean_loss(found, RETAIN) < mean_loss(start, RETAIN)
    assert mean_loss(found, FORGET) > mean_loss(start, FORGET)


def test_unsir_learns_inputs_that_the_network_gets_wrong(trained):
    unsir = __import__("subspace_jax.unlearning.baselines.unsir", fromlist=["learn_noise"])
    noise = unsir.learn_noise(KEY, MODEL, trained, FORGET)
    assert noise.variables["params"].shape == FORGET[0].shape
    assert mean_loss(trained, (noise.variables["params"], FORGET[1])) > 10 * mean_loss(trained, FORGET)
    assert accuracy(trained, (noise.variables["params"], FORGET[1])) < 0.1


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("last", [1, 2])
def test_layers_before_the_last_k_stay_bit_for_bit(name, last, trained):
    found = call(name, trained, dataclasses.replace(FEW, weight_decay=0.1), last=last).variables
    moved = {
        path.split("/")[0]
        for path, leaf in trees.flatten(found["params"]).items()
        if not np.array_equal(leaf, trees.flatten(trained["params"])[path])
    }
    assert moved == set(["dense0", "dense1", "head"][-last:])


def test_eu_k_starts_anew_and_cf_k_where_it_was(trained):
    """After steps too small to matter."""
    still = dataclasses.replace(FEW, lr=1e-9)
    kernels = [call(name, trained, still).variables["params"]["head"]["kernel"] for name in ("cf_k", "eu_k")]
    old = trained["params"]["head"]["kernel"]
    np.testing.assert_allclose(kernels[0], old, atol=1e-6)
    assert np.abs(kernels[1] - old).min() > 1e-6


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_frozen_convolutions_keep_their_running_statistics(name):
    model = nn.build("resnet20", classes=3, blocks=(1,), width=2)
    x, y = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype(np.float32), np.arange(12) % 3
    before = jax.jit(model.init)(KEY, x)
    after = METHODS[name](KEY, model, before, (x, y), (x, y), recipe=dataclasses.replace(FEW, batch=4)).variables
    for path, leaf in trees.flatten(after).items():
        same = np.array_equal(leaf, trees.flatten(before)[path])
        assert same == (not path.startswith("params/head")), path


@pytest.mark.parametrize("name", ["finetune", "unsir"])  # through `descend`, as all but ssd, and scrub's own epochs
def test_no_epoch_is_refused(name, trained):
    with pytest.raises(ValueError, match="a run needs at least one step; got 0"):
        call(name, trained, dataclasses.replace(FAST, epochs=0))


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("last", [0, 4])
def test_more_layers_than_there_are_is_refused(name, last, trained):
    with pytest.raises(ValueError, match=rf"k in \[1, 3\]; got {last}"):
        call(name, trained, last=last)


def test_an_empty_set_is_refused(trained):
    with pytest.raises(ValueError, match=r"finetune takes samples of each set; got \[0\]"):
        baselines.finetune(KEY, MODEL, trained, (RETAIN[0][:0], RETAIN[1][:0]), FORGET)
