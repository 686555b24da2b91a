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
        ({"image": IMAGE.astype(np.float32)}, "image holds raw pixels as uint8, got float32; save them before"),
        ({"image": IMAGE.reshape(3, 16)}, r"got \(3, 16\); reshape it"),
        ({"image": IMAGE[:0], "label": LABEL[:0]}, "is not empty, got"),
        ({"image": np.zeros((3, 3, 8, 8), np.uint8)}, r"channels come last, got \(3, 3, 8, 8\); save image.transpose"),
        ({"label": LABEL[:2]}, r"label is one integer for each of the 3 images, shape \(3,\), got int64 \(2,\)"),
        ({"label": np.eye(3, dtype=int)}, "one-hot labels by argmax"),
        ({"label": LABEL / 2}, "got float64"),
        ({"label": LABEL - 1}, "label starts at 0, got -1; drop or renumber"),
        ({"label": LABEL + 2**31}, "got 2147483650; number the classes"),
        ({"index": LABEL[:2]}, "index is one integer for each"),
        ({"index": np.array([4, 7, 7])}, "7 stands 2 times; give each sample its position"),
        ({"index": LABEL - 5}, "index starts at 0, got -5"),
        ({"label": np.array([None] * 3)}, "no archive of plain arrays .*allow_pickle=False"),
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
    ("name", "content", "message"),
    [
        ("train.npz", b"no archive", "no archive of plain arrays"),
        ("train-labels-idx1-ubyte", HEADER + b"abc", "train-labels-idx1-ubyte alone; put the file of images by"),
        ("train-images-idx3-ubyte", HEADER + b"ab", r"announces 3 bytes \(3,\) and holds 2; get it again"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\1" + HEADER, "no idx file of unsigned bytes"),
        ("train-images-idx3-ubyte", b"\0", "is damaged"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "is damaged .Not a gzipped file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(HEADER + bytes(99), mtime=0)[:-9], "is damaged"),
        ("train-images-idx3-ubyte.xz", b"no xz", "is damaged"),
        ("data_batch_2", b"", "lacks data_batch_1, data_batch_3, data_batch_4, data_batch_5 of 5 batches"),
        ("train", b"no pickle", "train is no CIFAR python batch"),
        ("train", b"\x80\x02}.", "is no CIFAR python batch .'data'"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if name.startswith("train-images"):
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(HEADER + b"abc")
    with pytest.raises(ValueError, match=message):
        data.load("mine", "train", tmp_path)


@pytest.mark.parametrize("given", [None, "", "absent"])
def test_missing_set_names_the_four_ways(tmp_path, monkeypatch, given):
    monkeypatch.delenv("SUBSPACE_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError) as refusal:
        data.load("mine", "train", None if given is None else tmp_path / given)
    sentence = str(refusal.value)
    for part in ("'mine'", "train.npz", "TFDS array_record", "idx files", "CIFAR python batches", "SUBSPACE_DATA_DIR"):
        assert part in sentence
    assert ("no data folder was named" if given is None else str(tmp_path / given / "mine")) in sentence
