"""A folder of images, `<split>/<class>/*.png` (or .jpg, .jpeg), read by Pillow; classes are named by their folders.

`index` is the position in the list of all files of the split, sorted by class, then by file name. Rows come in a fixed
shuffled order, by a hash of `<class>/<file>`, so that the first N of them are a random sample.
"""

import hashlib
import io
import os
import pathlib
from typing import Any

import numpy as np

from subspace_jax.data.classes import Classes, classes_of
from subspace_jax.data.sources.damage import seen

Columns = dict[str, np.ndarray]
ENDS = ".png", ".jpg", ".jpeg"
GREY = "1", "L", "LA"  # Pillow's names of modes with one channel of at most 8 bits
DEEP = "I", "F"  # more than 8 bits a pixel, also with a suffix: converting would clip them


def splits(folder: pathlib.Path) -> list[str]:
    """Every sub-folder that holds a folder of images."""
    return sorted(f.name for f in _folders(folder) if any(_any_image(inner) for inner in _folders(f)))


def read(folder: pathlib.Path, split: str, image_size: int | None = None) -> Columns:
    """All images of a split, brought to one size and one number of channels.

    One channel where every file of every split is grey, else three; transparency is dropped; photographs are rotated
    by their EXIF orientation.

    Args:
      folder: holds the split's folder.
      split: its name.
      image_size: height and width; images are centre-cropped to a square and scaled to it. None keeps their size.

    Raises:
      ValueError: a file that is no image or deeper than 8 bits, images of several sizes and no `image_size`.
    """
    files = _files(folder / split)
    image = [pixels(path, str(path), image_size) for path in files]
    _check_sizes(files, image)
    others = (path for other in splits(folder) if other != split for path in _files(folder / other))
    if any(array.ndim == 3 for array in image) or any(map(_colour, others)):
        image = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in image]
    order = np.array(sorted(range(len(files)), key=lambda i: _mixed(files[i])))
    label = np.array([path.parent.name for path in files])
    return {"image": np.stack([image[i] for i in order]), "label": label[order], "index": order}


def classes(folder: pathlib.Path) -> Classes:
    """Classes from the folders of the training split that hold an image."""
    names = [f.name for f in _folders(folder / "train") if _any_image(f)]
    return classes_of(np.array(names), f"{folder / 'train'}")


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDS) and not name.startswith(".")  # macOS leaves ._a.png beside a.png


def _any_image(folder: pathlib.Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [inner / name for inner in _folders(folder) for name in sorted(filter(_is_image, os.listdir(inner)))]


def _mixed(path: pathlib.Path) -> bytes:
    return hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()


def _colour(path: pathlib.Path) -> bool:
    """Whether an image has colour, from the file's header alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode not in GREY
    except Exception:  # reading that split reports the error
        return False


def pixels(file: pathlib.Path | io.BytesIO, where: str, size: int | None) -> np.ndarray:
    """One image as uint8 (h, w) or (h, w, 3).

    Args:
      file: the file, or its content.
      where: its name, for messages.
      size: as `image_size` of `read`.

    Raises:
      ValueError: as `read`.
    """
    from PIL import Image, ImageOps

    image = _decoded(file, where)
    if image.mode.startswith(DEEP):
        raise ValueError(f"{where} has more than 8 bits a pixel (mode {image.mode}); save it in 8 bits.")
    image = image.convert("L" if image.mode in GREY else "RGB")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR) if size else image)


def _decoded(file: pathlib.Path | io.BytesIO, where: str) -> Any:
    """A Pillow image, upright, all of whose pixels have been read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        start = (file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes())[:64]
        raise ValueError(f"{where} is no PNG or JPEG image: {seen(start)}; replace or remove it.") from None
    except Exception as error:  # what a damaged file raises depends on its format
        raise ValueError(f"{where} is cut or damaged ({error}); replace or remove it.") from error


def _check_sizes(files: list[pathlib.Path], image: list[np.ndarray]) -> None:
    other = next((i for i, array in enumerate(image) if array.shape[:2] != image[0].shape[:2]), None)
    if other is not None:
        shown = [(files[i].parent.name, files[i].name, *image[i].shape[:2]) for i in (0, other)]
        sizes = ", ".join(f"{folder}/{name} is {height} x {width}" for folder, name, height, width in shown)
        raise ValueError(
            f"{files[0].parent.parent} holds images of several sizes ({sizes} pixels); give image_size "
            "(--image-size) to bring all to one."
        )
