"""Data as people have them: folders of images, labels with names or gaps, rows of numbers, no test split."""

import warnings

import numpy as np
import pytest
from PIL import Image

from subspace_jax import data

GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8)
FILES = ["cat/b.PNG", "cat/c.png", "dog/a.png", "dog/b.png", "emu/a.png"]  # sorted by class, then by name


def write(folder, files, images):
    for name, image in zip(files, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


def save(folder, split, **columns):
    np.savez(folder / f"{split}.npz", **columns)


def by_index(columns):
    order = np.argsort(columns["index"])
    return {key: column[order] for key, column in columns.items()}


def rows(n):
    return np.zeros((n, 2))


def test_folder_of_images(tmp_path):
    write(tmp_path / "mine" / "train", FILES, GREY)
    (tmp_path / "mine" / "train" / "cat" / "._b.png").write_bytes(b"left by macOS")
    (tmp_path / "mine" / "train" / "cat" / "notes.txt").touch()
    (tmp_path / "mine" / "train" / "void").mkdir()
    found = by_index(data.load("mine", "train", tmp_path))
    np.testing.assert_array_equal(found["image"], GREY[..., None])
    assert found["label"].tolist() == [0, 0, 1, 1, 2]
    assert found["index"].tolist() == [0, 1, 2, 3, 4]
    assert data.class_names("mine", tmp_path) == ("cat", "dog", "emu")


def test_first_rows_of_a_folder_are_a_fair_draw_and_more_files_leave_their_order(tmp_path):
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(30)]
    write(tmp_path / "train", names, np.arange(60, dtype=np.uint8)[:, None, None] + np.zeros((2, 2), np.uint8))
    before = data.load("mine", "train", tmp_path)
    assert 8 <= before["label"][:30].sum() <= 22
    write(tmp_path / "train", ["a/00.png"], [np.full((2, 2), 99, np.uint8)])
    after = data.load("mine", "train", tmp_path)["image"]
    assert [v for v in after[:, 0, 0, 0] if v != 99] == before["image"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_colour_file_of_any_split_makes_three_channels(tmp_path, split):
    write(tmp_path / "train", FILES, GREY)
    write(tmp_path / "test", FILES[:1], [COLOUR] if split == "test" else GREY[:1])
    if split == "train":
        write(tmp_path / "train", ["cat/a.png"], [COLOUR])
    found = data.load_splits("mine", tmp_path)
    assert found.train["image"].shape[1:] == found.test["image"].shape[1:] == (6, 4, 3)
    grey = by_index(found.train)["image"][-1]
    np.testing.assert_array_equal(grey, np.repeat(GREY[-1][..., None], 3, axis=2))


def test_jpeg_is_turned_upright(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    Image.new("L", (8, 4)).save(tmp_path / "train" / "cat" / "a.jpg", exif=exif)
    assert data.load("mine", "train", tmp_path)["image"].shape == (1, 8, 4, 1)


def test_image_size_cuts_the_longer_side_evenly(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 3:9] = 200  # the middle, which stays
    write(tmp_path / "train", ["cat/a.png", "dog/b.png"], [wide, np.full((2, 2), 200, np.uint8)])
    with pytest.raises(
        ValueError, match=r"several sizes \(.*cat/a.png is 4 x 12.*dog/b.png is 2 x 2.*--image-size"
    ) as refusal:
        data.load("mine", "train", tmp_path)
    assert str(tmp_path) in str(refusal.value)
    image = data.load("mine", "train", tmp_path, image_size=2)["image"]
    np.testing.assert_array_equal(image, np.full((2, 2, 2, 1), 200))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        data.load("mine", "train", tmp_path, image_size=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "b.png is no PNG or JPEG image: it starts with b'<html>', a web page"),
        (b"", "b.png is no PNG or JPEG image: it is empty; replace or remove it"),
        ("cut", "b.png is cut or damaged"),
        ("deep", "b.png has more than 8 bits a pixel"),
    ],
)
def test_unreadable_image_is_named(tmp_path, content, message):
    path = tmp_path / "train" / "dog" / "b.png"
    write(tmp_path / "train", FILES[:4], GREY[:4])
    if content == "deep":
        Image.fromarray(np.full((6, 4), 40_000, np.uint16)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:50] if content == "cut" else content)
    with pytest.raises(ValueError, match=message):
        data.load("mine", "train", tmp_path)


def test_image_size_of_other_sources_must_be_theirs(tmp_path):
    save(tmp_path, "train", image=GREY, label=np.arange(5))
    with pytest.raises(ValueError, match="has images of 6 x 4 pixels; image_size 6 scales folders of images only"):
        data.load("mine", "train", tmp_path, image_size=6)
    save(tmp_path, "train", x=rows(5), label=np.arange(5))
    with pytest.raises(ValueError, match="has rows of numbers; image_size 6"):
        data.load("mine", "train", tmp_path, image_size=6)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_text_labels_are_numbered_alike_in_all_splits(tmp_path, kind):
    def text(*labels):
        return np.array(labels).astype(kind)

    save(
        tmp_path,
        "train",
        x=rows(4),
        label=text("emu", "cat", "dog", "cat"),
        human_label=text("cat", "cat", "dog", "emu"),
    )
    save(tmp_path, "test", x=rows(2), label=text("emu", "dog"))
    found = data.load_splits("mine", tmp_path)
    assert found.names == data.class_names("mine", tmp_path) == ("cat", "dog", "emu")
    assert found.classes == 3
    assert found.train["label"].tolist() == [2, 0, 1, 0]
    assert found.train["human_label"].tolist() == [0, 0, 1, 2]
    assert found.test["label"].tolist() == data.load("mine", "test", tmp_path)["label"].tolist() == [2, 1]
    save(tmp_path, "test", x=rows(2), label=text("emu", "yak"))
    with pytest.raises(ValueError, match=r"mine test in .*no training sample has the label yak, only cat, dog, emu"):
        data.load("mine", "test", tmp_path)
    save(tmp_path, "test", x=rows(2), label=np.array([0, 1]))
    with pytest.raises(ValueError, match="label is int64, in training <U3"):
        data.load_splits("mine", tmp_path)


def test_numbers_with_gaps_are_renumbered_with_a_warning(tmp_path):
    save(
        tmp_path,
        "train",
        x=rows(4),
        label=np.array([9000, 3, 70, 3]),
        worse_label=np.array([3, 3, 70, 9000]),
        writer=np.arange(4),
    )
    save(tmp_path, "test", x=rows(2), label=np.array([70, 9000]))
    with pytest.warns(UserWarning, match="3 classes with the numbers 3, 70, 9000 are numbered 0 to 2 without gaps"):
        found = data.load_splits("mine", tmp_path)
    assert (found.classes, found.names) == (3, ("3", "70", "9000"))
    assert found.train["label"].tolist() == [2, 0, 1, 0]
    assert found.train["worse_label"].tolist() == [0, 0, 1, 2]
    assert found.train["writer"].tolist() == [0, 1, 2, 3]
    assert found.test["label"].tolist() == [1, 2]


def test_numbers_without_gaps_stay_and_have_no_names(tmp_path):
    save(tmp_path, "train", x=rows(3), label=np.array([2, 0, 1], np.uint8))
    save(tmp_path, "test", x=rows(1), label=np.array([2]))  # a gap here is none
    save(tmp_path, "other", x=rows(1), label=np.array([3]))
    with warnings.catch_warnings(action="error"):
        found = data.load_splits("mine", tmp_path)
    assert (found.classes, found.names, found.test["label"].tolist()) == (3, None, [2])
    with pytest.raises(ValueError, match="no training sample has the label 3, only 0, 1, 2"):
        data.load("mine", "other", tmp_path)


def test_set_without_test_split(tmp_path):
    save(tmp_path, "val", image=GREY, label=np.arange(5))
    with pytest.raises(FileNotFoundError, match="has no split 'train', only 'val'"):
        data.load_splits("mine", tmp_path)
    save(tmp_path, "train", image=GREY, label=np.arange(5), writer=np.arange(5))
    found = data.load_splits("mine", tmp_path)
    assert data.splits("mine", tmp_path) == ("train", "val")
    assert {key: (column.shape, column.dtype) for key, column in found.test.items()} == {
        key: ((0, *column.shape[1:]), column.dtype) for key, column in found.train.items()
    }
    with pytest.raises(FileNotFoundError, match="has no split 'test', only 'train' and 'val': put test beside it"):
        data.load("mine", "test", tmp_path)


def test_a_set_is_not_completed_from_another_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine", "train", x=rows(2), label=np.arange(2))
    save(tmp_path, "test", x=rows(2), label=np.arange(2))
    assert len(data.load_splits("mine", tmp_path).test["label"]) == 0


def test_splits_of_two_sizes_are_refused(tmp_path):
    save(tmp_path, "train", image=GREY, label=np.arange(5))
    save(tmp_path, "test", image=GREY[:, :5], label=np.arange(5))
    with pytest.raises(
        ValueError, match=r"training samples are image 6 x 4 x 1, test samples image 5 x 4 x 1; .*--image-size"
    ):
        data.load_splits("mine", tmp_path)
    save(tmp_path, "test", x=rows(5), label=np.arange(5))
    with pytest.raises(
        ValueError, match="training samples are image 6 x 4 x 1, test samples x 2; bring both to one size"
    ):
        data.load_splits("mine", tmp_path)


def test_rows_of_numbers_keep_their_scale(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(">f8")
    save(tmp_path, "train", x=x, label=np.arange(3))
    found = data.load("mine", "train", tmp_path)
    assert list(found) == ["x", "label", "index"]
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(data.inputs(found), x.astype(np.float32))
    scaling = data.scaling("mine", found["x"])
    np.testing.assert_array_equal(data.scale(found["x"], scaling), found["x"])
    with pytest.raises(ValueError, match="scaling has 5 channels, image has 4"):
        data.scale(found["x"][:, :4], scaling)


def test_digits_come_in_both_splits():
    found = data.load_splits("digits")
    assert [len(part["label"]) for part in (found.train, found.test)] == [1437, 360]
    assert (found.classes, found.names, data.splits("digits")) == (10, None, ("test", "train"))
    with pytest.raises(ValueError, match="digits has images of 8 x 8 pixels; image_size 32"):
        data.load("digits", "train", image_size=32)
