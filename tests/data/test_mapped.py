"""Splits that stay on disk are those that `load` gives, without being read."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from subspace_jax import data
from subspace_jax.data import builder

N = 12
IMAGE = np.random.default_rng(0).integers(0, 256, (N, 5, 4, 3), dtype=np.uint8)
LABEL = np.arange(N) % 3


def saved(folder, **columns):
    (folder / "train").mkdir()
    for name, values in columns.items():
        np.save(folder / "train" / f"{name}.npy", values)
    return folder


def test_arrays_are_mapped_and_labels_read(tmp_path):
    found = data.mapped(saved(tmp_path, image=IMAGE, label=LABEL, index=np.arange(N) + 5))
    assert isinstance(found["image"], np.memmap)
    rows = np.array([3, 1, 11])
    np.testing.assert_array_equal(found["image"][rows], IMAGE[rows])
    np.testing.assert_array_equal(found["index"], np.arange(N) + 5)
    assert (found["label"].dtype, found["index"].dtype) == (np.int32, np.int64)


def test_grey_images_get_a_channel_and_rows_of_numbers_are_x(tmp_path):
    for name, column in (("grey", {"image": IMAGE[..., 0]}), ("rows", {"x": IMAGE[:, 0, 0].astype(np.float32)})):
        (tmp_path / name).mkdir()
        found = data.mapped(saved(tmp_path / name, label=LABEL, **column))
        (key, values), *_ = found.items()
        assert (key in column, values.shape) == (True, (N, 5, 4, 1) if key == "image" else (N, 3))
        np.testing.assert_array_equal(found["index"], np.arange(N))


class Shuffled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images that tfds writes in an order of its own."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    pkg_dir_path = None

    def _info(self):
        features = {
            "image": tfds.features.Tensor(shape=(5, 4, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=3),
            "index": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, description="", features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(N):
            yield i, {"image": IMAGE[i], "label": LABEL[i], "index": i}


def test_records_are_read_by_row_in_the_original_order(tmp_path, monkeypatch):
    made = Shuffled(data_dir=tmp_path, file_format="array_record")
    made.download_and_prepare()
    monkeypatch.setattr(builder, "MANY", 5)
    found = data.mapped(made.data_path)
    assert (found["image"].shape, found["image"].dtype, len(found["image"])) == (IMAGE.shape, np.uint8, N)
    rows = np.array([7, 0, 0, 4])
    np.testing.assert_array_equal(found["image"][rows], IMAGE[rows])
    np.testing.assert_array_equal(found["label"], LABEL)
    np.testing.assert_array_equal(found["index"], np.arange(N))
    whole = data.load("shuffled", "train", made.data_path)
    np.testing.assert_array_equal(found["image"][np.arange(N)], whole["image"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": LABEL}, "has label.npy, but no image.npy or x.npy"),
        ({"image": IMAGE / 255.0, "label": LABEL}, "save it as uint8, not float64"),
        ({"x": np.ones((N, 2)), "label": LABEL}, "save it as float32, not float64"),
        ({"image": np.zeros((N, 3, 8, 8), np.uint8), "label": LABEL}, "channels come last"),
        ({"image": IMAGE, "label": LABEL[1:]}, "image has 12 samples and label has 11"),
        ({"image": IMAGE, "label": LABEL, "index": np.zeros(N, int)}, "index names each sample once"),
        ({"image": IMAGE, "label": LABEL - 1}, "label"),
    ],
)
def test_what_load_refuses_is_refused(columns, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.mapped(saved(tmp_path, **columns))


def test_a_folder_of_neither_form_is_named(tmp_path):
    np.savez(tmp_path / "train.npz", image=IMAGE, label=LABEL)
    with pytest.raises(FileNotFoundError, match=r"has neither train/label.npy .* nor a TFDS set in array_record"):
        data.mapped(tmp_path)


@pytest.mark.parametrize("name", ["image", "label", "index"])
@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: raw[:20] + raw[21:]])
def test_a_damaged_file_is_named(name, damage, tmp_path):
    folder = saved(tmp_path, image=IMAGE, label=LABEL, index=np.arange(N))
    path = folder / "train" / f"{name}.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} is cut or damaged .*; get it again") as told:
        data.mapped(folder)
    assert "\n" not in str(told.value)


def test_a_row_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    x = np.ones((N, 3), np.float32)
    x[7, 1], x[9] = np.nan, np.inf
    found = data.mapped(saved(tmp_path, x=x, label=LABEL))["x"]
    np.testing.assert_array_equal(found[np.arange(7)], x[:7])
    for rows, row in ((np.array([1, 9, 7]), 9), (slice(5, 9), 7), (7, 7)):
        with pytest.raises(ValueError, match=rf"x.npy holds finite numbers, but not in row {row}; fill them, or drop"):
            found[rows]


@pytest.mark.parametrize("size", [0, 70_000])
def test_records_that_are_cut_are_named(size, tmp_path):
    made = Shuffled(data_dir=tmp_path, file_format="array_record")
    made.download_and_prepare()
    (records,) = pathlib.Path(made.data_path).glob("*.array_record*")
    records.write_bytes(records.read_bytes()[:size])
    for read in (data.mapped, lambda folder: data.load("shuffled", "train", folder)):
        with pytest.raises(ValueError, match=f"{made.data_path} is cut or damaged .*; get or prepare it again"):
            read(made.data_path)
