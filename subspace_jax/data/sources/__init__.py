"""Readers of files as people have them, one module a format, asked in this order.

Each has three functions: `splits(folder)` names the splits that lie there, `read(folder, split)` gives the columns of
one of them, `classes(folder)` what its labels mean, by the training split, which is there when it is asked. Positions
are read where files have been shuffled; files in their original order need none, `load` counts them.
"""

from subspace_jax.data.sources import cifar, idx, images, npz, tfds

ALL = (npz, tfds, idx, cifar, images)
