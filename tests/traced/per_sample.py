"""Every function with one answer a sample, as it is called inside a program of the user, on six samples."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import binary, curvature, likelihood, losses, metrics, quantize
from subspace_jax.core.attacks import objectives
from subspace_jax.core.keys import sample_keys
from subspace_jax.federated import fedavg, matching
from subspace_jax.hierarchy import baselines, conditional, tree
from subspace_jax.memorization import dynamics, epoch_average
from subspace_jax.nn.layers import neighborhood, spiking
from subspace_jax.ood import ash, auxiliary_class, detectors, knn, mahalanobis, norm_scaling, odin, react, scores, vim
from subspace_jax.privacy import clipping
from subspace_jax.robustness import neighborhood as table
from subspace_jax.robustness import trend
from subspace_jax.spiking import encode
from subspace_jax.unlearning.baselines.scrub import kl

N, D, K = 6, 4, 3
RNG = np.random.default_rng(0)
KEYS = sample_keys(jax.random.key(0), jnp.arange(N))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, LOGITS, Y = normal(N, D), normal(N, K), jnp.arange(N) % K
H, PROBABILITIES = jnp.abs(normal(N, D)) + 0.1, jax.nn.softmax(normal(N, K))
IMAGES = jax.nn.sigmoid(normal(N, 8, 8, 1))
FIRST, HEAD = normal(D, 5), normal(5, K)
VARIABLES = {"params": (FIRST, HEAD)}


def network(variables, x):
    first, second = variables["params"]
    return jnp.tanh(x @ first) @ second


LOSS, FEDERATED = losses.cross_entropy(network), fedavg.classification(network)
SQUARES = 1e18  # squares of float32 overflow above
LINEAR = normal(D, K), jnp.zeros(K)


class PerSample(NamedTuple):
    """A function of arrays whose first axes are the samples.

    Attributes:
      fn: arrays -> a tree of arrays with the samples on `axis`.
      arrays: valid ones.
      axis: of the samples in what comes back.
      counts: what it says of a sample are comparisons, in which NaN is a wrong answer.
      first: it looks at the first number of a sample, not at each.
      broadcasts: its arrays may have leading axes of their own.
      most: up to which inputs are promised a finite answer.
    """

    fn: Callable
    arrays: tuple[Any, ...]
    axis: int = 0
    counts: bool = False
    first: bool = False
    most: float = 1e30
    broadcasts: bool = False


def _scored(state: Any, detector: detectors.Detector, at: str | None, rows: Any) -> Any:
    """Scores of logits, or of the features of that name beside fixed logits."""
    outputs = detectors.Outputs(LOGITS[: len(rows)], {at: rows}) if at else detectors.Outputs(rows)
    return detector.score(state, outputs)


def _detectors() -> dict[str, PerSample]:
    y, fitted = (
        np.asarray(Y),
        detectors.Outputs(np.asarray(LOGITS), {"penultimate": np.asarray(H), "input": np.asarray(X)}),
    )
    made = {
        "msp": scores.msp(), "maxlogit": scores.maxlogit(), "energy": scores.energy(), "entropy": scores.entropy(),
        "gen": scores.gen(top=2), "weight": norm_scaling.weight(LINEAR), "aux": auxiliary_class.aux(),
        "std": norm_scaling.norm_scaling(correct_only=False), "aux_max": auxiliary_class.aux_max(), "knn": knn.knn(k=2),
        "mahalanobis": mahalanobis.mahalanobis(), "vim": vim.vim(LINEAR, dim=2), "react": react.react(LINEAR),
        "odin": odin.odin(lambda x: network(VARIABLES, x)),
        **{f"ash_{kind}": ash.ash(LINEAR, kind=kind, percentile=0.5) for kind in ash.KINDS},
    }  # fmt: skip
    looking = dict.fromkeys(("knn", "mahalanobis", "vim", "react", "ash_s", "ash_b", "ash_p"), "penultimate") | {
        "odin": "input"
    }
    found = {}
    for name, detector in made.items():
        state = detector.fit(fitted, y % 2 if name.startswith("aux") else y)  # the last class is that of outliers
        at = looking.get(name)
        rows = {"penultimate": H, "input": X}[at] if at else LOGITS
        found[f"ood.{name}"] = PerSample(functools.partial(_scored, state, detector, at), (rows,))
    return found


def _logits() -> dict[str, PerSample]:
    family = tree.from_nested({"a": ["b", "c"], "d": ["e"]})
    return {
        "softmax_cross_entropy": PerSample(losses.softmax_cross_entropy, (LOGITS, Y)),
        "soft_cross_entropy": PerSample(losses.soft_cross_entropy, (LOGITS, PROBABILITIES)),
        "cross_entropy": PerSample(lambda x, y: LOSS(VARIABLES, x, y), (X, Y)),
        "federated cross-entropy": PerSample(lambda x, y: FEDERATED(VARIABLES["params"], x, y), (X, Y)),
        "msp": PerSample(metrics.msp, (LOGITS,)), 
        "label_logit": PerSample(likelihood.label_logit, (LOGITS, Y), broadcasts=True),
        "log_odds": PerSample(scores.log_odds, (LOGITS,)), "free_energy": PerSample(scores.free_energy, (LOGITS,)),
        "objective ce": PerSample(objectives.ce, (LOGITS, Y)),
        "objective margin": PerSample(objectives.margin, (LOGITS, Y)),
        "objective dlr": PerSample(objectives.dlr, (LOGITS, Y)), "margin": PerSample(dynamics.margin, (LOGITS, Y)),
        "known_logits": PerSample(lambda z: auxiliary_class.known_logits(z, classes=2), (LOGITS,), first=True),
        "flagged": PerSample(auxiliary_class.flagged, (LOGITS,), counts=True),
        "expected_distance": PerSample(
            lambda p: baselines.least_expected_distance(p, family), (PROBABILITIES,), counts=True
        ),
        "validity": PerSample(
            lambda a, b, y: conditional.validity((a, b), y, family), (LOGITS[:, :2], LOGITS, Y), axis=1, counts=True
        ),
        "vote": PerSample(lambda z: trend.vote(KEYS, jnp.moveaxis(z, 0, 1)), (normal(N, 3, K),), counts=True),
        "kl": PerSample(kl, (LOGITS, LOGITS[::-1])),
        "epoch_average": PerSample(lambda s: epoch_average.update(epoch_average.init(N), s).last, (LOGITS[:, 0],)),
        "dynamics": PerSample(lambda z, y: dynamics.update(dynamics.init(N), z, y)[1:3], (LOGITS, Y)),
    }  # fmt: skip


def _inputs() -> dict[str, PerSample]:
    position, embedding = normal(5, D), normal(5, 2)
    return {
        "input_grad": PerSample(lambda x, y: curvature.input_grad(LOSS, VARIABLES, x, y), (X, Y)),
        "ggn_spectrum": PerSample(lambda x: curvature.ggn_spectrum(network, VARIABLES, x), (X,)),
        "sign": PerSample(binary.sign, (X,)), "binary quantize": PerSample(lambda x: binary.quantize(x, 2), (X,)),
        "dorefa_activation": PerSample(lambda x: quantize.dorefa_activation(x, 2), (X,)),
        "halftone": PerSample(quantize.halftone, (IMAGES,)),
        "lif": PerSample(lambda x: spiking.lif(jnp.stack([x, x]), 1.0, 0.9), (X,), axis=1),
        "neighborhood": PerSample(
            lambda h: neighborhood.neighborhood(h, position, embedding, neighbors=2)[0], (X,), most=SQUARES
        ),
        "jacobian_bound": PerSample(
            lambda h: table.jacobian_bound(h, position, embedding, neighbors=2, tau=1.0), (X,), most=SQUARES
        ),
        "log_memberships": PerSample(neighborhood.log_memberships, (H,)),
        "odin.confidence": PerSample(lambda x: odin.confidence(network, VARIABLES, x), (X,)),
        "ash.shape": PerSample(lambda h: ash.shape(h, "s", 0.5), (H,)),
        "global_norms": PerSample(lambda g: clipping.global_norms({"w": g}), (X,)),
        "best_match": PerSample(lambda x: matching.best_match(x, IMAGES[:2])[:3], (IMAGES,), most=1.0),
        "direct": PerSample(encode.direct, (IMAGES,), axis=1),
        "dct_frames": PerSample(lambda x: encode.dct_frames(x, block=4, stride=4), (IMAGES,), axis=1),
    }  # fmt: skip


QUICK = _logits()
TABLE = QUICK | _inputs() | _detectors()
