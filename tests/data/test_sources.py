"""Every source, written by the test in its original format; whatever the source, the arrays are the same."""

import codecs
import gzip
import io
import lzma
import os
import pickle
import struct

import chex
import numpy as np
import pytest
import tensorflow_datasets as tfds

from subspace_jax import data

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
GRAY = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 32, 32, 3), np.uint8)
LABEL = np.arange(10)[::-1].copy()
COARSE = LABEL % 3


def loaded(image, **columns):
    """What `load` owes for them."""
    columns = {key: column.astype(np.int32) for key, column in columns.items()}
    return {"image": image, "label": columns.pop("label"), "index": np.arange(len(image)), **columns}


def write_idx(path, array, opener=open):
    with opener(path, "wb") as file:
        file.write(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape))
        file.write(array.astype(np.uint8).tobytes())


def write_batch(path, image, protocol=2, **labels):
    planes = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
    batch = {b"data": planes, b"batch_label": b"one", b"filenames": [b"a.png"]}
    batch |= {key.encode(): column.tolist() for key, column in labels.items()}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))


def write_tfds(folder, columns, features):
    class Mine(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.10.0")
        code_path = None  # see builder.Digits

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for row in range(len(columns["label"])):
                yield row, {key: column[row] for key, column in columns.items()}

    Mine(data_dir=folder, file_format="array_record").download_and_prepare()


def png(image):
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(image).save(file := io.BytesIO(), "png")
    return io.BytesIO(file.getvalue())


@pytest.mark.parametrize("end", OPENERS)
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_idx(tmp_path, split, stem, mark, end):
    write_idx(tmp_path / f"{stem}-images{mark}idx3-ubyte{end}", GRAY[..., 0], OPENERS[end])
    write_idx(tmp_path / f"{stem}-labels{mark}idx1-ubyte{end}", LABEL, OPENERS[end])
    found = data.load("mnist", split, tmp_path)
    chex.assert_trees_all_equal(found, loaded(GRAY, label=LABEL))
    found["image"][0] = 0  # the caller's own


@pytest.mark.parametrize(("end", "opener"), [("", gzip.open), ("", lzma.open), (".gz", open)])
def test_idx_is_read_by_its_first_bytes(tmp_path, end, opener):
    """Browsers and tools drop `.gz` and keep the compression, or unpack and keep the name."""
    write_idx(tmp_path / f"train-images-idx3-ubyte{end}", GRAY[..., 0], opener)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{end}", LABEL, opener)
    chex.assert_trees_all_equal(data.load("mnist", "train", tmp_path), loaded(GRAY, label=LABEL))


@pytest.mark.parametrize("inner", ["", "cifar10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_batches_are_joined_in_order(tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        rows = slice(2 * i, 2 * i + 2)
        write_batch(folder / f"data_batch_{i + 1}", COLOUR[rows], labels=LABEL[rows])
    write_batch(folder / "test_batch", COLOUR[:3], labels=LABEL[:3])
    chex.assert_trees_all_equal(data.load("cifar10", "train", tmp_path), loaded(COLOUR, label=LABEL))
    chex.assert_trees_all_equal(data.load("cifar10", "test", tmp_path), loaded(COLOUR[:3], label=LABEL[:3]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar100_keeps_both_labels(tmp_path, protocol):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    write_batch(folder / "train", COLOUR, protocol, fine_labels=LABEL, coarse_labels=COARSE)
    found = data.load("cifar100", "train", tmp_path)
    chex.assert_trees_all_equal(found, loaded(COLOUR, label=LABEL, coarse_label=COARSE))


def test_batch_as_python_2_wrote_it(tmp_path):
    """Names of NumPy 1 and byte strings of Python 2, as in the published archives."""
    write_batch(tmp_path / "test_batch", COLOUR, labels=LABEL)
    raw = (tmp_path / "test_batch").read_bytes()
    old = raw.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != raw
    (tmp_path / "test_batch").write_bytes(old)
    chex.assert_trees_all_equal(data.load("cifar10", "test", tmp_path), loaded(COLOUR, label=LABEL))


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("call", [(os.mkdir, "harm"), (eval, "1"), (codecs.encode, "1", "rot13")])
def test_foreign_pickle_is_refused_and_not_run(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil(*call), b"labels": [0]}))
    with pytest.raises(ValueError, match=r"it asks for .*; get the original archive again"):
        data.load("cifar10", "test", tmp_path)
    assert not (tmp_path / "harm").exists()


def test_npz_keeps_its_index_and_every_integer_column(tmp_path):
    index, human = LABEL + 100, COARSE - 1
    names = np.array(["cat", "dog"])
    np.savez(
        tmp_path / "train.npz",
        image=GRAY[..., 0], label=LABEL.astype(np.uint8), index=index, aggre_label=human, lossy=index[:3],
        weight=LABEL / 10, class_names=names, notes=np.array([None] * 10),
    )  # fmt: skip
    expected = loaded(GRAY, label=LABEL, aggre_label=human) | {"index": index}
    chex.assert_trees_all_equal(data.load("mine", "train", tmp_path), expected)


def test_npz_of_any_split_in_the_sets_own_folder_from_the_environment(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "validation.npz", image=GRAY, label=LABEL)
    np.savez(tmp_path / "validation.npz", image=GRAY + 1, label=LABEL)
    monkeypatch.setenv("SUBSPACE_DATA_DIR", str(tmp_path))
    chex.assert_trees_all_equal(data.load("mine", "validation"), loaded(GRAY, label=LABEL))
    np.testing.assert_array_equal(data.load("other", "validation")["image"], GRAY + 1)


def test_tfds_folder_comes_in_the_original_order(tmp_path):
    """Images as png and text ids, as tfds stores CIFAR-100; tfds shuffles them when it writes."""
    columns = {
        "image": [png(image) for image in COLOUR],
        "id": [f"train_{i:05d}" for i in range(10)],
        "label": LABEL,
        "coarse_label": COARSE,
    }
    number = tfds.features.ClassLabel(num_classes=10)
    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "id": tfds.features.Text()}
    write_tfds(tmp_path, columns, features | {"label": number, "coarse_label": number})
    (tmp_path / "mine" / "1.9.0").mkdir()  # an older version
    expected = loaded(COLOUR, label=LABEL, coarse_label=COARSE)
    chex.assert_trees_all_equal(data.load("mine", "train", tmp_path), expected)
    chex.assert_trees_all_equal(data.load("anything", "train", tmp_path / "mine" / "1.10.0"), expected)
    with pytest.raises(FileNotFoundError, match=r"mine in .* has no split 'test', only 'train'"):
        data.load("mine", "test", tmp_path)
    assert data.splits("mine", tmp_path) == ("train",)


@pytest.mark.parametrize(
    ("ids", "message"),
    [(None, "stores no original position"), (["a1b"] * 10, "do not end in a position"), (["a1"] * 10, "1 stands 10")],
)
def test_tfds_folder_without_positions_is_refused(tmp_path, ids, message):
    columns = {"image": GRAY, "label": LABEL} | ({} if ids is None else {"id": ids})
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=10),
        "id": tfds.features.Text(),
    }
    write_tfds(tmp_path, columns, {key: features[key] for key in columns})
    with pytest.raises(ValueError, match=message):
        data.load("mine", "train", tmp_path)


def test_tfds_folder_without_one_label_a_sample_is_refused(tmp_path):
    columns = {"image": GRAY, "label": np.eye(10, dtype=np.int64), "index": LABEL}
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
        "label": tfds.features.Tensor(shape=(10,), dtype=np.int64),
        "index": tfds.features.Scalar(dtype=np.int64),
    }
    write_tfds(tmp_path, columns, features)
    with pytest.raises(ValueError, match="has no label of one value a sample, only image"):
        data.load("mine", "train", tmp_path)


@pytest.mark.data
def test_published_sets():
    mnist, cifar = data.load("mnist", "train"), data.load("cifar10", "test")
    assert mnist["image"].shape == (60000, 28, 28, 1)
    assert mnist["label"][:5].tolist() == [5, 0, 4, 1, 9]
    assert data.scaling("mnist", mnist["image"]).mean == pytest.approx((0.1307,), abs=1e-4)
    assert cifar["image"].shape[1:] == (32, 32, 3)
    assert cifar["label"][:5].tolist() == [3, 8, 8, 0, 6]
    assert cifar["image"][0, 0, 0].tolist() == [158, 112, 49]
