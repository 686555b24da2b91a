"""Every method of decentralized by its name, and the flags of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import agents
from subspace_jax.core import compress
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import cga, choco_sgd, deep_squeeze, gossip, ngc, qgm
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.decentralized.experiment import Config


METHODS = (
    "d_psgd", "ngc_alpha_0", "ngc_alpha_1", "compngc", "qgm", "choco_sgd", "deep_squeeze", "cga", "compcga",
)  # fmt: skip


CROSS = "ngc", "compngc", "cga", "compcga"  # one backward pass a neighbour more


AFTER = "qgm", "choco_sgd", "deep_squeeze"  # mix what the local step made, the others what was sent before it


RATES, DECAYS = (0.05, 0.1, 0.2, 0.4), (False, True)  # what --tune tries


def check(method: str) -> None:
    """Refuse what is no method.

    Raises:
      ValueError: names it and all there are.
    """
    if method in METHODS:
        return
    kind, _, alpha = method.partition("_alpha_")
    if kind != "ngc" or not alpha.replace(".", "", 1).isdecimal():
        listed = ", ".join(name for name in METHODS if "_alpha_" not in name)
        raise ValueError(f"--method is one or several of {listed}, ngc, ngc_alpha_0.5, ..., all; got {method!r}.")


def crosses(method: str) -> bool:
    """Whether the method takes gradients at its neighbours' models."""
    return method.split("_alpha_")[0] in CROSS


def settings(config: Config, method: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """The flags of one method: the common ones, then its own, such as "qgm.lr=.05"."""
    found = {name: getattr(config, name) for name in ("lr", "momentum", "gamma", "decay", "self_grad_at")}
    for line in (*config.settings, *extra):
        owner, _, rest = line.partition(".")
        name, _, value = rest.partition("=")
        if name not in found or not value:
            raise ValueError(f"a setting is method.name=value with a name of {', '.join(found)}; got {line!r}.")
        if owner == method:
            found[name] = value if name == "self_grad_at" else float(value)
    return found


def build(config: Config, trial: agents.Trial, loss: Any, comm: Comm, weights: np.ndarray) -> Algorithm:
    """The algorithm of a trial."""
    own = trial.settings
    common = {
        "comm": comm, "weights": weights, "lr": agents.rate(own["lr"], trial.steps, own["decay"]),
        "gamma": own["gamma"], "weight_decay": config.weight_decay, "loop": config.loop,
    }  # fmt: skip
    if trial.method == "qgm":
        return qgm.qgm(loss, **common)
    common["momentum"] = own["momentum"]
    if trial.method == "d_psgd":
        return gossip.d_psgd(loss, **common)
    if trial.method in ("choco_sgd", "deep_squeeze"):
        make = choco_sgd.choco_sgd if trial.method == "choco_sgd" else deep_squeeze.deep_squeeze
        return make(loss, compressor=compress.top_k(config.sparsity), **common)
    if trial.method in ("cga", "compcga"):
        return cga.cga(loss, compressor=compress.sign() if trial.method == "compcga" else None, **common)
    alpha = config.alpha if trial.method == "compngc" else float(trial.method.removeprefix("ngc_alpha_"))
    compressor = compress.sign() if trial.method == "compngc" else None
    return ngc.ngc(loss, alpha=alpha, self_grad_at=own["self_grad_at"], compressor=compressor, **common)
