"""One network through every pipeline as its user runs it: figures, a checkpoint a step, stops, starts, refusals."""

import dataclasses
import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import continual_learning, lifecycle
from experiments.families import classifier, task_sequence
from experiments.harness import runner
from experiments.lifecycle import figures, methods, protocol
from subspace_jax import checkpoint, data, training
from subspace_jax.core import capture, roc

SMOKE = lifecycle.PRESETS["smoke"]
OLD, NEW = list(range(8)), [8, 9]
TAKERS = "memorization", "membership_inference", "class_unlearning", "label_correction", "utilized_rank", "pca_design"


@pytest.fixture(scope="module")
def case(finished):
    """The samples of the run that all tests share."""
    config = dataclasses.replace(SMOKE, pool=tuple(OLD), workdir=str(finished("lifecycle").workdir))
    return methods.case(config, classifier.setup(config), 0)


def saved(run, step):
    return checkpoint.load_model(run.workdir / "checkpoints" / "seed0" / step)


def stage(run, name):
    with np.load(run.workdir / "stages" / f"seed0_{name}.npz") as found:
        return dict(found)


def test_every_step_has_its_figures(finished):
    run = finished("lifecycle")
    networks = set(protocol.NETWORKS)
    expected = {f"accuracy/{n}/{g}" for n in networks | {"finetuned", "retrained"} for g in figures.GROUPS}
    expected |= {f"accuracy_told/{n}/{g}" for n in networks for g in figures.GROUPS}
    expected |= {f"{kind}/{n}" for kind in ("noise_reproduced", "membership_auroc", "membership_auroc_correct")
                 for n in networks}  # fmt: skip
    expected |= {"accuracy/trusted_only/all_old", "membership_auroc_forgotten/unlearned", "bwt", "trusted_clean"}
    expected |= {"memorized_found_auroc", "memorized_found_auroc_last", "memorized_found_auroc_loss"}
    expected |= {"forget_accuracy", "forget_accuracy_learned", "alpha", "alpha_r", "alpha_f"}
    expected |= {f"probe_accuracy/{n}" for n in ("unlearned", "retrained", "untrained")}
    expected |= {f"{kind}/{layer}/kernel" for kind in ("rank", "rank_sealed") for layer in ("dense0", "head")}
    beside = {"trusted_only", "retrained", "untrained", "finetuned"}
    expected |= {f"seconds/{n}" for n in {*protocol.STEPS} | beside}
    assert run.figures.keys() == expected
    assert run.line["claims"] == []
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {row["network"] for row in rows} == networks | {"finetuned", "retrained", "trusted_only"}


def test_figures_are_those_of_the_saved_networks(finished, case):
    run, test = finished("lifecycle"), data.load("digits", "test")
    for step in protocol.STEPS:
        model, variables, about = saved(run, step)
        x = data.scale(test["image"], data.Scaling(**about["scaling"]))
        logits = np.asarray(model.apply(variables, x))
        network = step if step in protocol.NETWORKS else "trained"
        for name, classes in (("all_old", OLD), ("new", NEW), ("forgotten", [3])):
            rows = np.isin(test["label"], classes)
            right = (logits.argmax(1) == test["label"])[rows].mean()
            assert run.figures[f"accuracy/{network}/{name}"] == pytest.approx(right, abs=1e-6)
            own = np.array(NEW if name == "new" else OLD)
            right = (own[logits[:, own].argmax(1)] == test["label"])[rows].mean()
            assert run.figures[f"accuracy_told/{network}/{name}"] == pytest.approx(right, abs=1e-6)
        wrong = case.members[case.task.noisy[case.members]]
        said = np.asarray(model.apply(variables, case.task.x[wrong])).argmax(1)
        repeated = (said == case.task.label[wrong]).mean()
        assert run.figures[f"noise_reproduced/{network}"] == pytest.approx(repeated, abs=1e-6)


def test_each_step_says_what_it_read_and_changed(finished, case):
    run, label = finished("lifecycle"), case.task.label
    abouts = {step: saved(run, step)[2] for step in protocol.STEPS}
    place = {number: position for position, number in enumerate(case.task.index.tolist())}
    indices = {step: [place[i] for i in abouts[step]["indices"][step]] for step in protocol.STEPS}
    assert indices["trained"] == case.members.tolist()
    assert sorted(indices["attacked"]) == sorted(case.pool.tolist())
    trusted = stage(run, "scored")["trusted"]
    assert indices["scored"] == indices["corrected"] == trusted.tolist()
    assert np.bincount(label[trusted]).tolist() == [SMOKE.trusted_per_class] * 8
    assert set(trusted) <= set(case.members)
    forget = {i for i in case.members if label[i] == 3}
    assert set(indices["unlearned"]) == forget | {i for i in trusted if label[i] != 3}
    assert set(case.task.true[indices["learned"]]) == set(NEW)
    assert list(abouts["learned_sealed"]["indices"]) == [step for step in protocol.STEPS if step != "learned"]
    edits = [[edit["method"] for edit in abouts[step]["edits"]] for step in protocol.STEPS]
    three = ["verifix", "unlearn_classes", "gpm"]
    assert edits == [[], [], [], three[:1], three[:2], three, three]
    assert abouts["unlearned"]["edits"][1]["forget"] == [3]
    about = abouts["trained"]
    assert about["corruption"]["pool"] == OLD
    assert about["recipe"] | {"init": "lecun", "lr": 0.1, "epochs": 10, "batch": 32} == about["recipe"]
    assert len(abouts["learned"]["subset"]) == len(case.members) + len(case.new)


def test_members_and_others_are_noisy_alike_and_the_new_classes_clean(case):
    task, share = case.task, SMOKE.noise
    assert len(case.members) == 2 * len(case.pool) // 3
    assert set(case.members) | set(case.selection) == set(case.pool)
    assert not task.noisy[case.new].any()
    assert set(task.label[case.pool]) == set(OLD)
    assert task.noisy[case.pool].sum() == round(share * len(case.pool))
    assert abs(task.noisy[case.members].mean() - task.noisy[case.selection].mean()) < 0.1
    other = case._replace(seed=1, task=task)
    assert (methods.case(other.config, other.shared, 1).members != case.members).any()


def test_what_is_found_and_who_is_told_apart_are_areas_under_the_curve(finished, case):
    run, noisy = finished("lifecycle"), case.task.noisy
    scores = stage(run, "scored")["score"]
    pairs = scores[noisy[case.members]][:, None] - scores[~noisy[case.members]]
    assert run.figures["memorized_found_auroc"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    member = np.isin(case.pool, case.members)
    for step, name in (("attacked", "trained"), ("corrected", "corrected"), ("learned", "learned")):
        found = stage(run, step)["membership"]
        assert run.figures[f"membership_auroc/{name}"] == roc.auroc(roc.curve(found, member))
        right = ~noisy[case.pool]
        expected = roc.auroc(roc.curve(found[right], member[right]))
        assert run.figures[f"membership_auroc_correct/{name}"] == expected


def inputs(run, step, x):
    model, variables, _ = saved(run, step)
    return capture.collect(model.apply, variables, [x], dtype="float64"), variables["params"]


def test_new_classes_leave_alone_what_the_old_ones_use(finished, case):
    run = finished("lifecycle")
    kept, gone = case.split(case.members)
    grams, before = inputs(run, "unlearned", case.task.x[kept])
    sealed, _ = inputs(run, "unlearned", case.task.x[gone])
    free, closed = (saved(run, step)[1]["params"] for step in ("learned", "learned_sealed"))
    moved = {name: sum(float(np.square(after[layer]["kernel"] - before[layer]["kernel"]).sum()) for layer in before)
             for name, after in (("free", free), ("closed", closed))}  # fmt: skip
    assert 0 < moved["closed"] < moved["free"]
    for layer in before:
        np.testing.assert_array_equal(free[layer]["bias"], before[layer]["bias"])
        np.testing.assert_array_equal(closed[layer]["bias"], before[layer]["bias"])
        for after, seen in ((free, [grams]), (closed, [grams, sealed])):
            change = np.asarray(after[layer]["kernel"], np.float64) - before[layer]["kernel"]
            for moments in seen:
                gram = moments[f"{layer}/kernel"].gram
                bound = np.linalg.norm(change, 2) ** 2 * (1 - SMOKE.energy) * np.trace(gram)
                assert np.trace(change.T @ gram @ change) <= bound * (1 + 1e-3)


def test_a_run_stopped_after_every_step_ends_with_the_same_networks(finished, ask, tmp_path, monkeypatch):
    """Stopped before a step is written, which is after its checkpoint, once for every step."""
    whole, real, told = finished("lifecycle"), runner.save_arrays, set()

    def stopping(path, arrays):
        if path.stem not in told:
            told.add(path.stem)
            raise KeyboardInterrupt
        real(path, arrays)

    monkeypatch.setattr(runner, "save_arrays", stopping)
    assert ask("lifecycle", "--preset", "smoke").status == 130
    for _ in range(20):
        again = ask("lifecycle", "--resume")
        if again.status == 0:
            break
    assert len(told) == 11
    assert again.outcome() == whole.outcome()
    for step in protocol.STEPS:
        one, other = (jax.tree.leaves(saved(run, step)[1]) for run in (whole, again))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_finished_run_computes_nothing_again(finished, ask, tmp_path, monkeypatch):
    shutil.copytree(finished("lifecycle").workdir, tmp_path / "w")
    for name in ("train_epoch", "train_many", "minimise", "repeat", "predict"):
        monkeypatch.setattr(training, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    assert ask("lifecycle", "--resume").figures == finished("lifecycle").figures


@pytest.mark.parametrize("step", ["trained", "corrected", "learned"])
@pytest.mark.parametrize("taker", TAKERS)
def test_every_experiment_sees_the_samples_that_the_network_was_trained_on(taker, step, finished, case):
    path = str(finished("lifecycle").workdir / "checkpoints" / "seed0" / step)
    other = importlib.import_module(f"experiments.{taker}")
    config = classifier.adopt(dataclasses.replace(other.PRESETS["smoke"], preset="smoke", checkpoint=path))
    assert (config.seed, config.seeds) == (0, 1)
    own = classifier.own(config, classifier.setup(config), 0)
    task, rows = classifier.task(config, own, 0), case.members
    rows = np.sort(np.append(rows, case.new)) if step == "learned" else rows
    np.testing.assert_array_equal(task.index, case.task.index[rows])
    np.testing.assert_array_equal(task.label, case.task.label[rows])
    assert set(task.test_label) == set(OLD + NEW if step == "learned" else OLD)
    np.testing.assert_array_equal(own.test["label"], task.test_label)
    assert set(own.unseen["index"]) >= set(case.task.index[case.selection])
    assert set(own.unseen["label"]) <= set(task.true)
    net = classifier.trained(config, own, task, 0)
    given = training.evaluate(net.model.apply, net.variables, task.test_x, task.test_label)
    name = "all_old" if step != "learned" else None
    assert not name or float(given) == pytest.approx(finished("lifecycle").figures[f"accuracy/{step}/{name}"])


def test_an_attack_on_a_saved_step_has_its_members_and_others(finished, case):
    path = str(finished("lifecycle").workdir / "checkpoints" / "seed0" / "trained")
    room = importlib.import_module("experiments.membership_inference")
    config = classifier.adopt(dataclasses.replace(room.PRESETS["smoke"], preset="smoke", checkpoint=path))
    own = classifier.own(config, classifier.setup(config), 0, whole=True)
    np.testing.assert_array_equal(own.columns["index"], case.task.index[case.pool])
    np.testing.assert_array_equal(classifier.task(config, own, 0).label, case.task.label[case.pool])


def test_a_sequence_of_tasks_starts_from_a_saved_step(finished, ask):
    path = finished("lifecycle").workdir / "checkpoints" / "seed0" / "corrected"
    flags = ["--preset", "smoke", "--checkpoint", str(path)]
    run = ask("continual_learning", *flags, "--method", "gpm")
    assert run.status == 0, run.err
    with np.load(run.workdir / "matrix.npz") as found:
        before = found["accuracy"][found["tasks_learned"] == 0]
    model, variables, about = checkpoint.load_model(path)
    config = dataclasses.replace(continual_learning.PRESETS["smoke"], samples=about["samples"])
    sequence = task_sequence.sequence(config, task_sequence.source(config), 0)
    expected = [(np.asarray(model.apply(variables, k.test_x)).argmax(1) == k.test_y).mean() for k in sequence]
    np.testing.assert_allclose(before, expected, atol=1e-6)
    for more, said in ((["--method", "trgp"], "with --method trgp"), (["--benchmark", "split"], "--benchmark split")):
        refused = ask("continual_learning", *flags, *more, workdir="refused")
        assert refused.status == 2
        assert said in refused.err
        assert "gives each task a head, which the network at --checkpoint lacks" in refused.err


def test_a_life_goes_on_from_any_step(finished, ask):
    whole = finished("lifecycle")
    path = whole.workdir / "checkpoints" / "seed0" / "corrected"
    run = ask("lifecycle", "--preset", "smoke", "--start", "unlearned", "--checkpoint", str(path))
    assert run.status == 0, run.err
    kept = {name for name in whole.outcome() if name in run.figures}
    assert {"accuracy/corrected/old", "accuracy/learned/new", "accuracy/finetuned/old", "alpha_r", "bwt"} <= kept
    assert not any("trained/" in name.replace("retrained/", "") for name in run.figures)
    assert not any(name.startswith(("memorized", "membership")) for name in run.figures)
    assert {name: run.figures[name] for name in kept} == {name: whole.figures[name] for name in kept}


def test_a_network_of_unknown_members_is_not_attacked_and_it_is_said(finished, ask, tmp_path):
    _, variables, about = saved(finished("lifecycle"), "scored")
    classifier.save_network(str(tmp_path / "foreign"), 0, variables, about | {"subset": None})
    run = ask("lifecycle", "--preset", "smoke", "--start", "attacked", "--checkpoint", str(tmp_path / "foreign"))
    assert run.status == 0, run.err
    assert "does not say which samples it was trained on: no attack" in run.err
    assert not any(name.startswith("membership") for name in run.figures)
    assert "needs samples that it certainly never saw" in (run.workdir / "report.html").read_text()
    assert {"accuracy/corrected/old", "accuracy/learned/new"} <= run.figures.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--forget", "8"], "--forget leaves 2 or more of the old classes [0, 1, 2, 3, 4, 5, 6, 7]; got (8,)"),
        (["--forget", *"0123456"], "--forget leaves 2 or more of the old classes"),
        (["--new-classes"], "--new-classes are some of the classes 0 to 9; got ()"),
        (["--new-classes", "9", "10"], "--new-classes are some of the classes 0 to 9; got (9, 10)"),
        (["--members", "20"], "--members lies in [32, "),
        (["--members", "5000"], "--members lies in [32, "),
        (["--shadows", "5"], "--shadows come in pairs, an even number from 4 on; got 5"),
        (["--start", "corrected"], "--start corrected needs --checkpoint"),
        (["--trusted-per-class", "0"], "--trusted-per-class is at least 1; got 0"),
        (["--new-steps", "0"], "--new-steps is at least 1; got 0"),
        (["--energy", "1.5"], "--energy is a share, in (0, 1]; got 1.5"),
        (["--alphas", "-1"], "--alphas are positive and finite"),
        (["--score-every", "11"], "--score-every is in [1, 10], the epochs; got 11"),
        (["--pool", "3"], "--pool names at least 2 of the classes 0 to 9; got (3,)"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(flags, message, refuse):
    refuse("lifecycle", *flags, message=message)
