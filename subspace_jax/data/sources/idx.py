"""MNIST and its kin: `train-images-idx3-ubyte` or `train-images.idx3-ubyte`; the test split is called `t10k`.

Plain, gzip or xz, told apart by the first bytes, since browsers and tools add or drop `.gz`.
"""

import gzip
import lzma
import math
import pathlib
import re
import struct
import zlib

import numpy as np

from subspace_jax.data.classes import Classes, classes_of
from subspace_jax.data.sources.damage import seen

Columns = dict[str, np.ndarray]
STEMS = {"test": "t10k"}  # other splits have their own name in the file name
UINT8 = 8  # the format's code for unsigned bytes
ENDS = "", ".gz", ".xz"
NAME = r"(.+)-(?:images[-.]idx3|labels[-.]idx1)-ubyte(?:\.gz|\.xz)?"
OPENERS = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}


def splits(folder: pathlib.Path) -> list[str]:
    """The splits with a file of images or of labels."""
    names = {stem: split for split, stem in STEMS.items()}
    found = [re.fullmatch(NAME, path.name) for path in folder.glob("*-ubyte*") if path.is_file()]
    return sorted({names.get(match[1], match[1]) for match in found if match})


def read(folder: pathlib.Path, split: str) -> Columns:
    """Images and labels of a split, in file order."""
    image, label = _path(folder, split, "images", 3), _path(folder, split, "labels", 1)
    if image is None or label is None:
        raise ValueError(f"{folder} has {image or label} alone; put the file of {'labels' if image else 'images'} by.")
    return {"image": _array(image), "label": _array(label)}


def classes(folder: pathlib.Path) -> Classes:
    """Classes of the training labels."""
    path = _path(folder, "train", "labels", 1)
    return classes_of(read(folder, "train")["label"] if path is None else _array(path), f"{path}")


def _path(folder: pathlib.Path, split: str, kind: str, rank: int) -> pathlib.Path | None:
    names = [f"{STEMS.get(split, split)}-{kind}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ENDS]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _array(path: pathlib.Path) -> np.ndarray:
    with path.open("rb") as file:
        start = file.read(2)
    try:
        with OPENERS.get(start, open)(path, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is cut or damaged ({error}); get it again.") from error
    if len(raw) < 4 or raw[:3] != bytes((0, 0, UINT8)) or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path} is no idx file of unsigned bytes: {seen(raw)}; get the original file again.")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    pixels = np.frombuffer(raw, np.uint8)[4 + 4 * raw[3] :]
    if pixels.size != math.prod(shape):
        raise ValueError(f"{path} announces {math.prod(shape)} bytes {shape} and holds {pixels.size}; get it again.")
    return pixels.reshape(shape).copy()  # a buffer's view is read-only
