"""Readers of data files, one module per format, tried in the order of ALL.

Each has three functions: `splits(folder)` lists the splits in a folder, `read(folder, split)` returns the columns of
one, `classes(folder)` the classes of the training split, which must exist. Original positions are read only where the
files have been shuffled; for files in their original order `load` numbers the rows.
"""

from subspace_jax.data.sources import cifar, huggingface, idx, images, npz, tfds

ALL = (npz, tfds, huggingface, idx, cifar, images)
SCALING = (huggingface, images)  # which bring images to one size
