"""The experiment on membership: its figures, who is exposed, runs that go on, data of one's own, flags it refuses."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import membership_inference
from experiments.families import classifier
from experiments.membership_inference import methods
from subspace_jax import checkpoint
from subspace_jax.core import roc
from subspace_jax.core.keys import sample_keys
from subspace_jax.memorization import scores
from subspace_jax.privacy import attacks, masks, membership

SMOKE, KEY = membership_inference.PRESETS["smoke"], jax.random.key(0)

KINDS = "auroc", "auroc_target_std", "balanced_accuracy", "tpr_at_fpr_1e-2"
TINY = "--preset smoke --models 6 --epochs 1 --batch 8 --widths 8 --noise 0 --probes 1".split()


def rows_of(run):
    with (run.workdir / "risk.csv").open() as file:
        return list(csv.DictReader(file))


def stage(run):
    with np.load(run.workdir / "stages" / "seed0.npz") as found:
        return dict(found)


def test_every_attack_has_its_figures(finished):
    run = finished("membership_inference")
    single = {"train_accuracy", "test_accuracy", "models", "negatives", "log_curvature/members", "log_curvature/others"}
    assert run.figures.keys() == {f"{kind}/{name}" for kind in KINDS for name in membership.TABLE} | single
    assert (run.figures["models"], run.figures["negatives"]) == (8, 150)
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert sorted((row["attack"], row["target"]) for row in rows) == sorted(
        (name, target) for name in membership.TABLE for target in (0, 1)
    )
    page = (run.workdir / "report.html").read_text()
    assert page.count("<td>as released</td>") == sum(name.endswith("as_released") for name in membership.TABLE)
    assert run.line["claims"] == []  # of the fixed recipe alone


def test_targets_are_a_whole_pair_and_their_figures_those_of_their_scores(finished):
    run, arrays = finished("membership_inference"), stage(finished("membership_inference"))
    assert (arrays["member"][0] != arrays["member"][1]).all(), "complementary halves of an even number of samples"
    assert arrays["member"].sum(axis=1).tolist() == [150, 150]
    for name in ("yeom", "lira_fixed_variance", "curvature_nll"):
        values, member = arrays[f"score/{name}"], arrays["member"]
        found = [roc.summary(values[k], member[k], fprs=[0.01]).auroc for k in (0, 1)]
        assert run.figures[f"auroc/{name}"] == pytest.approx(np.mean(found))
        assert run.figures[f"auroc_target_std/{name}"] == pytest.approx(abs(found[0] - found[1]) / np.sqrt(2))
    for side, mask in (("members", arrays["member"]), ("others", ~arrays["member"])):
        assert run.figures[f"log_curvature/{side}"] == pytest.approx(arrays["log_curvature"][mask].mean())


def test_the_table_of_risks_holds_every_member_once_a_target_the_most_exposed_first(finished):
    run = finished("membership_inference")
    rows, arrays = rows_of(run), stage(run)
    assert list(rows[0]) == ["seed", "target", "index", "label", "score", "exposed_at_fpr"]
    assert len({(row["target"], row["index"]) for row in rows}) == len(rows) == 300
    exposed = [float(row["exposed_at_fpr"]) for row in rows]
    assert exposed == sorted(exposed)
    for row in rows[:20]:
        values, member = (arrays[key][int(row["target"])] for key in ("score/lira_fixed_variance", "member"))
        assert float(row["score"]) in values[member]
        assert float(row["exposed_at_fpr"]) == pytest.approx((values[~member] >= float(row["score"])).mean())


def test_a_stopped_run_goes_on_with_the_networks_it_has(finished, ask, tmp_path):
    first = finished("membership_inference")
    shutil.copytree(first.workdir, tmp_path / "w")
    (tmp_path / "w" / "stages" / "seed0.npz").unlink()
    logits = tmp_path / "w" / "shadows" / "seed0" / "logits.npy"
    written = logits.stat().st_mtime_ns
    again = ask("membership_inference", "--resume")
    assert again.figures == first.figures
    assert logits.stat().st_mtime_ns == written


def test_rows_of_numbers_without_a_test_split_are_attacked_by_what_needs_none(ask, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    x, label = rng.normal(size=(41, 5)).astype(np.float32), np.arange(41) % 2
    np.savez(tmp_path / "mine" / "train.npz", x=x, label=label, index=np.arange(41) + 1000)
    flags = ["--data", "mine", "--data-dir", str(tmp_path), "--attacks", "yeom", "rmia", "--score", "watson"]
    with pytest.warns(UserWarning, match="21 non-members cannot show a false positive rate of 0.01"):
        run = ask("membership_inference", *TINY, *flags)
    assert {name for name in run.figures if name.startswith("auroc/")} == {"auroc/yeom", "auroc/watson"}
    assert "test_accuracy" not in run.figures
    assert not (run.workdir / "shadows" / "seed0" / "curvature.npy").exists(), "measured, and no attack looks at it"
    assert {int(row["index"]) for row in rows_of(run)} <= set(range(1000, 1041))
    assert not (run.workdir / "figures" / "exposed.png").exists()


def saved_outputs(run, folder, **changed):
    """The outputs of a finished run as a file for --logits."""
    arrays = stage(run)
    logits, curvature = (np.load(run.workdir / "shadows" / "seed0" / f"{name}.npy") for name in ("logits", "curvature"))
    task = classifier.task(SMOKE, classifier.setup(SMOKE), 0)
    keep = masks.shadow_masks(jax.random.key(0), 8, 300)
    content = {
        "logits": logits[:6, 0, :300], "keep": keep[:6], "target": logits[6:, :, :300], "label": task.label,
        "member": arrays["member"], "index": task.index, "curvature": curvature[:6], "target_curvature": curvature[6:],
    }  # fmt: skip
    content = {name: value for name, value in (content | changed).items() if value is not None}
    np.savez(folder / "outputs.npz", **content)
    return task


def test_saved_outputs_give_what_the_run_gave_that_made_them(finished, ask, tmp_path):
    run = finished("membership_inference")
    saved_outputs(run, tmp_path)
    again = ask("membership_inference", "--logits", "outputs.npz")
    same = [name for name in run.figures if "rmia" not in name and name not in ("models", "test_accuracy")]
    for name in [name for name in same if name != "train_accuracy"]:
        assert again.figures[name] == pytest.approx(run.figures[name], rel=1e-9), name
    assert again.figures["models"] == 6
    assert not any("rmia" in name for name in again.figures), "there is no population"
    assert (again.workdir / "risk.csv").read_text() == (run.workdir / "risk.csv").read_text()
    assert not (again.workdir / "shadows").exists()


def test_members_of_saved_outputs_may_stand_in_a_file(finished, ask, tmp_path):
    run = finished("membership_inference")
    task = saved_outputs(run, tmp_path, target=None, member=None, curvature=None, target_curvature=None)
    member = stage(run)["member"][0]
    np.savetxt(tmp_path / "members.txt", task.index[member], fmt="%d")
    with np.load(tmp_path / "outputs.npz") as found:
        content = dict(found)
    logits = np.load(run.workdir / "shadows" / "seed0" / "logits.npy")
    np.savez(tmp_path / "outputs.npz", target=logits[6:7, 0, :300], **content)
    again = ask("membership_inference", "--logits", "outputs.npz", "--members", "members.txt", "--attacks", "watson")
    found = roc.auroc(roc.curve(stage(run)["score/watson"][0], member))
    assert again.figures["auroc/watson"] == pytest.approx(found)
    assert again.figures["auroc_target_std/watson"] == 0
    assert {int(row["index"]) for row in rows_of(again)} == set(task.index[member].tolist())


def test_targets_on_training_sets_of_other_sizes_meet_the_same_shadow_models(ask):
    sizes = ["--attacks", "yeom", "watson", "curvature_nll", "--score", "watson", "--set-sizes", "20", "200"]
    run = ask("membership_inference", *TINY, *sizes, "--spread", "var_as_std")
    arrays = stage(run)
    for size in (20, 200):
        member = arrays[f"size{size}/member"]
        assert member.sum(axis=1).tolist() == [size, size]
        assert (member[0] != member[1]).any()
        for name in ("yeom", "watson", "curvature_nll"):
            values = arrays[f"size{size}/score/{name}"]
            found = [roc.auroc(roc.curve(values[k], member[k])) for k in (0, 1)]
            assert run.figures[f"auroc_at_size/{name}/{size}"] == pytest.approx(np.mean(found))
        said = np.load(run.workdir / "shadows" / "seed0" / f"size{size}" / "logits.npy")
        assert said.shape == (2, 1, 660, 10)
        assert run.figures[f"train_accuracy_at_size/{size}"] == arrays[f"size{size}/train_accuracy"]
    page = (run.workdir / "report.html").read_text()
    assert "Size of the training set" in page
    curved, keep = np.load(run.workdir / "shadows" / "seed0" / "curvature.npy"), masks.shadow_masks(KEY, 6, 300)
    for spread, same in (("var_as_std", True), ("std", False)):
        expected = attacks.curvature.curvature_nll(curved[4:], curved[:4], keep[:4], spread=spread)
        assert np.allclose(arrays["score/curvature_nll"], expected) == same


def test_a_network_of_another_experiment_is_attacked_by_its_test_set(finished, ask):
    other = finished("memorization").workdir
    flags = ["--checkpoint", str(other), "--models", "4", "--attacks", "yeom", "curvature_nll", "--probes", "1"]
    run = ask("membership_inference", "--preset", "smoke", "--curvature", "fd_norm", *flags)
    assert {name for name in run.figures if name.startswith("auroc/")} == {
        "auroc/yeom", "auroc/curvature_nll", "auroc/lira_fixed_variance",
    }  # fmt: skip
    assert (run.figures["models"], run.figures["negatives"]) == (4, 360)
    about = checkpoint.load_model(other)[2]
    assert run.figures["test_accuracy"] == pytest.approx(finished("memorization").figures["test_accuracy"])
    assert len(rows_of(run)) == about["samples"] == 300
    assert np.load(run.workdir / "shadows" / "seed0" / "logits.npy").shape == (4, 1, 660, 10)


def test_curvature_by_derivatives_of_several_networks_is_that_of_each():
    rng = np.random.default_rng(0)
    several, x = rng.normal(size=(3, 6, 4)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    keys, y = sample_keys(jax.random.key(0), np.arange(5)), np.arange(5) % 4

    def apply(own, x):
        return x @ own

    found = methods.derivatives(apply, "ggn_exact")(keys, several, x, y)
    alone = [scores.scorer("ggn_exact", apply)(keys, own, x, y) for own in several]
    np.testing.assert_allclose(found, np.stack(alone, axis=1), rtol=1e-4)


def test_members_are_all_or_those_of_a_list(tmp_path):
    index = np.array([7, 3, 900, 12])
    np.save(tmp_path / "some.npy", np.array([900, 7]))
    (tmp_path / "one.txt").write_text("12\n")
    assert methods.members(SMOKE, index, None).all()
    assert methods.members(SMOKE, index, [3, 12]).tolist() == [False, True, False, True]
    for file, expected in (("some.npy", [True, False, True, False]), ("one.txt", [False, False, False, True])):
        config = dataclasses.replace(SMOKE, members=str(tmp_path / file))
        assert methods.members(config, index, [3]).tolist() == expected, "the flag goes before the checkpoint"
    with pytest.raises(ValueError, match=r"member 5 is none of the 4 samples \(2 of 3\)"):
        methods.members(SMOKE, index, [3, 5, 6])


@pytest.mark.parametrize(
    ("changed", "flags", "message"),
    [
        ({"keep": None}, [], "outputs.npz has no keep; it holds logits, target, label"),
        ({"member": None}, [], "outputs.npz has no member (targets, n): give --members, a file of their numbers"),
        ({"member": np.ones((2, 300), bool)}, [], "there is nothing to tell apart"),
        ({"index": np.arange(299)}, [], "label and index must have one entry per sample; got 300 and 299"),
        ({"keep": np.ones((6, 300), bool)}, [], "300 of 300 samples are OUT for fewer than"),
        ({"curvature": None, "target_curvature": None}, ["--score", "curvature_lr"], "--score curvature_lr needs curv"),
        ({}, ["--score", "rmia"], "--score rmia needs samples that no network was trained on"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(changed, flags, message, finished, ask, tmp_path):
    saved_outputs(finished("membership_inference"), tmp_path, **changed)
    run = ask("membership_inference", "--logits", "outputs.npz", *flags)
    assert run.status == 2
    assert message in run.err.splitlines()[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "7"], "--models come in pairs, an even number from 6 on; got 7"),
        (["--models", "4"], "--models come in pairs, an even number from 6 on; got 4"),
        (["--targets", "3"], "--targets are whole pairs, an even number in [2, 4]"),
        (["--targets", "6"], "so that 4 shadow models are left; got 6"),
        (["--group", "0"], "--group is the number of networks trained at a time, at least 1; got 0"),
        (["--probes", "0"], "probes must be at least 1; got 0"),
        (["--step", "0"], "step must be positive; got 0"),
        (["--queries", "3"], "queries is 1, or 2 for images and their mirror images; got 3"),
        (["--attacks", "lira"], "--attacks: no attack 'lira'; there are yeom, "),
        (["--score", "best"], "--score: no attack 'best'; there are yeom, "),
        (["--dtype", "bfloat16"], "--dtype bfloat16 rounds a step of 0.01 away: curvature takes float32"),
        (["--batch", "151"], "--batch 151 is larger than the 150 samples of the halves: at most 150"),
        (["--model", "lstm"], "there is no network 'lstm'"),
        (["--members", "m.txt"], "--members tells of --checkpoint or --logits who was trained on; give one of these"),
        (["--logits", "a.npz", "--checkpoint", "b"], "give one of them"),
        (["--logits", "a.npz", "--set-sizes", "9"], "--set-sizes trains targets on sets of these sizes"),
        (["--set-sizes", "31"], "--set-sizes lie in [32, 300), from --batch to all samples; got 31"),
        (["--set-sizes", "40", "300"], "from --batch to all samples; got 300"),
        (["--logits", "nothing.npz"], "nothing.npz"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(flags, message, refuse):
    refuse("membership_inference", *flags, message=message)
