"""The designs and the networks that stand beside them, by name; the program that accumulates potentials."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.families import spiking
from subspace_jax.compression import pca_design
from subspace_jax.core.moments import Moments
from subspace_jax.spiking import pruning
from subspace_jax.spiking.network import Layer, Spiking
from subspace_jax.typing import ApplyFn, Params

if TYPE_CHECKING:
    from experiments.spiking_pruning.experiment import Config

STARTS = "random", "magnitude", "pca"  # at the widths of a design, from the classifier's own weights
CONTROLS = "uniform", *STARTS, "untrained"
MODES = "drive", "leaky", "membrane"


class Design(NamedTuple):
    """A network to train: channels of its convolutions, and the weights it starts from; fresh ones where None."""

    widths: tuple[int, ...]
    start: Callable[[], Params] | None = None


def convolutions(layers: tuple[Layer, ...]) -> int:
    """How many layers are narrowed: dense ones stay as they are."""
    return sum(not layer.dense for layer in layers)


def designs(config: Config, snn: Spiking, measured: dict[str, Moments], key: Any) -> dict[str, Design]:
    """tau_<t> and its controls, `snn` being the classifier before it was tuned."""
    found = {}
    kernels = [np.shape(snn.params[layer.path.split("/")[0]]["kernel"]) for layer in snn.layers]
    full, count = tuple(shape[-1] for shape in kernels[:-1]), convolutions(snn.layers)
    for tau in config.tau:
        dims = pruning.widths(measured, tau=tau)
        own = tuple(dims[layer.path] for layer in snn.layers[:count])
        whole = own + full[count:]
        found[f"tau_{tau}"] = Design(own)
        if "uniform" in config.controls:
            even = pca_design.uniform_widths(
                full[:count], lambda tried: pruning.parameters(snn, tried + full[count:]),
                target=pruning.parameters(snn, whole),
            )  # fmt: skip
            found[f"uniform_{tau}"] = Design(even)
        starts: dict[str, Callable[[], Params]] = {
            "random": functools.partial(
                pruning.select, snn.params, snn.layers, widths=whole, kind="random", key=jax.random.fold_in(key, 1)
            ),
            "magnitude": functools.partial(pruning.select, snn.params, snn.layers, widths=whole, kind="magnitude"),
            "pca": functools.partial(pruning.project, snn.params, snn.layers, measured, widths=whole),
        }
        found |= {f"{name}_{tau}": Design(own, starts[name]) for name in STARTS if name in config.controls}
    return found


@functools.lru_cache
def potentials(setting: spiking.Setting, layers: tuple[Layer, ...], apply: ApplyFn) -> Callable:
    """(params, thresholds, key, x, index) -> {mode: {path: potential}}, in float32."""

    @jax.jit
    def program(params, thresholds, key, x, index):
        frames = spiking.encoded(setting, key, x, index, jax.numpy.zeros(2))
        snn = Spiking(params, layers, apply)
        own: dict[str, Any] = {"leak": setting.leak, "order": setting.order}
        return {mode: pruning.accumulated_potential(snn, thresholds, frames, mode=mode, **own) for mode in MODES}

    return program
