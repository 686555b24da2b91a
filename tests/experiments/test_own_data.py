"""Data as people have it, in the experiments: folders of images, names, rows of numbers, no test split."""

import csv

import numpy as np
import pytest
from PIL import Image

SMALL = (
    "--preset smoke --batch 8 --epochs 2 --noise 0 --duplicates 0 --widths 8 --probes 1 --score-every 1 "
    "--scores fd_norm --no-refits"
).split()


@pytest.fixture
def own(tmp_path):
    """Flags for a set of the given splits."""
    (tmp_path / "mine").mkdir()

    def write(**splits):
        for split, columns in splits.items():
            np.savez(tmp_path / "mine" / f"{split}.npz", **columns)
        return [*SMALL, "--data", "mine", "--data-dir", str(tmp_path)]

    return write


def images(count, *, size=6, labels=3):
    rng = np.random.default_rng(0)
    label = np.arange(count) % labels
    image = (rng.integers(0, 100, (count, size, size, 1)) + 50 * label[:, None, None, None]).astype(np.uint8)
    return {"image": image, "label": label}


def rows_of(run):
    with (run.workdir / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images_is_searched_and_its_classes_keep_their_names(ask, tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for k, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * k, 100 * k + 100, (9 + i % 2, 9, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{i:02}.png")
    flags = [*SMALL, "--data", "pets", "--data-dir", str(tmp_path)]
    refused = ask("memorization", *flags)
    assert refused.status == 2
    assert "--image-size" in refused.err.splitlines()[0]
    run = ask("memorization", *flags, "--image-size", "8")
    assert {(row["given_label"], row["given_name"]) for row in rows_of(run)} == {("0", "cat"), ("1", "dog")}
    assert "label cat" not in (run.workdir / "report.html").read_text()  # it is in the picture
    assert "<td>cat</td>" in (run.workdir / "report.html").read_text()
    assert (run.workdir / "figures" / "gallery_highest_loss.png").exists()
    assert (run.workdir / "figures" / "gallery_highest_fd_norm.png").exists()


def test_rows_of_numbers_without_a_test_split_give_a_table_of_suspects(ask, own):
    rng = np.random.default_rng(0)
    label = np.array(["low", "high"])[np.arange(40) % 2]
    x = rng.normal(size=(40, 5)).astype(np.float32) + (label == "high")[:, None]
    run = ask("memorization", *own(train={"x": x, "label": label}))
    assert not any(name.startswith(("auroc", "test_accuracy")) for name in run.figures)
    assert len(rows_of(run)) == 40
    page = (run.workdir / "report.html").read_text()
    assert "<th>label high</th><th>label low</th>" in page.replace("\n", "")
    assert not (run.workdir / "figures" / "gallery_highest_loss.png").exists()


@pytest.mark.parametrize("question", ["class_unlearning", "decentralized", "continual_learning"])
def test_a_question_that_measures_on_a_test_split_says_so(question, ask, own):
    flags = own(train=images(40))
    run = ask(question, "--preset", "smoke", *flags[-4:])
    assert run.status == 2
    assert run.err.splitlines()[0] == (
        "error: mine has no test split, on which this experiment measures: put one beside train."
    )


def test_own_positions_are_kept(ask, own):
    run = ask("memorization", *own(train=images(60) | {"index": np.arange(60) + 1000}, test=images(12)))
    assert not any(name.startswith(("auroc", "precision", "duplicates")) for name in run.figures)
    found = np.load(run.workdir / "scores.npz")
    assert set(found["index"]) == set(range(1000, 1060))
    assert (found["true_label"] == -1).all()


def test_labels_with_gaps_are_numbered_anew_and_say_so(ask, own):
    train, test = images(40), images(12)
    for part in (train, test):
        part["label"] = np.array([7, 500, 9000])[part["label"]]
    with pytest.warns(UserWarning, match="9000"):
        run = ask("memorization", *own(train=train, test=test))
    assert {(row["given_label"], row["given_name"]) for row in rows_of(run)} == {
        ("0", "7"), ("1", "500"), ("2", "9000"),
    }  # fmt: skip


def test_samples_that_cut_classes_away_are_told(ask, own):
    train, test = images(60), images(12)
    train["label"] = np.sort(train["label"])
    with pytest.warns(UserWarning, match="--samples 30 leaves no training sample of class 2"):
        ask("memorization", *own(train=train, test=test), "--samples", "30")


def test_test_images_of_another_size_are_refused(ask, own):
    run = ask("memorization", *own(train=images(40), test=images(12, size=7)))
    assert run.status == 2
    assert "6 x 6 x 1, test samples image 7 x 7 x 1" in run.err.splitlines()[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "21", "--batch", "16"], "--batch 16 is larger than the 14 samples of the folds: at most 14"),
        (["--samples", "30", "--batch", "16"], "--batch 16 is larger than the 15 samples of the halves: at most 15"),
    ],
)
def test_folds_and_halves_hold_a_batch(flags, message, ask, own):
    run = ask("memorization", *own(train=images(60), test=images(12)), "--refits", *flags)
    assert run.status == 2
    assert run.err.splitlines()[0] == f"error: {message}."
    assert "--resume" not in run.err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": np.zeros(40, int)}, "a search for suspects"),
        ({"image": np.zeros((40, 6, 6, 1), np.uint8)}, "samples"),
    ],
)
def test_one_class_and_constant_data_are_refused(columns, message, ask, own):
    run = ask("memorization", *own(train=images(40) | columns))
    assert run.status == 2
    assert message in run.err.splitlines()[0]


def test_augmentation_needs_images(ask, own):
    x = {"x": np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32), "label": np.arange(40) % 2}
    run = ask("memorization", *own(train=x), "--augment")
    assert run.status == 2
    assert "mine has rows of numbers (x), and these flags need images" in run.err


def test_an_epoch_of_a_run_is_chosen(ask, finished):
    other = str(finished("memorization").workdir)
    run = ask("memorization", "--preset", "smoke", "--checkpoint", other, "--epoch", "4")
    assert run.status == 2
    assert "6" in run.err.splitlines()[0]
