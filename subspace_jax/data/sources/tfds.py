"""A TFDS data set in array_record format: the folder itself or the newest version folder (1.0.0, ...) in it."""

import pathlib
import re

import numpy as np

from subspace_jax.data.classes import Classes, classes_of

Columns = dict[str, np.ndarray]
STATE = "state.json"  # Hugging Face datasets write it beside a dataset_info.json of their own


def splits(folder: pathlib.Path) -> list[str]:
    """The splits listed in dataset_info.json; none where there is no such file."""
    prepared = _prepared(folder)
    if prepared is None:
        return []
    from subspace_jax.data import builder

    return builder.splits(prepared)


def read(folder: pathlib.Path, split: str) -> Columns:
    """The columns of a split, in the order of the original files."""
    from subspace_jax.data import builder

    return builder.read(_prepared(folder) or folder, split)


def classes(folder: pathlib.Path) -> Classes:
    """Classes from the ClassLabel feature; where labels are plain integers, from those of the training split."""
    from subspace_jax.data import builder

    prepared = _prepared(folder) or folder
    return builder.classes(prepared) or classes_of(builder.read(prepared, "train")["label"], f"train in {prepared}")


def _prepared(folder: pathlib.Path) -> pathlib.Path | None:
    versions = [f for f in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", f.name)]
    newest = sorted(versions, key=lambda f: [int(part) for part in f.name.split(".")])[-1:]
    holds = (f for f in (folder, *newest) if (f / "dataset_info.json").is_file() and not (f / STATE).is_file())
    return next(holds, None)
