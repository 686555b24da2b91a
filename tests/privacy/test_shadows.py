"""Shadow models: each as if trained alone, all on disk, continued where they were stopped."""

import json

import jax
import numpy as np
import pytest

from subspace_jax import nn, training
from subspace_jax.privacy import shadows, zeroth_order
from subspace_jax.privacy.masks import shadow_masks

CLOSE = 2e-4  # logits after a dozen steps; other groups round differently
N, TEST, EPOCHS, BATCH, MODELS = 40, 7, 2, 8, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N + TEST, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)[:N]
KEEP = shadow_masks(jax.random.key(5), MODELS, N)
MODEL = nn.build("mlp", classes=2, widths=(8,))
TX = training.optimizer(training.Recipe(lr=0.1), EPOCHS * 2)
KEY = jax.random.key(3)


def train(directory, *, keep=KEEP, model=MODEL, key=KEY, x=X[:N], y=Y, **more):
    options = {"epochs": EPOCHS, "batch": BATCH, "inputs": X} | more
    return shadows.train(key, model, TX, (x, y), keep, directory, **options)


def curvature(own):
    apply = shadows.stacked(MODEL.apply)

    def score(x):
        return zeroth_order.zeroth_order(KEY, apply, own, x, Y, probes=1)

    return shadows.ask(score, X[:N])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shadows")
    return folder, train(folder, measures={"curvature": curvature})


def test_each_model_is_what_training_it_alone_gives(whole):
    _, arrays = whole
    assert arrays["logits"].shape == (MODELS, 1, N + TEST, 2)
    assert arrays["logits"].dtype == np.float32
    assert isinstance(arrays["logits"], np.memmap)
    create = jax.jit(lambda key: training.create(key, MODEL, TX, X[:1]))
    epoch = training.train_epoch(MODEL, TX, batch=BATCH)
    for t in (0, MODELS - 1):
        rows = np.flatnonzero(KEEP[t])
        state, _ = training.fit(epoch, create(jax.random.fold_in(KEY, t)), (X[rows], Y[rows]), epochs=EPOCHS)
        own = training.variables(state)
        np.testing.assert_allclose(arrays["logits"][t, 0], training.predict(MODEL.apply, own, X), atol=CLOSE)
        alone = zeroth_order.zeroth_order(KEY, MODEL.apply, own, X[:N], Y, probes=1)
        np.testing.assert_allclose(arrays["curvature"][t, 0], alone, rtol=0.05, atol=1e-5)


def test_groups_of_any_size_and_either_loop_give_the_same(whole, tmp_path):
    apart = train(tmp_path, group=4, loop="map")
    np.testing.assert_allclose(apart["logits"], whole[1]["logits"], atol=CLOSE)


def test_a_stopped_run_goes_on_behind_its_last_group(whole, tmp_path, monkeypatch):
    trained, real = [], training.train_many

    def stopping(*args, first, **more):
        if first == 4 and not trained.count("stopped"):
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(first)
        return real(*args, first=first, **more)

    monkeypatch.setattr(training, "train_many", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, group=2)
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 4
    found = train(tmp_path, group=2)
    assert trained == [0, 2, "stopped", 4]
    np.testing.assert_allclose(found["logits"], whole[1]["logits"], atol=CLOSE)
    again = train(tmp_path, group=2)
    assert len(trained) == 4, "a finished run was trained again"
    np.testing.assert_array_equal(again["logits"], found["logits"])
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), found["logits"])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"epochs": 3}, "epochs"),
        ({"key": jax.random.key(4)}, "key"),
        ({"keep": KEEP[::-1]}, "keep"),
        ({"y": 1 - Y}, "data"),
        ({"inputs": X[:N]}, "inputs"),
        ({"recipe": {"lr": 1}}, "recipe"),
        ({"model": nn.build("mlp", classes=2, widths=(9,))}, "network"),
    ],
)
def test_another_run_is_not_continued(whole, changed, what):
    with pytest.raises(ValueError, match=f"holds shadow models with another {what}: give another directory"):
        train(whole[0], **({"measures": {"curvature": curvature}} | changed))


def test_several_networks_answer_together_or_in_turn(monkeypatch):
    several = {"w": RNG.normal(size=(5, 6, 3)).astype(np.float32)}
    found = []
    for backend in ("cpu", "gpu"):
        shadows.stacked.cache_clear()
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found.append(shadows.stacked(lambda own, x: x @ own["w"], "vmap")(several, X))
    np.testing.assert_allclose(found[0], np.einsum("nd,mdc->nmc", X, several["w"]), atol=CLOSE)
    np.testing.assert_allclose(*found, atol=CLOSE)


def test_two_queries_are_images_and_their_mirror_images():
    images = RNG.normal(size=(3, 4, 4, 1)).astype(np.float32)
    several = {"w": RNG.normal(size=(5, 4)).astype(np.float32)}

    def apply(own, x):
        return x[:, 0, :, 0] * own["w"][None]

    for loop in ("vmap", "map"):
        network = shadows.stacked(apply, loop)
        found = shadows.ask(lambda part, network=network: np.moveaxis(network(several, part), 1, 0), images, 2)
        assert found.shape == (5, 2, 3, 4)
        plain = images[None, :, 0, :, 0] * several["w"][:, None]
        np.testing.assert_allclose(found[:, 0], plain, rtol=1e-6)
        np.testing.assert_allclose(found[:, 1], images[None, :, 0, ::-1, 0] * several["w"][:, None], rtol=1e-6)


UNEQUAL = KEEP.copy()
UNEQUAL[1] = False
UNEQUAL[1, :3] = True


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keep": KEEP.astype(int)}, r"keep is boolean \(models, 40\), .*; got int64 \(6, 40\)"),
        ({"keep": KEEP[:, :-1]}, r"got bool \(6, 39\)"),
        ({"keep": KEEP[0]}, r"got bool \(40,\)"),
        ({"keep": KEEP[:1]}, "2 or more that train on equally many samples; got 1 with 20 to 20"),
        ({"keep": UNEQUAL}, "got 6 with 3 to 20"),
        ({"keep": KEEP & False}, "got 6 with 0 to 0"),
        ({"queries": 3}, "queries is 1, or 2"),
        ({"queries": 2}, r"mirrors images \(n, h, w, channels\); got inputs of shape \(47, 6\)"),
        ({"y": Y[1:]}, "one entry per sample"),
        ({"inputs": X * np.nan}, "inputs must be finite"),
        ({"batch": 21}, "20 samples, fewer than batch 21"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(changed, message, tmp_path, unchecked):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()
