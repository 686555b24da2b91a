"""The methods that decentralized compares, and the flags of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import agents
from subspace_jax.core import compress
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import methods
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.decentralized.experiment import Config

ELSEWHERE = "push_sum", "low_precision"  # for directed graphs, and with an experiment of its own
METHODS = tuple(name for name in methods.METHODS if name not in ELSEWHERE)
RATES, DECAYS = (0.05, 0.1, 0.2, 0.4), (False, True)  # what --tune tries


def check(method: str) -> None:
    """Refuse what is no method of this experiment.

    Raises:
      ValueError: names it and all there are.
    """
    kind, _, alpha = method.partition("_alpha_")
    if method not in METHODS and (kind != "ngc" or not alpha.replace(".", "", 1).isdecimal()):
        listed = ", ".join(name for name in METHODS if "_alpha_" not in name)
        raise ValueError(f"--method is one or several of {listed}, ngc, ngc_alpha_0.5, ..., all; got {method!r}.")


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


def build(config: Config, trial: agents.Trial, loss: Callable, comm: Comm, weights: np.ndarray) -> Algorithm:
    """The algorithm of a trial: of the flags it gets those that it takes."""
    own, name = trial.settings, trial.method
    flags = {kind: own[kind] for kind in ("gamma", "momentum", "self_grad_at")}
    flags |= {"weight_decay": config.weight_decay, "loop": config.loop}
    if methods.find(name).model == methods.SPARSE:
        flags["compressor"] = compress.top_k(config.sparsity)
    if name == "compngc":
        flags["alpha"] = config.alpha
    taken = {kind: value for kind, value in flags.items() if kind in methods.settings(name)}
    lr = agents.rate(own["lr"], trial.steps, own["decay"])
    return methods.build(name, loss, comm=comm, weights=weights, lr=lr, **taken)
