"""Read a file of weights into a network of `nn.build`, checked tensor by tensor."""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.nn.build import NETWORKS, build, description
from subspace_jax.nn.imagenet import ImageNetResNet
from subspace_jax.nn.model import Model
from subspace_jax.nn.vit import ViT
from subspace_jax.nn.weights import files, filling, names, positions
from subspace_jax.nn.weights.filling import File
from subspace_jax.nn.weights.names import Shape, Source
from subspace_jax.typing import Variables

ACTIVATIONS = {  # by Hugging Face's names
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
RESNET_SIDE = 224  # pixels that published ResNets are trained on; they read others too


class Loaded(NamedTuple):
    """A network with its weights, as `checkpoint.load_model` gives it.

    model: the given one, with the activation and the epsilon of the norms that the source computes with.
    variables: float32.
    config: JSON; "model" (name and kwargs of `build`), "input_shape", "scaling" (`data.Scaling(**config["scaling"])`
      turns pixels 0..255 into inputs) and "weights": source, file, its SHA-256 and the dtype it stores.
    """

    model: Model
    variables: Variables
    config: dict[str, Any]


def load(
    path: str | pathlib.Path, model: Model, *, image_shape: Shape | None = None, outputs: Sequence[int] | None = None
) -> Loaded:
    """Published weights in a network of `nn.build` of the same sizes; every tensor of the file has its place there.

    | file | names | scaling, where no settings say otherwise | GELU | epsilon |
    |---|---|---|---|---|
    | .npz | the original ViT (google-research/vision_transformer) | -1..1 | by a tanh | 1e-6 |
    | .safetensors | ViT of timm | -1..1 | exact | 1e-6 |
    | .safetensors | ViT of torchvision | mean and deviation of ImageNet | exact | 1e-6 |
    | .safetensors | ViT of Hugging Face | -1..1 | exact | 1e-12 |
    | .safetensors | ResNet of torchvision or timm | mean and deviation of ImageNet | | 1e-5 |

    `config.json` and `preprocessor_config.json` beside a .safetensors file say otherwise: mean and deviation,
    activation, epsilon and number of heads are theirs. Half precision is widened to float32, which is exact.

    Args:
      path: the file; no pickle.
      model: from `build`: vit_b16, vit_s16, resnet50, resnet18_imagenet, or with other sizes. `classes=0` leaves the
        head in the file.
      image_shape: (height, width, channels) of the images; that of the file when None, 224 pixels for a ResNet. The
        positions of a ViT are resized to it, bilinearly, with a warning.
      outputs: which outputs of the file are the classes of `model`, in their order; all when None.

    Raises:
      FileNotFoundError: no such file.
      ImportError: a .safetensors file without the library safetensors.
      ValueError: a pickle; a damaged file or one of no known source; another kind of network; images of other channels
        or of a size that is no multiple of the patch; a tensor that is missing, of another shape, not finite, or
        without a place in the network; outputs that there are not.
    """
    path = pathlib.Path(path)
    name, arguments = description(model)
    tensors = files.read(path)
    file = File(path, tensors, _source(path, tensors, name), files.settings(path))
    shape = _image_shape(file, model, image_shape)
    arguments |= _conventions(file, name, arguments)
    model = build(name, **arguments)
    template = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), "float32"))
    heads = getattr(_network(name, arguments), "heads", 1)
    found = filling.filled(file, template, heads, outputs, shape)
    variables = trees.map_with_path(lambda leaf, _: jnp.asarray(found[leaf]), template)
    config = {
        "model": {"name": name, "kwargs": json.loads(json.dumps(arguments))},
        "input_shape": list(shape),
        "scaling": _scaling(file, shape[-1]),
        "weights": _origin(file),
    }
    return Loaded(model, variables, config)


def _source(path: pathlib.Path, tensors: dict[str, np.ndarray], name: str) -> Source:
    """Whose file it is, for a network of the same kind."""
    if "embeddings.position_embeddings" in tensors:  # a Hugging Face trunk, saved without its head
        for old in list(tensors):
            tensors[f"vit.{old}"] = tensors.pop(old)
    source = next((source for source in names.ALL if source.marker in tensors), None)
    if source is None:
        known = ", ".join(dict.fromkeys(f"{s.title} ({s.marker})" for s in names.ALL))
        raise ValueError(f"{path} is of no known source: it holds {filling.some(tensors)}, and not what marks {known}.")
    kind = NETWORKS[name]
    if not isinstance(kind, ImageNetResNet if source.resnet else ViT):
        what = "a ResNet for ImageNet, such as resnet50" if source.resnet else "a ViT, such as vit_b16"
        raise ValueError(f"{path} holds {what}, of {source.title}; its weights do not fit {name}.")
    return source


def _image_shape(file: File, model: Model, asked: Shape | None) -> Shape:
    first = file.tensors.get(file.source.layers["stem" if file.source.resnet else "patches"].format(leaf=_kernel(file)))
    if first is None or first.ndim != 4:
        raise ValueError(f"{file.path} holds no first convolution.")
    height, width, channels = first.shape[:3] if file.source is names.GOOGLE else (*first.shape[2:], first.shape[1])
    if asked is not None:
        if asked[-1] != channels:
            remedy = "convert them to RGB" if channels == 3 else f"give them {channels}"
            raise ValueError(f"{file.path} reads images of {channels} channels, and these have {asked[-1]}: {remedy}.")
        return tuple(asked)
    if file.source.resnet:
        return RESNET_SIDE, RESNET_SIDE, channels
    table = file.tensors[file.source.layers["positions"]]
    side = positions.grid(table.shape[1]) if table.ndim == 3 else 1
    return side * height, side * width, channels


def _kernel(file: File) -> str:
    return file.source.leaves["kernel"]


def _conventions(file: File, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Activation and epsilon of the source, which the network must not contradict."""
    own = {"activation": file.source.activation, "epsilon": file.source.epsilon}
    if (said := file.settings.get("hidden_act")) is not None and not file.source.resnet:
        if said not in ACTIVATIONS:
            raise ValueError(f"{file.path.with_name('config.json')} names the activation {said!r}, which ViT has not.")
        own["activation"] = ACTIVATIONS[said]
    if (said := file.settings.get("layer_norm_eps")) is not None:
        own["epsilon"] = said
    if (said := file.settings.get("num_attention_heads")) is not None:
        own["heads"] = said
    for key, value in own.items():
        default = value if key != "heads" else getattr(_network(name, arguments), "heads", value)
        if (given := arguments.get(key, default)) not in (None, value):
            raise ValueError(f"{file.path} computes with {key} {value}, and the network with {given}: give {value}.")
    return own


def _network(name: str, arguments: dict[str, Any]) -> Any:
    network = NETWORKS[name]
    return network.clone(**{key: value for key, value in arguments.items() if hasattr(network, key)})


def _scaling(file: File, channels: int) -> dict[str, Any]:
    """As `data.Scaling`; a network of another number of channels has the mean of the three in each."""
    mean, std = file.source.scaling
    said = file.settings.get("pretrained_cfg", {})
    mean, std = (said.get(key, own) for key, own in (("mean", mean), ("std", std)))
    mean, std = (file.settings.get(key, own) for key, own in (("image_mean", mean), ("image_std", std)))
    if len(mean) != channels:
        mean, std = ([float(np.mean(part))] * channels for part in (mean, std))
    return {"divisor": 255.0, "mean": list(mean), "std": list(std)}


def _origin(file: File) -> dict[str, Any]:
    with file.path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    stored = sorted({str(array.dtype) for name, array in file.tensors.items() if filling.is_read(file.source, name)})
    return {"source": file.source.title, "file": file.path.name, "sha256": digest, "dtype": "+".join(stored)}
