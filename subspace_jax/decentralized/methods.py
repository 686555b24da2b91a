"""Every method by its name, with the settings that its paper gives it.

>>> sorted(METHODS)[:4]
['cga', 'choco_sgd', 'compcga', 'compngc']
>>> settings("qgm")
('mu', 'beta', 'gamma', 'weight_decay', 'loop')
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optax

from subspace_jax.core import compress
from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import cga, choco_sgd, deep_squeeze, gossip, low_precision, ngc, push_sum, qgm
from subspace_jax.decentralized.gossip import Weights
from subspace_jax.typing import Algorithm

WHOLE, SIGNS, SPARSE = compress.identity(), compress.sign(), compress.top_k(0.9)


class Method(NamedTuple):
    """A method with the settings that belong to its name.

    Attributes:
      make: (loss, *, comm, weights, lr, ...) -> Algorithm.
      crosses: takes gradients at its neighbours' models, or of their data: one more backward pass per neighbour.
      after: mixes the models after the local step (adapt, then combine); the others mix what was sent before it.
      model: the compressor of the models that it sends.
      gradient: the compressor of the gradients that it sends; None where it sends none.
      scalars: further numbers sent with each model.
    """

    make: Callable[..., Algorithm]
    crosses: bool = False
    after: bool = False
    model: Compressor = WHOLE
    gradient: Compressor | None = None
    scalars: int = 0


METHODS = {
    "d_psgd": Method(gossip.d_psgd),
    "ngc_alpha_0": Method(partial(ngc.ngc, alpha=0.0), crosses=True),
    "ngc_alpha_1": Method(partial(ngc.ngc, alpha=1.0), crosses=True, gradient=WHOLE),
    "compngc": Method(partial(ngc.ngc, compressor=SIGNS), crosses=True, gradient=SIGNS),
    "qgm": Method(qgm.qgm, after=True),
    "choco_sgd": Method(partial(choco_sgd.choco_sgd, compressor=SPARSE), after=True, model=SPARSE),
    "deep_squeeze": Method(partial(deep_squeeze.deep_squeeze, compressor=SPARSE), after=True, model=SPARSE),
    "cga": Method(cga.cga, crosses=True, gradient=WHOLE),
    "compcga": Method(partial(cga.cga, compressor=SIGNS), crosses=True, gradient=SIGNS),
    "push_sum": Method(push_sum.push_sum, after=True, scalars=1),
    "low_precision": Method(low_precision.low_precision, after=True, model=low_precision.EIGHT_BITS),
}


def find(name: str) -> Method:
    """The method of a name in `METHODS`; "ngc_alpha_0.5" is NGC with that share of data-variant gradients.

    Raises:
      ValueError: no such method; names them all.
    """
    if name in METHODS:
        return METHODS[name]
    kind, _, alpha = name.partition("_alpha_")
    if kind != "ngc" or not alpha.replace(".", "", 1).isdecimal():
        raise ValueError(f"a method is one of {', '.join(METHODS)}, ngc_alpha_0.5, ...; got {name!r}.")
    return METHODS["ngc_alpha_1"]._replace(make=partial(ngc.ngc, alpha=float(alpha)))


def settings(name: str) -> tuple[str, ...]:
    """What `build` takes for this method beside loss, comm, weights and lr.

    Raises:
      ValueError: no such method.
    """
    given = ("loss", "comm", "weights", "lr")
    return tuple(own for own in inspect.signature(find(name).make).parameters if own not in given)


def build(
    name: str, loss: Callable, *, comm: Comm, weights: Weights, lr: float | optax.Schedule, **own: Any
) -> Algorithm:
    """The algorithm of a name.

    Args:
      name: see `find`.
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, see `gossip.mixing`.
      lr: learning rate, or an optax schedule of the step.
      **own: of `settings(name)`: gamma, momentum, compressor, ...; they override what the name implies.

    Raises:
      ValueError: no such method, a setting that it does not take, or what the method itself refuses.
    """
    for setting in own.keys() - set(settings(name)):
        raise ValueError(f"{name} takes {', '.join(settings(name))}; got {setting}.")
    return find(name).make(loss, comm=comm, weights=weights, lr=lr, **own)
