"""Folders as `datasets.Dataset.save_to_disk` writes them, made here by pyarrow alone."""

import io
import json

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image

from subspace_jax import data

STRUCT = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def saved(folder, columns, *, names=None, files=2, info=True):
    """Rows in several files; `names` are those of a ClassLabel."""
    folder.mkdir(parents=True)
    table, listed = arrow.table(columns), []
    for k in range(files):
        own = table.slice(k * len(table) // files, (k + 1) * len(table) // files - k * len(table) // files)
        listed.append({"filename": f"data-{k:05}-of-{files:05}.arrow"})
        path = str(folder / listed[-1]["filename"])
        with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(own)
    (folder / "state.json").write_text(json.dumps({"_data_files": listed, "_split": None}))
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    if info:
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def pictures(count, shape=(6, 5, 3)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def images_of(pixels):
    return arrow.array([encoded(own) for own in pixels], STRUCT)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_images_labels_and_names_of_all_splits(kind, tmp_path):
    pixels = pictures(7, (6, 5) if kind == "grey" else (6, 5, 3))
    for split, count in (("train", 7), ("test", 3)):
        columns = {"image": images_of(pixels[:count]), "label": np.arange(count) % 3, "note": [None] * count}
        saved(tmp_path / "pets" / split, columns, names=["cat", "dog", "eel"])
    (tmp_path / "pets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = data.load_splits("pets", tmp_path)
    np.testing.assert_array_equal(found.train["image"], pixels[..., None] if kind == "grey" else pixels)
    np.testing.assert_array_equal(found.train["label"], np.arange(7) % 3)
    np.testing.assert_array_equal(found.test["index"], np.arange(3))
    assert set(found.train) == {"image", "label", "index"}
    assert (found.names, found.classes) == (("cat", "dog", "eel"), 3)
    assert data.splits("pets", tmp_path) == ("test", "train")


def test_a_set_saved_alone_is_train_and_cifar_keeps_its_second_label(tmp_path):
    columns = {"img": images_of(pictures(4)), "fine_label": [0, 1, 1, 0], "coarse_label": [5, 6, 6, 5]}
    saved(tmp_path / "alone", columns, files=1)
    found = data.load("alone", "train", tmp_path)
    assert set(found) == {"image", "label", "coarse_label", "index"}
    assert found["coarse_label"].tolist() == [5, 6, 6, 5]


def test_rows_of_numbers_and_labels_of_text(tmp_path):
    columns = {"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "label": ["verb", "noun", "verb"], "index": [40, 7, 2]}
    saved(tmp_path / "words" / "train", columns)
    found = data.load_splits("words", tmp_path)
    assert found.train["x"].tolist() == columns["x"]
    assert found.train["index"].tolist() == [40, 7, 2]
    assert found.train["label"].tolist() == [1, 0, 1]
    assert found.names == ("noun", "verb")


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    mixed = [encoded(pictures(1, shape)[0]) for shape in ((6, 6), (8, 10))]
    saved(tmp_path / "own" / "train", {"image": arrow.array(mixed, STRUCT), "label": [0, 1]})
    with pytest.raises(ValueError, match=r"row 0 is 6 x 6, row 1 is 8 x 10.*--image-size"):
        data.load("own", "train", tmp_path)
    assert data.load("own", "train", tmp_path, image_size=4)["image"].shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "has no image .or x., only label"),
        ({"x": [[1.0], [2.0]]}, "has no label, only x"),
        ({"x": [[1.0], [2.0, 3.0]], "label": [0, 1]}, "x holds rows of several sizes"),
        ({"x": [[1.0], [2.0]], "label": [0, None]}, "label lacks a value in 1 rows"),
        ({"image": arrow.array([{"bytes": None, "path": "/a.png"}] * 2, STRUCT), "label": [0, 1]}, "the path /a.png"),
        ({"image": arrow.array([{"bytes": b"GIF9", "path": None}] * 2, STRUCT), "label": [0, 1]}, "no PNG or JPEG"),
    ],
)
def test_what_cannot_be_read_is_named(columns, message, tmp_path):
    saved(tmp_path / "own" / "train", columns)
    with pytest.raises(ValueError, match=message):
        data.load("own", "train", tmp_path)


def test_a_cut_file_is_named(tmp_path):
    saved(tmp_path / "own" / "train", {"x": [[1.0], [2.0]], "label": [0, 1]}, files=1)
    path = tmp_path / "own" / "train" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="own/train is cut or damaged"):
        data.load("own", "train", tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="own/train is cut or damaged"):
        data.load("own", "train", tmp_path)
    (tmp_path / "own" / "train" / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_info\.json is missing or damaged"):
        data.load("own", "train", tmp_path)
