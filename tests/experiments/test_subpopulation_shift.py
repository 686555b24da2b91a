"""Kinds that are trained on and kinds that are not, at small size: figures, groups, checkpoints, refusals, claims."""

import dataclasses
import functools

import numpy as np
import pytest

from experiments import subpopulation_shift
from experiments.subpopulation_shift import experiment, figures, methods, protocol, report
from subspace_jax import checkpoint, data, training
from subspace_jax.hierarchy import tree
from tests.hierarchy.trees import by_search

SMOKE, CPU = subpopulation_shift.PRESETS["smoke"], subpopulation_shift.PRESETS["cpu"]
KINDS = "accuracy", "cc", "severity", "accuracy_level_1", "accuracy_level_2", "head_agreement"
DIGITS = tree.from_nested(methods.DIGITS, [str(k) for k in range(10)])


@functools.cache
def found():
    """Of the smoke preset: the data with its kinds, and both groups."""
    task = protocol.setup(SMOKE)
    return task, protocol.parts(SMOKE, task, 0, 0)


def stage(run, name):
    with np.load(run.workdir / "stages" / f"seed0_split0_{name}.npz") as arrays:
        return dict(arrays)


def test_figures_are_those_of_a_loop_over_answers(finished):
    run, d = finished("subpopulation_shift"), by_search(DIGITS)
    assert set(run.figures) == {
        *(f"{kind}/{group}/{name}" for kind in KINDS for group in ("seen", "unseen") for name in methods.METHODS),
        *(f"split_0/{kind}/unseen/{name}" for kind in ("accuracy", "cc") for name in methods.METHODS),
    }
    for name in methods.METHODS:
        arrays = stage(run, "flat" if name == "expected_distance" else name)
        for group in ("seen", "unseen"):
            said = arrays[f"{group}/near"] if name == "expected_distance" else arrays[f"{group}/heads"][-1]
            far = np.array([d[a, b] for a, b in zip(said, arrays[f"{group}/label"], strict=True)])
            assert run.figures[f"cc/{group}/{name}"] == pytest.approx(far.mean())
            assert run.figures[f"accuracy/{group}/{name}"] == pytest.approx((far == 0).mean())
            assert run.figures[f"severity/{group}/{name}"] == pytest.approx(far[far > 0].mean())
            assert run.figures[f"accuracy_level_1/{group}/{name}"] == pytest.approx((far < 6).mean())
    assert run.line["claims"] == []


def test_kinds_of_the_source_are_trained_on_and_the_others_never():
    task, parts = found()
    shared, (train, test) = task.source
    away = np.isin(train, (0, 1))
    np.testing.assert_array_equal(parts.task.label, shared.columns["label"][~away])
    assert set(parts.groups["seen"].number) == {2, 3}
    assert set(parts.groups["unseen"].number) == {0, 1}
    assert len(parts.groups["unseen"].label) == away.sum() + np.isin(test, (0, 1)).sum()
    assert len(parts.groups["seen"].label) == np.isin(test, (2, 3)).sum()
    np.testing.assert_array_equal(parts.own.columns["index"], shared.columns["index"][~away])
    assert protocol.splits(CPU, task) == [0, 1, 2]


def test_the_flat_network_is_a_checkpoint_that_names_its_samples(finished):
    run, (_, parts) = finished("subpopulation_shift"), found()
    model, variables, config = checkpoint.load_model(run.workdir / "checkpoints" / "flat_split0", seed=0)
    seen = parts.groups["seen"]
    x = data.scale(seen.raw, data.Scaling(**config["scaling"]))
    right = training.evaluate(model.apply, variables, x, seen.label)
    assert run.figures["accuracy/seen/flat"] == pytest.approx(float(right))
    assert config["subset"] == parts.own.columns["index"].tolist()


def test_the_gaussian_tree_is_drawn_by_the_seed():
    config = methods.recipe(dataclasses.replace(CPU, data=methods.GAUSSIAN))
    assert (config.widths, config.lr, config.epochs) == ((64, 64, 64), 0.02, 20)
    task = protocol.setup(config)
    assert task.tree.sizes == (3, 6, 12)
    assert protocol.splits(config, task) == [0]
    first, again, other = (protocol.parts(config, task, seed, 0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.task.x, again.task.x)
    assert np.abs(first.task.x - other.task.x).max() > 1
    assert first.task.x.shape == (12 * 2 * 60, 40)
    assert {len(group.label) for group in first.groups.values()} == {12 * 2 * 100}
    x, label, number = first.groups["unseen"]
    kinds = [x[(label == c) & (number == k)] for c in range(12) for k in (0, 1)]
    assert np.mean([kind.std(0) for kind in kinds]) == pytest.approx(1.2, rel=0.02)


def test_the_gaussian_tree_runs_without_images(ask):
    run = ask("subpopulation_shift", "--preset", "smoke", "--data", "gaussian_tree", "--methods", "flat", "joint",
              "--epochs", "1", "--widths", "8", "8", "--samples", "None")  # fmt: skip
    assert run.status == 0, run.err
    assert run.figures["accuracy/seen/joint"] > 1 / 12
    assert not (run.workdir / "checkpoints").exists()


@pytest.fixture
def superclasses(tmp_path):
    """A set with fine and coarse labels: 20 classes of 5 kinds."""
    rng, folder = np.random.default_rng(0), tmp_path / "sets" / "cifar100"
    folder.mkdir(parents=True)
    fine = np.tile(np.arange(100), 2)
    columns = {"label": fine, "coarse_label": rng.permutation(np.arange(100) % 20)[fine]}
    image = rng.integers(0, 256, (200, 4, 4, 3)).astype(np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", image=image, **columns)
    return str(tmp_path / "sets")


FINE = "--subpopulations", "fine", "--methods", "flat", "joint", "bcnn", "--epochs", "1", "--widths", "8", "8"


def test_fine_classes_are_kinds_of_their_superclass(ask, superclasses):
    run = ask("subpopulation_shift", "--preset", "smoke", "--data", "cifar100", "--data-dir", superclasses, *FINE,
              "--split", "2")  # fmt: skip
    assert run.status == 0, run.err
    config = dataclasses.replace(SMOKE, data="cifar100", data_dir=superclasses, subpopulations="fine", split="all")
    task = protocol.setup(methods.recipe(config))
    assert (task.tree.sizes, task.kinds, protocol.splits(config, task)) == ((4, 9, 20), 5, [0, 1, 2])
    parts = protocol.parts(methods.recipe(config), task, 0, 2)
    assert set(parts.groups["unseen"].number) == {0, 4}
    assert len(parts.task.label) == 20 * 3 * 2


def test_stages_and_trees_of_ones_own(ask, tmp_path):
    (tmp_path / "own.json").write_text('{"round": [0, 6, 8, 9], "other": [1, 2, 3, 4, 5, 7]}')
    run = ask("subpopulation_shift", "--preset", "smoke", "--tree", "own.json", "--stages", "dense0", "dense1",
              "--methods", "flat", "sequential", "--epochs", "1")  # fmt: skip
    assert run.status == 0, run.err
    assert "accuracy_level_1/unseen/sequential" in run.figures
    assert "accuracy_level_2/unseen/sequential" not in run.figures


def test_a_path_goes_from_class_to_class():
    place = figures.places(DIGITS)
    for one, other in ((0, 4), (3, 5), (1, 9)):
        curve = figures.path(DIGITS, place, one, other)
        np.testing.assert_allclose(
            curve[[0, -1]], 0.9 * np.stack([place[2, one], place[2, other]]) + 0.1 * curve[[0, -1]]
        )
    assert np.linalg.norm(figures.path(DIGITS, place, 1, 9), axis=1).min() < 0.5  # by the root
    assert np.linalg.norm(figures.path(DIGITS, place, 3, 5), axis=1).min() > 0.6  # by their parent


def test_the_report_says_what_helps(finished):
    page = (finished("subpopulation_shift").workdir / "report.html").read_text()
    for said in ("What of it helps?", "The tree with its mistakes", "More mistakes or worse ones?", "Split by split"):
        assert said in page
    cc = {"cc/unseen/flat": 1.0, "cc/unseen/multitask": 0.9, "cc/unseen/joint": 0.8, "cc/unseen/flat3": 1.1}
    config = dataclasses.replace(CPU, methods=("flat", "flat3", "multitask", "joint"))
    text = report.told(config, cc)
    assert "by 0.200, 20.0% of it" in text
    assert "the conditions add 50% of the gain. Three updates a batch alone change the distance by +0.100" in text
    assert "does not lower" in report.told(config, cc | {"cc/unseen/joint": 1.0})


@pytest.mark.parametrize(("flags", "message"), [
    (("--methods", "joint"), "all are compared with flat; add it"),
    (("--methods", "flat", "tall"), "there is no 'tall'; there are flat, flat3"),
    (("--per-class", "1"), "a shift inside a class takes at least 2 kinds; got 1"),
    (("--per-class", "40"), "for 40 subpopulations"),
    (("--subpopulations", "fine"), "reads a column coarse_label, which digits lacks"),
    (("--tree", "cifar100"), "the tree lacks class '0'"),
    (("--tree", "none.json"), "none.json"),
    (("--stages", "dense1"), "one for each of the 3 levels; got dense1"),
    (("--stages", "dense1", "dense1", "conv9"), "the trunk has no stage 'conv9'"),
    (("--batch", "300"), "larger than the"),
    (("--beta", "-1"), r"--beta is in [0, inf); got -1"),
    (("--data", "gaussian_tree"), "--samples are for data from files"),
])  # fmt: skip
def test_flags_without_a_meaning_are_refused(refuse, flags, message):
    refuse("subpopulation_shift", *flags, message=message)


def test_a_tree_of_two_levels_has_no_weights_of_branches(refuse, tmp_path):
    (tmp_path / "own.json").write_text('{"all": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}')
    refuse("subpopulation_shift", "--tree", "own.json", message="the weights of bcnn are for 3 levels, the tree has 2")


def test_claims_belong_to_the_fixed_recipes_alone():
    values = {"cc/unseen/flat": 1.0, "cc/unseen/joint": 0.972, "cc/unseen/sequential": 0.97}
    values |= {"accuracy/seen/flat": 0.9, "accuracy/unseen/flat": 0.7, "accuracy/unseen/joint": 0.7}
    usual = methods.recipe(CPU)
    assert [claim.holds for claim in experiment.claims(usual, values)] == [False, True, True, True]
    assert experiment.claims(dataclasses.replace(usual, beta=2.0), values) == []
    drawn = methods.recipe(dataclasses.replace(CPU, data="gaussian_tree", seeds=16))
    assert [claim.holds for claim in experiment.claims(drawn, values)] == [True]
    assert experiment.claims(dataclasses.replace(drawn, seeds=6), values) == []
