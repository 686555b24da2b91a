import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import checkpoint, data, nn, training

N, BATCH, EPOCHS = 40, 8, 6
X = np.asarray(jax.random.normal(jax.random.key(0), (N, 4)))
Y = (X[:, 0] > 0).astype(np.int32)
KWARGS = {"classes": 2, "widths": [8], "norm": "batch"}
MODEL = nn.build("mlp", **KWARGS)
TX = training.optimizer(training.Recipe(lr=0.1), EPOCHS * (N // BATCH))
CONFIG = {"model": {"name": "mlp", "kwargs": KWARGS}, "input_shape": [4], "seed": 7, "scaling": [1.0, [0.0], [1.0]]}
EPOCH = training.train_epoch(MODEL, TX, batch=BATCH)


class Killed(Exception):
    pass


def start():
    return training.create(jax.random.key(1), MODEL, TX, X[:1])


def run(folder, *, die_at=None, **options):
    def update(carry, state, epoch):
        if epoch == die_at:
            raise Killed
        return carry + training.predict(MODEL.apply, training.variables(state), X)[:, 0]

    hooks = {"sum": training.Hook(jnp.zeros(N), update)}
    return checkpoint.resumable_fit(
        folder, EPOCH, start(), (X, Y), epochs=EPOCHS, config=CONFIG, hooks=hooks, **options
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "checkpoints" / "seed7"
    return folder, run(folder, save_every=2, keep_every=2)


@pytest.mark.parametrize("die_at", [0, 3, 5])
def test_a_run_that_died_ends_bit_for_bit_like_one_that_did_not(whole, tmp_path, die_at):
    with pytest.raises(Killed):
        run(tmp_path / "run", die_at=die_at, save_every=2)
    chex.assert_trees_all_equal(run(tmp_path / "run", save_every=2), whole[1])


def test_a_finished_run_is_only_read(whole):
    folder, result = whole
    chex.assert_trees_all_equal(run(folder, die_at=0), result)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_load_model_from_run_checkpoints_or_seed_folder(whole, up):
    folder, (state, _) = whole
    path = [folder, *folder.parents][up]
    model, variables, config = checkpoint.load_model(path, seed=7)
    chex.assert_trees_all_equal(variables, training.variables(state))
    chex.assert_trees_all_close(model.apply(variables, X), MODEL.apply(training.variables(state), X), atol=1e-6)
    assert config["epoch"] == EPOCHS
    assert config["versions"]["jax"] == jax.__version__
    assert data.Scaling(*config["scaling"]).divisor == 1.0


def test_kept_epochs_and_seeds_are_listed(whole):
    folder, _ = whole
    assert checkpoint.epochs(folder) == [2, 4, 6]
    assert checkpoint.seeds(folder.parent.parent) == checkpoint.seeds(folder) == [7]
    _, early, _ = checkpoint.load_model(folder, epoch=2)
    assert not np.allclose(early["params"]["head"]["kernel"], whole[1][0].params["head"]["kernel"])


def test_keep_best_keeps_the_best(tmp_path):
    with checkpoint.manager(tmp_path / "best", keep=1, best="accuracy") as to:
        for epoch, accuracy in enumerate((0.5, 0.9, 0.7)):
            checkpoint.save(to, epoch, start(), config=CONFIG, metrics={"accuracy": accuracy})
            to.wait_until_finished()
    assert checkpoint.epochs(tmp_path / "best") == [1]


def test_what_cannot_be_loaded_is_named(whole, tmp_path):
    folder, _ = whole
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of seed 3.*there are seeds \[7\]"):
        checkpoint.load_model(folder.parent, seed=3)
    with pytest.raises(FileNotFoundError, match="give a run's workdir"):
        checkpoint.load_model(tmp_path)
    with pytest.raises(ValueError, match="does not fit model"):
        checkpoint.load_model(folder, model=nn.build("mlp", classes=3))
    with checkpoint.manager(tmp_path / "own") as to:
        checkpoint.save(to, 1, start(), config=CONFIG | {"model": {"name": "mine", "kwargs": {}}})
    with pytest.raises(ValueError, match=r"no network 'mine'.*needs load_model\(path, model=\.\.\.\)"):
        checkpoint.load_model(tmp_path / "own")
    _, variables, _ = checkpoint.load_model(tmp_path / "own", model=MODEL)
    chex.assert_trees_all_equal(variables["params"], start().params)
