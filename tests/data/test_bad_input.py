"""Bad input is refused in one sentence that holds the value and the remedy."""

import gzip
import struct

import numpy as np
import pytest

from subspace_jax import data

IMAGE = np.zeros((3, 4, 4, 1), np.uint8)
LABEL = np.arange(3)
HEADER = struct.pack(">HBBI", 0, 8, 1, 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": IMAGE + 0.5},
            "whole pixels 0..255, got float64 such as 0.5; save them before any scaling, as uint8",
        ),
        ({"image": IMAGE + np.int64(300)}, "got int64 from 300 to 300; bring them to 0..255 .16 bits"),
        ({"image": IMAGE - np.int16(1)}, "got int16 from -1 to -1; bring them"),
        ({"image": IMAGE.astype("U1")}, "got <U1; save it as uint8"),
        ({"image": IMAGE.reshape(3, 16)}, r"got \(3, 16\); reshape it"),
        ({"image": IMAGE[:0], "label": LABEL[:0]}, "is not empty, got"),
        ({"image": np.zeros((3, 3, 8, 8), np.uint8)}, r"channels come last, got \(3, 3, 8, 8\); save image.transpose"),
        ({"label": LABEL[:2]}, "image has 3 samples and label has 2; select the same in both"),
        ({"label": np.eye(3, dtype=int)}, r"shape \(3, 3\); one-hot labels become numbers by argmax"),
        ({"label": LABEL.reshape(3, 1, 1)}, r"shape \(n,\), got \(3, 1, 1\); use ravel"),
        ({"label": LABEL[:, None]}, r"shape \(n,\), got \(3, 1\); use ravel"),
        ({"label": LABEL / 2}, "got float64; number the classes, or cut a quantity"),
        ({"label": LABEL * 1.0}, r"got float64; cast them by label.astype\(int\)"),
        ({"label": LABEL * 1j}, "got complex128; save them as integers"),
        ({"label": LABEL - 1}, "label starts at 0, got -1; drop or renumber"),
        ({"index": LABEL[:2]}, "image has 3 samples and index has 2; select the same in both"),
        ({"index": LABEL / 1}, "index is one integer for each sample.*got float64.*; leave it out"),
        ({"index": np.array([4, 7, 7])}, "7 stands 2 times; give each sample its position"),
        ({"index": LABEL - 5}, "index starts at 0, got -5"),
        ({"label": np.array(["a", None, "b"])}, "label holds Python objects.* to str"),
        ({"image": np.array([None] * 3)}, "image holds Python objects.* to int or float"),
    ],
)
def test_bad_columns(tmp_path, columns, message):
    np.savez(tmp_path / "train.npz", **{"image": IMAGE, "label": LABEL} | columns)
    with pytest.raises(ValueError, match=message) as refusal:
        data.load("mine", "train", tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_npz_without_labels(tmp_path):
    np.savez(tmp_path / "train.npz", image=IMAGE, y=LABEL)
    with pytest.raises(ValueError, match="has no label, only image, y; rename the arrays"):
        data.load("mine", "train", tmp_path)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 2, 2)), r"one row of numbers for each sample, \(n, d\), got \(3, 2, 2\); reshape it"),
        (np.array([[0, 1], [2, np.nan], [np.inf, 3]]), r"row 1, column 1 is nan \(2 in all\); fill them"),
        (np.full((3, 1), 1e300), "row 0, column 0 is inf .3 in all"),  # beyond float32
        (np.array([["a"]] * 3), "x holds numbers, got <U1"),
    ],
)
def test_bad_rows(tmp_path, x, message):
    np.savez(tmp_path / "train.npz", x=x, label=LABEL)
    with pytest.raises(ValueError, match=message):
        data.load("mine", "train", tmp_path)


@pytest.mark.parametrize("kind", [np.int64, np.float64, ">i2"])
def test_pixels_of_other_types_are_taken_where_they_are_bytes(tmp_path, kind):
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1) * 5
    np.savez(tmp_path / "train.npz", image=image.astype(kind), label=LABEL)
    found = data.load("mine", "train", tmp_path)["image"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image)


def test_labels_beyond_int32(tmp_path):
    np.savez(tmp_path / "odd.npz", image=IMAGE, label=LABEL + 2**31)  # no training split, whose gaps would close
    with pytest.raises(ValueError, match="got 2147483650; number the classes"):
        data.load("mine", "odd", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.npz",
            b"<!DOCTYPE html><title>Sign in",
            "no npz archive: it starts with b'<!DOCTYPE html>', a web page.*; get",
        ),
        ("train.npz", b"", "no npz archive: it is empty; get it again"),
        ("train.npz", b"\x93NUMPY\x01", "no npz archive: it starts with .*; save the arrays together by numpy.savez"),
        ("train.npz", b"PK\x03\x04 and no more", "is cut or damaged"),
        ("train-labels-idx1-ubyte", HEADER + b"\0\1\2", "train-labels-idx1-ubyte alone; put the file of images by"),
        ("train-images-idx3-ubyte", HEADER + b"ab", r"announces 3 bytes \(3,\) and holds 2; get it again"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\1" + HEADER, "no idx file of unsigned bytes"),
        ("train-images-idx3-ubyte", b"\0", "no idx file of unsigned bytes"),
        (
            "train-images-idx3-ubyte.gz",
            b"<html>",
            "no idx file of unsigned bytes: it starts with b'<html>', a web page",
        ),
        ("train-images-idx3-ubyte.gz", gzip.compress(HEADER + bytes(99), mtime=0)[:-9], "is cut or damaged"),
        ("train-images-idx3-ubyte", b"\xfd7 no xz", "is cut or damaged"),
        ("data_batch_2", b"", "lacks data_batch_1, data_batch_3, data_batch_4, data_batch_5 of 5 batches"),
        ("train", b"no pickle", "train is no CIFAR python batch"),
        ("train", b"\x80\x02}.", "is no CIFAR python batch .'data'"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if name.startswith("train-images"):
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(HEADER + b"\0\1\2")
    with pytest.raises(ValueError, match=message):
        data.load("mine", "train", tmp_path)


@pytest.mark.parametrize("given", [None, "", "absent"])
def test_missing_set_names_the_six_ways(tmp_path, monkeypatch, given):
    monkeypatch.delenv("SUBSPACE_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError) as refusal:
        data.load("mine", "train", None if given is None else tmp_path / given)
    sentence = str(refusal.value)
    for part in (
        "'mine'",
        "train.npz",
        "TFDS array_record",
        "idx files",
        "CIFAR python batches",
        "Hugging Face",
        "<class>/*.png",
        "_DATA_DIR",
    ):
        assert part in sentence
    assert ("no data folder was named" if given is None else str(tmp_path / given / "mine")) in sentence


def test_missing_set_says_what_lies_there(tmp_path):
    for name in "abcdefg":
        (tmp_path / name).touch()
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match=r"mine is empty and .* holds a, b, c, d, e and 3 more"):
        data.load("mine", "train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"/a/mine does not exist and .*/a is no folder"):
        data.load("mine", "train", tmp_path / "a")
