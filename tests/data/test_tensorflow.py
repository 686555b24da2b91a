"""TFDS sets in the format of most of them, which takes TensorFlow to read: skipped where it is not installed."""

import importlib.util

import numpy as np
import pytest
import tensorflow_datasets as tfds

from subspace_jax import data

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)


class Pets(tfds.core.GeneratorBasedBuilder):
    """Registered under the name pets, as a stock set is: images, names of classes, an id that ends in the position."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    pkg_dir_path = None

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(5, 4, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            "id": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, description="pets", features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        for i in range(9 if split == "train" else 4):
            yield i, {"image": PIXELS[i], "label": i % 3, "id": f"{split}_{i:05}"}


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs tensorflow")
@pytest.mark.parametrize("stored", ["tfrecord", "array_record"])
def test_a_registered_set_is_read_by_its_name_in_the_order_of_its_ids(stored, tmp_path):
    tfds.builder("pets", data_dir=tmp_path, file_format=stored).download_and_prepare()
    found = data.load_splits("pets", tmp_path)
    np.testing.assert_array_equal(found.train["image"], PIXELS)
    np.testing.assert_array_equal(found.train["label"], np.arange(9) % 3)
    np.testing.assert_array_equal(found.test["index"], np.arange(4))
    assert found.names == ("cat", "dog", "eel")
