"""The networks that are trained beside the full one: the designs, and the controls that cost as much."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from subspace_jax.compression import pca_design
from subspace_jax.compression.pca_design import Design, LayerSpectrum
from subspace_jax.core import capture
from subspace_jax.nn.build import NETWORKS

if TYPE_CHECKING:
    from experiments.pca_design.experiment import Config

CONTROLS = "uniform", "random_widths", "untrained"


class Network(NamedTuple):
    """What nn.build takes."""

    name: str
    arguments: dict[str, Any]


def chain(name: str, arguments: dict[str, Any]) -> Network:
    """The same network as one whose every width is an argument.

    Raises:
      ValueError: a network that is not such a chain.
    """
    if name in ("mlp", "cnn", "vgg"):
        own = {field: getattr(NETWORKS[name], field) for field in ("widths", "pools") if hasattr(NETWORKS[name], field)}
        return Network(name, own | arguments)
    if name in ("vgg11", "vgg16"):
        sizes = {field: arguments.get(field, getattr(NETWORKS[name], field)) for field in ("convs", "width")}
        rest = {key: value for key, value in arguments.items() if key not in sizes}
        widths = [sizes["width"] * min(2**i, 8) for i, convs in enumerate(sizes["convs"]) for _ in range(convs)]
        return Network("vgg", {"widths": widths, "pools": list(itertools.accumulate(sizes["convs"]))} | rest)
    raise ValueError(f"--model {name}: designs are those of mlp, cnn, vgg, vgg11 and vgg16, whose widths are free.")


def narrowed(full: Network, widths: Sequence[int]) -> Network:
    """The chain with these widths; where layers are gone, their poolings follow the last one that is left."""
    arguments = full.arguments | {"widths": [int(width) for width in widths]}
    if "pools" in arguments:
        arguments["pools"] = [min(after, len(widths)) for after in arguments["pools"]]
    return Network(full.name, arguments)


def designs(config: Config, measured: Sequence[LayerSpectrum]) -> dict[str, Design]:
    """tau_<t>: widths alone; depth_<t>: some layers gone too."""
    options = {name: getattr(config, name) for name in ("rule", "slack", "min_width", "multiple_of")}
    found = {}
    for tau in config.taus:
        for name, depth in {"tau": False, "depth": True}.items():
            if name == "tau" or config.depth:
                found[f"{name}_{tau}"] = pca_design.propose(measured, tau=tau, depth=depth, **options)
    return found


def controls(config: Config, table: capture.Layers, found: dict[str, Design], seed: int) -> dict[str, tuple[int, ...]]:
    """Widths of uniform_<t> (one factor, nearest in multiply-accumulates) and random_<t> (the widths permuted)."""
    full = tuple(layer.d_out for layer in table.values())[:-1]
    widths = {}
    for tau in config.taus:
        own = found[f"tau_{tau}"].widths
        if "uniform" in config.controls:
            target = pca_design.chain_macs(table, own)
            widths[f"uniform_{tau}"] = pca_design.uniform_widths(
                full, lambda tried: pca_design.chain_macs(table, tried), target=target
            )
        if "random_widths" in config.controls:
            widths[f"random_{tau}"] = tuple(np.random.default_rng(seed).permutation(own).tolist())
    return widths
