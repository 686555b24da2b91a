"""Files of tensors by name: .npz and .safetensors, and the settings that lie beside the latter. No pickles."""

import json
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks

PICKLES = ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar"
SETTINGS = "config.json", "preprocessor_config.json"  # of timm and Hugging Face


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file, as they are stored.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a pickle, another format, or a damaged file.
      ImportError: a .safetensors file, and the library for it is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}.")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run any code: save it as .safetensors, in PyTorch by "
            "safetensors.torch.save_file(model.state_dict(), path)."
        )
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"weights are read from .npz and .safetensors files; got {path}.")
    try:
        return _npz(path) if path.suffix == ".npz" else _safetensors(path)
    except ImportError:
        raise
    except Exception as error:  # zipfile's and the library's own, which derive from Exception
        raise ValueError(f"{path} is cut or damaged ({error}); get it again.") from error


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise zipfile.BadZipFile("it is no archive of arrays")
        return {name: _plain(found[name]) for name in found.files}


def _plain(array: np.ndarray) -> np.ndarray:
    """Two raw bytes are what NumPy makes of a bfloat16."""
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(f"{path} needs the library safetensors: pip install subspace_jax[weights].") from error
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping


def settings(path: pathlib.Path) -> dict[str, Any]:
    """What config.json and preprocessor_config.json beside a .safetensors file say, one dictionary; {} without them.

    Raises:
      ValueError: one of them is no JSON object.
    """
    found: dict[str, Any] = {}
    for beside in (path.with_name(name) for name in SETTINGS if path.suffix == ".safetensors"):
        if beside.is_file():
            try:
                found |= json.loads(beside.read_text())
            except (ValueError, TypeError) as error:
                raise ValueError(f"{beside} is no JSON object: repair it, or move it away.") from error
    return found


def float32(name: str, tensor: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Half precision is widened.

    Raises:
      ValueError: integers, which only a quantised network holds; NaN or infinities.
    """
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name} in {path} is {tensor.dtype}: weights are real numbers; dequantise the network first.")
    with np.errstate(over="ignore"):
        wide = np.asarray(tensor, np.float32)
    checks.check_finite(f"{name} in {path}", wide, remedy="get the file again")
    return wide
