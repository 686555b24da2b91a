"""Unknown inputs at small size: figures, networks, outputs of one's own, sets from files, refusals, claims."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments import ood_detection
from experiments.families import classifier
from experiments.ood_detection import experiment, methods, report
from subspace_jax import checkpoint, data, training
from subspace_jax.ood import detectors, evaluation, scores
from tests.ood.cases import draw

SMOKE, CPU = ood_detection.PRESETS["smoke"], ood_detection.PRESETS["cpu"]
SETS = "gaussian", "inverted", "unseen"


def stage(run, name):
    with np.load(run.workdir / "stages" / f"{name}.npz") as found:
        return dict(found)


def test_every_training_detector_and_set_has_its_figures(finished):
    figures = finished("ood_detection").figures
    for name in SMOKE.training:
        listed = [one for one in SMOKE.detectors if one not in methods.AUX or name == "aux_soft"]
        places = {f"{name}/{one}/{place}" for one in listed for place in (*SETS, "near", "far")}
        for kind in report.KINDS:
            assert {key.removeprefix(f"{kind}/") for key in figures if key.startswith(f"{kind}/{name}/")} == places
    assert {key for key in figures if key.startswith("flagged/")} == {f"flagged/aux_soft/{s}" for s in ("id", *SETS)}
    for kind in ("cost_flops", "state_floats", "passes"):
        assert {key.removeprefix(f"{kind}/") for key in figures if key.startswith(f"{kind}/")} == set(SMOKE.detectors)
    for place in SETS:
        assert figures[f"worst_seed/aux_soft/{place}"] == figures[f"auroc/aux_soft/aux/{place}"]  # of one seed
    assert {"accuracy/erm", "accuracy/aux_soft", "class_spread/raw", "class_spread/std"} <= set(figures)
    assert finished("ood_detection").line["claims"] == []


def test_figures_are_those_of_the_saved_scores_near_and_far_apart(finished):
    run = finished("ood_detection")
    for part, place in (("all", "gaussian"), ("near", "unseen")):
        arrays = stage(run, f"seed0_erm_{part}")
        inside, outside = arrays["score/msp/id"], arrays[f"score/msp/{place}"]
        known, values = np.arange(len(inside) + len(outside)) < len(inside), np.concatenate([inside, outside])
        assert run.figures[f"auroc/erm/msp/{place}"] == pytest.approx(roc_auc_score(known, values))
        assert run.figures[f"aupr_out/erm/msp/{place}"] == pytest.approx(average_precision_score(~known, -values))
        for key, positive in (("fpr95", "id"), ("fpr95_other", "ood")):
            expected = evaluation.separation(inside, outside, positive=positive).fpr95
            assert run.figures[f"{key}/erm/msp/{place}"] == expected
    assert run.figures["auroc/erm/knn/near"] == run.figures["auroc/erm/knn/unseen"]
    far = [run.figures[f"auroc/erm/knn/{place}"] for place in ("gaussian", "inverted")]
    assert run.figures["auroc/erm/knn/far"] == pytest.approx(np.mean(far))
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["training"], row["detector"], row["set"]) for row in rows}) == 5 * (11 + 13)


def test_networks_are_checkpoints_with_an_output_more_where_there_is_an_auxiliary_class(finished):
    run, test = finished("ood_detection"), data.load("digits", "test")
    for name, outputs in (("erm", 10), ("aux_soft", 11), ("erm_near", 6)):
        model, variables, config = checkpoint.load_model(run.workdir / "checkpoints" / name)
        x = data.scale(test["image"], data.Scaling(**config["scaling"]))
        logits = np.asarray(training.predict(model.apply, variables, x))
        assert logits.shape[1] == outputs
        assert config["training"] == name.removesuffix("_near")
        if outputs >= 10:
            accuracy = (logits[:, :10].argmax(1) == test["label"]).mean()
            assert run.figures[f"accuracy/{name}"] == pytest.approx(accuracy)
        else:
            assert config["without_classes"] == [6, 7, 8, 9]


def test_the_report_says_what_it_must(finished):
    page = (finished("ood_detection").workdir / "report.html").read_text()
    for said in (
        "No detector was tuned on OOD data", "The other convention: ood is positive", "Below chance: ", "trained on",
        "unlike it", "the temperature alone gives", "Near the classes: ", "operations beside the first",
    ):  # fmt: skip
        assert said in page, said


def test_a_finished_run_is_read_and_not_trained_again(finished, ask, tmp_path, monkeypatch):
    first = finished("ood_detection")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(checkpoint, "resumable_fit", None)
    assert ask("ood_detection", "--resume").figures == first.figures


def test_a_saved_network_is_judged_without_training(finished, ask, monkeypatch):
    first = finished("ood_detection")
    monkeypatch.setattr(checkpoint, "resumable_fit", None)
    flags = "--training erm --detectors msp knn --ood-sets gaussian inverted --ood-samples 100".split()
    run = ask("ood_detection", *flags, "--seeds", "1", "--checkpoint", str(first.workdir / "checkpoints" / "erm"))
    for name in ("auroc/erm/msp/gaussian", "auroc/erm/knn/inverted", "accuracy/erm"):
        assert run.figures[name] == pytest.approx(first.figures[name], abs=1e-9)


def saved(folder, **changed):
    """Outputs of one's own as a file."""
    train, label, head = draw(0)
    sides = {"train": train, "test": draw(1)[0], "odd": draw(2)[0]}
    arrays = {f"{name}_logits": one.logits for name, one in sides.items()}
    arrays |= {f"{name}_features": one.features["penultimate"] for name, one in sides.items()}
    arrays |= {"train_label": label, "head_kernel": head[0], "head_bias": head[1]} | changed
    np.savez(folder / "mine.npz", **{name: value for name, value in arrays.items() if value is not None})
    return sides, label


FILE = "--preset", "smoke", "--features", "mine.npz", "--neighbours", "3", "--detectors"


def test_outputs_of_ones_own_are_judged_by_every_detector(ask, tmp_path):
    sides, label = saved(tmp_path)
    listed = [name for name in methods.DETECTORS if name not in ("odin", *methods.AUX)]
    run = ask("ood_detection", *FILE, *listed)
    judged = {key.split("/")[2] for key in run.figures if key.startswith("auroc/given/")}
    assert judged == set(listed)
    detector = methods.DETECTORS["std"](methods.Case(None, 3))
    state = detector.fit(sides["train"], label)
    inside, outside = (np.asarray(detector.score(state, sides[name])) for name in ("test", "odd"))
    assert run.figures["auroc/given/std/odd"] == evaluation.separation(inside, outside, positive="id").auroc
    assert run.figures["state_floats/knn"] == 60 * 8


def test_logits_alone_are_judged_by_what_needs_no_more_and_the_last_may_be_the_unknown(ask, tmp_path):
    none = dict.fromkeys(("train_features", "test_features", "odd_features", "head_kernel", "head_bias"))
    sides, _ = saved(tmp_path, train_label=np.arange(60) % 3, **none)
    run = ask("ood_detection", *FILE, "aux", "energy")
    expected = [
        np.asarray(scores.energy().score({}, detectors.Outputs(sides[name].logits[:, :3]))) for name in ("test", "odd")
    ]
    found = evaluation.separation(*expected, positive="id").auroc
    assert run.figures["auroc/given/energy/odd"] == pytest.approx(found)
    assert "auroc/given/aux/odd" in run.figures


@pytest.mark.parametrize(
    ("changed", "names", "message"),
    [
        ({"test_logits": None}, ["msp"], "mine.npz has no test_logits"),
        ({"odd_logits": None}, ["msp"], "known samples alone"),
        ({"head_kernel": None}, ["vim"], "--detectors vim needs head_kernel and head_bias"),
        ({"odd_features": None}, ["knn"], "--detectors knn needs train_features"),
        ({}, ["odin"], "--detectors odin needs the network itself"),
        ({}, ["aux"], "labels must lie in [0, 3); got 3"),
        ({"train_label": np.zeros(60, int)}, ["norm"], "class 1 has no sample to be scaled by"),
        ({"odd_logits": np.full((60, 4), 0.25)}, ["msp"], "these are probabilities"),
        ({"odd_logits": np.full((60, 4), np.nan)}, ["msp"], "logits must be finite"),
    ],
)
def test_a_file_that_does_not_do_is_refused_in_one_sentence(changed, names, message, refuse, tmp_path):
    saved(tmp_path, **changed)
    refuse("ood_detection", *FILE[2:], *names, message=message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training", "no"], "--training: there is no 'no'; there are erm, mixup, intra, aux_soft, aux_hard"),
        (["--detectors", "no"], "--detectors: there is no 'no'"),
        (["--ood-sets", "no"], "--ood-sets: there is no 'no'"),
        (["--ood-sets"], "give at least one of"),
        (["--training", "erm", "--detectors", "aux"], "--detectors aux needs an output more"),
        (["--near-classes", "10"], "--near-classes are some of 0..9, and leave 2 at least; got 10"),
        (["--near-classes"], "got none"),
        (["--features", "x.npz", "--checkpoint", "y"], "give one of them"),
        (["--checkpoint", "runs/x"], "--checkpoint is one network that knows all classes"),
        (["--alpha", "0"], "alpha of the Beta distribution is positive and finite; got 0.0"),
        (["--share-max", "1.5"], "share_max is the largest share of a sample in a noise mixture, in (0, 1]; got 1.5"),
        (["--neighbours", "400"], "--neighbours numbers the 200 training samples from 1; got 400"),
        (["--ood-sets", "mnist"], "Data set 'mnist' was not found"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse("ood_detection", *flags, message=message)


def test_sets_of_files_take_the_shape_of_the_known_images(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 10, 3)).astype(np.uint8)
    for name in ("cifar10", "cifar100"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "test.npz", image=image, label=np.arange(6))
    config = dataclasses.replace(SMOKE, data_dir=str(tmp_path), ood_sets=("greycifar", "cifar100"), ood_samples=5)
    shared = classifier.setup(config)
    grey = methods.unknown(config, shared, 0, "greycifar")
    np.testing.assert_allclose(grey, np.rint(image[:5, 1:9, 1:9] @ [0.299, 0.587, 0.114])[..., None] / 255)
    assert methods.scaled(shared, grey).max() <= 1
    assert methods.far_sets(config) == ["greycifar", "cifar100"]
    assert methods.near_sets(dataclasses.replace(config, data="cifar10")) == ["cifar100"]
    known = data.inputs(shared.columns)[:6].astype(np.uint8)
    monkeypatch.setattr(methods, "unknown", lambda *_: known.astype(np.float32) / 16)
    with pytest.warns(UserWarning, match="6 of 6 inputs of cifar100 are also known ones"):
        methods.parts(dataclasses.replace(config, ood_sets=("cifar100",)), shared, 0)


def test_the_near_part_knows_the_other_classes_alone():
    shared = classifier.setup(SMOKE)
    part = methods.without(SMOKE, shared, 0)
    assert sorted(set(part.task.label.tolist())) == sorted(set(part.task.test_label.tolist())) == list(range(6))
    test = shared.test["label"]
    assert len(part.sets["unseen"]) == np.isin(test, [6, 7, 8, 9]).sum() == len(test) - len(part.task.test_label)


@pytest.mark.process
def test_the_gpu_preset_at_small_size(ask):
    small = "--data digits --seeds 1 --samples 40 --batch 20 --epochs 1 --ood-samples 8 --neighbours 3".split()
    flags = "--network-args width=4 blocks=1,1 --ood-sets gaussian blur --no-augment --training erm aux_soft".split()
    assert all(np.isfinite(value) for value in ask("ood_detection", "--preset", "gpu", *small, *flags).figures.values())


FIGURES = {f"auroc/aux_soft/aux/{place}": 0.99 for place in experiment.NOISES}
FIGURES |= {"accuracy/erm": 0.98, "accuracy/aux_soft": 0.97}
MNIST = {
    "auroc/erm/norm/unseen": 0.95, "auroc/erm/msp/unseen": 0.93, "class_spread/std": 2.0, "class_spread/raw": 4.0,
}  # fmt: skip


def test_the_worst_seed_is_the_smallest_of_the_auxiliary_class():
    runs = [
        {"auroc/aux_soft/aux/blur": v, "auroc/aux_soft/aux/far": 0.1, "auroc/erm/msp/blur": 0.2} for v in (0.9, 0.4)
    ]
    assert report.worst_seed(runs) == {"worst_seed/aux_soft/blur": 0.4}


def failed(config, figures, **changed):
    claims = experiment.claims(config, figures | {name.replace("__", "/"): value for name, value in changed.items()})
    assert len(claims) == 2
    return [claim.name for claim in claims if not claim.holds]


def test_claims_are_of_the_fixed_recipes_alone():
    assert failed(CPU, FIGURES) == []
    assert failed(CPU, FIGURES, auroc__aux_soft__aux__blur=0.96) == [
        "smallest AUROC of the auxiliary class on a far set, blur"
    ]
    assert failed(CPU, FIGURES, accuracy__aux_soft=0.95) == ["accuracy of aux_soft above erm"]
    assert failed(dataclasses.replace(experiment.MNIST, data_dir="x", seed=3), MNIST) == []
    assert failed(experiment.MNIST, MNIST, auroc__erm__norm__unseen=0.934) == ["norm-scaling above MSP, unseen classes"]
    assert len(failed(experiment.MNIST, MNIST, class_spread__std=3.0)) == 1
    assert experiment.claims(dataclasses.replace(CPU, lr=1.0), FIGURES) == []
    assert experiment.claims(SMOKE, FIGURES) == []
