"""Checkpoints: resumed bit for bit, loaded by anyone, and what is said where files are damaged or cannot be written."""

import collections
import errno
import json
import logging
import re
import resource
import shutil

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import checkpoint, data, nn, training
from subspace_jax.checkpoint import folder as folders
from subspace_jax.checkpoint import sums

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


def run(folder, *, die_at=None, how=Killed, **options):
    def update(carry, state, epoch):
        if epoch == die_at:
            raise how
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


@pytest.mark.parametrize("die_at", [3, 5])
def test_ctrl_c_keeps_the_last_finished_epoch(whole, tmp_path, die_at):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", die_at=die_at, how=KeyboardInterrupt, save_every=EPOCHS)
    assert checkpoint.epochs(tmp_path / "run") == [die_at]
    chex.assert_trees_all_equal(run(tmp_path / "run", save_every=EPOCHS), whole[1])


def test_a_finished_run_is_only_read(whole):
    folder, result = whole
    chex.assert_trees_all_equal(run(folder, die_at=0), result)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_load_model_from_run_checkpoints_or_seed_folder(whole, up):
    folder, (state, _) = whole
    path = [folder, *folder.parents][up]
    model, variables, config = checkpoint.load_model(path, seed=7)
    assert checkpoint.load_config(path, seed=7) == config
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
    with pytest.raises(ValueError, match=r"does not fit the given model: .*bias is of shape \(2,\) in .* \(3,\) here"):
        checkpoint.load_model(folder, model=nn.build("mlp", **KWARGS | {"classes": 3}))
    with pytest.raises(ValueError, match=r"no whole checkpoint of epoch 3; kept are 2, 4, 6: give one of them"):
        checkpoint.load_model(folder, epoch=3)
    with checkpoint.manager(tmp_path / "own") as to:
        checkpoint.save(to, 1, start(), config=CONFIG | {"model": {"name": "mine", "kwargs": {}}})
    with pytest.raises(ValueError, match=r"no network 'mine'.*needs load_model\(path, model=\.\.\.\)"):
        checkpoint.load_model(tmp_path / "own")
    _, variables, _ = checkpoint.load_model(tmp_path / "own", model=MODEL)
    chex.assert_trees_all_equal(variables["params"], start().params)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "seed7")


def cut(folder, pattern):
    """Half of every file that matches."""
    for path in folder.glob(pattern):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "pattern",
    ["config/metadata", "variables/_METADATA", "variables/manifest.ocdbt", "variables/d/*"],
)
def test_a_cut_file_is_told_in_one_sentence_with_the_epoch_that_is_whole(copy, pattern, caplog):
    cut(copy, f"6/{pattern}")
    cut(copy, "4/state/d/*")
    item = pattern.split("/")[0]
    with pytest.raises(
        ValueError, match=rf"seed7/6 is damaged: files of its {item} .*epoch 2 is whole: .*--epoch 2"
    ) as told:
        checkpoint.load_model(copy)
    assert "\n" not in str(told.value)
    assert not caplog.records
    assert checkpoint.load_model(copy, epoch=2)[2]["epoch"] == 2


@pytest.mark.parametrize("pattern", ["state/_METADATA", "state/d/*"])
def test_a_run_with_a_cut_checkpoint_says_how_to_go_on(whole, copy, pattern):
    cut(copy, f"6/{pattern}")
    with pytest.raises(
        ValueError, match=r"6 is damaged: files of its state.*; epoch 4 is whole: move the folder 6 away"
    ):
        run(copy)
    (copy / "6").rename(copy / "away")
    chex.assert_trees_all_equal(run(copy), whole[1])


def test_where_nothing_is_whole(copy):
    cut(copy, "*/config/metadata")
    with pytest.raises(ValueError, match=r"6 is damaged: files of its config .*; none else is whole"):
        checkpoint.load_model(copy)


def test_an_empty_newer_folder_hides_nothing(whole, copy):
    (copy / "8").mkdir()
    shutil.rmtree(copy / "6" / "variables")
    with pytest.warns(UserWarning, match="8 lacks variables, state and config; epoch 4 is used"):
        assert checkpoint.load_model(copy)[2]["epoch"] == 4
    assert checkpoint.epochs(copy) == [2, 4]
    with pytest.warns(UserWarning, match="it is now 6.incomplete"):
        chex.assert_trees_all_equal(run(copy, save_every=2), whole[1])
    assert sorted(path.name for path in copy.iterdir()) == ["6", "6.incomplete", "8.incomplete"]


def test_nothing_but_an_empty_folder(tmp_path):
    (tmp_path / "3").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no epoch in .* is whole: 3 lacks variables, state and config"):
        checkpoint.load_model(tmp_path)


def test_a_run_with_another_optimizer_is_refused(copy):
    state = training.create(jax.random.key(1), MODEL, training.optimizer(training.Recipe(optimizer="adam"), 10), X[:1])
    carries = training.initial_carries({"sum": training.Hook(jnp.zeros(N), lambda *now: now[0])}, EPOCHS)
    with checkpoint.manager(copy) as source, pytest.raises(ValueError, match="6 does not fit this run: opt_state/"):
        checkpoint.restore(source, state, carries)


def test_the_state_of_a_run_is_no_network(tmp_path):
    with checkpoint.manager(tmp_path) as to:
        checkpoint.save(to, 1, start(), config={"label": "agents"})
        assert checkpoint.restore(to, start())[0] == 1  # also right after saving
    with pytest.raises(ValueError, match="not a network: its config has no model and no input_shape"):
        checkpoint.load_model(tmp_path)


def test_a_limit_on_file_sizes_while_saving(tmp_path, caplog):
    """A real one: TensorStore's own words are "OUT_OF_RANGE: Error writing"."""
    noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)  # does not compress
    large = start()._replace(params={"w": noise})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.manager(tmp_path) as to:
        checkpoint.save(to, 1, start(), config=CONFIG)
        to.wait_until_finished()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            checkpoint.save(to, 2, large, config=CONFIG)
            with pytest.raises(checkpoint.NotSavedError, match=r"File too large.: free space or .*; epoch 1 is whole"):
                to.wait_until_finished()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.epochs(tmp_path) == [1]
    assert not caplog.records  # Orbax' threads would log two pages


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "?"),
            OSError,
            r"No space left on device\): free space and continue with --resume; no epoch was",
        ),
        (ValueError("RESOURCE_EXHAUSTED: ..."), OSError, r"No space left on device\): free space and"),
        (OSError(errno.EROFS, "?"), OSError, r"Read-only file system\): make the folder writable and"),
        (ValueError("no text of the file system"), ValueError, "^no text of the file system$"),
    ],
)
def test_what_failed_while_saving(tmp_path, monkeypatch, error, raised, message):
    def fail(*args, **kwargs):
        raise error

    with checkpoint.manager(tmp_path) as to:
        monkeypatch.setattr(folders.ocp.CheckpointManager, "save", fail)
        with pytest.raises(raised, match=message):
            checkpoint.save(to, 1, start(), config=CONFIG)


def test_an_equinox_module_is_split_first(tmp_path):
    module = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    state = start()._replace(params=module)
    with checkpoint.manager(tmp_path) as to:
        with pytest.raises(ValueError, match=r"arrays, but params/activation is .*eqx.partition"):
            checkpoint.save(to, 1, state, config=CONFIG)
        state = state._replace(params=eqx.partition(module, eqx.is_array)[0])
        checkpoint.save(to, 1, state, config=CONFIG)
        chex.assert_trees_all_equal(checkpoint.restore(to, state)[1].params, state.params)
    model = nn.from_function(lambda key, x: module, lambda params, x: jax.vmap(params)(x))
    with pytest.raises(ValueError, match=r"its init gives others too; .*eqx.partition"):
        checkpoint.load_model(tmp_path, model=model)


def test_errors_of_files_read_beside_the_damaged_one_are_not_logged(copy, caplog):
    cut(copy, "6/variables/d/*")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load_model(copy)
    logger = logging.getLogger("asyncio")
    logger.error("Future exception was never retrieved\nfuture: <Future [tensorstore_spec='{}']>")
    logger.error("of somebody else")
    assert [record.getMessage() for record in caplog.records] == ["of somebody else"]


def flip(path, position):
    """One bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def test_a_changed_bit_in_a_large_array_is_found(tmp_path):
    """The file format does not notice: it computes with another weight."""
    noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)  # does not compress
    large = start()._replace(params={"w": noise})
    with checkpoint.manager(tmp_path) as to:
        checkpoint.save(to, 1, large, config=CONFIG)
        chex.assert_trees_all_equal(checkpoint.restore(to, large)[1].params, large.params)
        (values,) = (path for path in tmp_path.glob("1/variables/**/d/*") if path.stat().st_size > 100_000)
        flip(values, 200_000)
        with pytest.raises(ValueError, match=r"1 is damaged: files of its variables .*; none else is whole: move the"):
            checkpoint.restore(to, large)


def test_a_changed_digit_of_a_config_is_found(copy):
    path = copy / "6" / "config" / "metadata"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(ValueError, match=r"6 is damaged: files of its config .*; epoch 4 is whole: give epoch=4"):
        checkpoint.load_config(copy)


def test_checkpoints_of_before_there_were_sums_are_read(whole, copy):
    path = copy / "6" / "config" / "metadata"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "sums"}))
    chex.assert_trees_all_equal(checkpoint.load_model(copy)[1], training.variables(whole[1][0]))


def test_sums_tell_leaves_places_and_keys_apart_and_take_them_in_any_order():
    x = np.arange(4, dtype=np.float32)
    trees = [{"a": x}, {"b": x}, {"a": -x}, {"a": x, "b": x[:0]}, {"a": jax.random.key(0)}, {"a": jax.random.key(1)}]
    found = [tuple(sums.of_tree(tree)) for tree in trees]
    assert len(set(found)) == len(trees)
    Pair = collections.namedtuple("Pair", ["b", "a"])
    assert sums.of_tree(Pair(x, -x)) == sums.of_tree({"a": -x, "b": x})
    assert not sums.differs([16, 0], {"a": x.astype(np.float16)})  # cast: nothing is known
    assert sums.differs([16, 0], {"a": x})


@pytest.mark.process
@pytest.mark.parametrize("damage", ["half", "empty", "deleted", "flipped"])
def test_no_damaged_file_is_computed_with(whole, tmp_path, damage):
    """Every file of the latest epoch: one sentence, or the damage was of no consequence."""
    folder, result = whole
    names = sorted(path.relative_to(folder) for path in folder.glob("6/**/*") if path.is_file())
    told = []
    for number, name in enumerate(names):
        copy = shutil.copytree(folder, tmp_path / str(number) / "seed7")
        path, raw = copy / name, (folder / name).read_bytes()
        if damage == "deleted":
            path.unlink()
        elif damage == "flipped":
            flip(path, len(raw) // 3)
        else:
            path.write_bytes(raw[: len(raw) // 2 if damage == "half" else 0])
        for read, expected in (
            (lambda copy=copy: checkpoint.load_model(copy)[1], training.variables(result[0])),
            (lambda copy=copy: run(copy), result),
        ):
            try:
                chex.assert_trees_all_equal(read(), expected)
            except ValueError as error:
                told.append(str(error).replace(str(copy), ""))
    assert len(told) >= 2 * 3  # of each item at least one file
    assert all(re.match(r"the checkpoint /6 is damaged: files of its [a-z]+ are .*; epoch 4 is whole", t) for t in told)
    assert "\n" not in "".join(told)
