"""What each source calls the layers of our networks, and how it lays out their kernels."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PARTS = "query", "key", "value"
AS_OURS = {name: name for name in ("kernel", "bias", "scale")}
TORCH = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Source(NamedTuple):
    """One way to name and lay out the tensors of a network."""

    title: str
    resnet: bool
    marker: str
    """A tensor by which its files are known."""
    layers: dict[str, str]
    """Our layer or leaf -> their name; {i} and {s} are numbers, {leaf} is the name of the leaf there."""
    leaves: dict[str, str]
    scaling: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and deviation of pixels in 0..1."""
    activation: str = "gelu"
    epsilon: float = 1e-6
    unused: str = "(?!)"
    """Regular expression of tensors that inference does not read."""
    fused: bool = False
    """Whether query, key and value are one matrix."""


class Tensor(NamedTuple):
    """What a leaf is in a file: its name and shape there, and how it becomes ours."""

    name: str
    shape: Shape
    convert: Callable[[np.ndarray], np.ndarray]


def blocks(prefix: str, names: dict[str, str]) -> dict[str, str]:
    """The layers of an encoder block."""
    return {f"block{{i}}/{ours}": f"{prefix}{theirs}" for ours, theirs in names.items()}


GOOGLE = Source(
    "the original ViT", False, "Transformer/posembed_input/pos_embedding",
    {
        "class_token": "cls", "positions": "Transformer/posembed_input/pos_embedding", "patches": "embedding/{leaf}",
        "norm": "Transformer/encoder_norm/{leaf}", "head": "head/{leaf}",
    } | blocks("Transformer/encoderblock_{i}/", {
        "norm0": "LayerNorm_0/{leaf}", "norm1": "LayerNorm_2/{leaf}", "dense0": "MlpBlock_3/Dense_0/{leaf}",
        "dense1": "MlpBlock_3/Dense_1/{leaf}",
    } | {f"attention/{part}": f"MultiHeadDotProductAttention_1/{part}/{{leaf}}" for part in (*PARTS, "out")}),
    AS_OURS, HALF, activation="gelu_tanh",
)  # fmt: skip
TIMM = Source(
    "timm", False, "patch_embed.proj.weight",
    {
        "class_token": "cls_token", "positions": "pos_embed", "patches": "patch_embed.proj.{leaf}",
        "norm": "norm.{leaf}", "head": "head.{leaf}",
    } | blocks("blocks.{i}.", {
        "norm0": "norm1.{leaf}", "norm1": "norm2.{leaf}", "dense0": "mlp.fc1.{leaf}", "dense1": "mlp.fc2.{leaf}",
        "attention/out": "attn.proj.{leaf}",
    } | {f"attention/{part}": "attn.qkv.{leaf}" for part in PARTS}),
    TORCH, HALF, fused=True,
)  # fmt: skip
TORCHVISION = Source(
    "torchvision", False, "conv_proj.weight",
    {
        "class_token": "class_token", "positions": "encoder.pos_embedding", "patches": "conv_proj.{leaf}",
        "norm": "encoder.ln.{leaf}", "head": "heads.head.{leaf}",
    } | blocks("encoder.layers.encoder_layer_{i}.", {
        "norm0": "ln_1.{leaf}", "norm1": "ln_2.{leaf}", "dense0": "mlp.0.{leaf}", "dense1": "mlp.3.{leaf}",
        "attention/out": "self_attention.out_proj.{leaf}",
    } | {f"attention/{part}": "self_attention.in_proj_{leaf}" for part in PARTS}),
    TORCH, IMAGENET, fused=True,
)  # fmt: skip
HUGGING_FACE = Source(
    "Hugging Face", False, "vit.embeddings.position_embeddings",
    {
        "class_token": "vit.embeddings.cls_token", "positions": "vit.embeddings.position_embeddings",
        "patches": "vit.embeddings.patch_embeddings.projection.{leaf}", "norm": "vit.layernorm.{leaf}",
        "head": "classifier.{leaf}",
    } | blocks("vit.encoder.layer.{i}.", {
        "norm0": "layernorm_before.{leaf}", "norm1": "layernorm_after.{leaf}", "dense0": "intermediate.dense.{leaf}",
        "dense1": "output.dense.{leaf}", "attention/out": "attention.output.dense.{leaf}",
    } | {f"attention/{part}": f"attention.attention.{part}.{{leaf}}" for part in PARTS}),
    TORCH, HALF, epsilon=1e-12, unused=r"vit\.pooler\..*",
)  # fmt: skip
RESNET = Source(
    "torchvision and timm", True, "layer1.0.conv1.weight",
    {"stem": "conv1.{leaf}", "stem_norm": "bn1.{leaf}", "head": "fc.{leaf}"}
    | {f"stage{{s}}/block{{i}}/conv{j}": f"layer{{s}}.{{i}}.conv{j + 1}.{{leaf}}" for j in range(3)}
    | {f"stage{{s}}/block{{i}}/norm{j}": f"layer{{s}}.{{i}}.bn{j + 1}.{{leaf}}" for j in range(3)}
    | {"stage{s}/block{i}/shortcut": "layer{s}.{i}.downsample.0.{leaf}",
       "stage{s}/block{i}/shortcut_norm": "layer{s}.{i}.downsample.1.{leaf}"},
    TORCH, IMAGENET, activation="relu", epsilon=1e-5, unused=r".*\.num_batches_tracked",
)  # fmt: skip
ALL = GOOGLE, TIMM, TORCHVISION, HUGGING_FACE, RESNET


def tensor(source: Source, path: str, shape: Shape, heads: int) -> Tensor:
    """What our leaf `path` of this shape is in the files of a source."""
    layer, _, leaf = path.rpartition("/")
    name, part = _name(source, path, layer, leaf), layer.rpartition("/")[2]
    if source is GOOGLE and "attention" in layer:
        split = (heads, shape[-1] // heads)  # the heads are axes of their own
        there = (*split, shape[1]) if (part, leaf) == ("out", "kernel") else (*shape[:-1], *split)
        there = shape if (part, leaf) == ("out", "bias") else there
        return Tensor(name, there, lambda array: array.reshape(shape))
    if source is GOOGLE or leaf not in TORCH:  # the class token and the positions, which no source turns
        return Tensor(name, shape, lambda array: array)
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))
    there = tuple(int(shape[axis]) for axis in np.argsort(order))
    if source.fused and part in PARTS:
        at, size = PARTS.index(part), there[0]
        there = (3 * size, *there[1:])
        return Tensor(name, there, lambda array: array[at * size : (at + 1) * size].transpose(order))
    return Tensor(name, there, lambda array: array.transpose(order))


def _name(source: Source, path: str, layer: str, leaf: str) -> str:
    for ours, theirs in source.layers.items():
        pattern = re.sub(r"{(\w)}", r"(?P<\1>\\d+)", ours)
        if found := re.fullmatch(pattern, layer or path):
            return theirs.format(**found.groupdict(), leaf=source.leaves.get(leaf, leaf))
    raise ValueError(f"files of {source.title} have no tensor for {path!r} of this network.")
