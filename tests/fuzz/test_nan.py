"""Under the caller's `jit` values are unknown: NaN in a sample gives NaN out for that sample, and for no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import binary, likelihood, losses, metrics, quantize
from subspace_jax.core.attacks import objectives
from subspace_jax.federated import matching
from subspace_jax.memorization import dynamics
from subspace_jax.memorization import scores as memorization
from subspace_jax.ood import ash, auxiliary_class, knn, mahalanobis, norm_scaling, odin, react, vim
from subspace_jax.ood import scores as ood
from subspace_jax.ood.detectors import Outputs
from tests.fuzz.values import KEYS, LOGITS, ROWS, VARIABLES, Y3, apply

RNG = np.random.default_rng(1)
FEATURES = RNG.normal(size=(6, 4)).astype(np.float32)
LABELS = jnp.asarray(Y3 % 2)
HEAD = RNG.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)
OF_LOGITS = {
    "msp": ood.msp(), "maxlogit": ood.maxlogit(), "energy": ood.energy(), "entropy": ood.entropy(), "gen": ood.gen(),
    "norm scaling": norm_scaling.norm_scaling(correct_only=False), "aux": auxiliary_class.aux(),
    "aux_max": auxiliary_class.aux_max(),
}  # fmt: skip
OF_FEATURES = {
    "knn": knn.knn(k=2), "mahalanobis": mahalanobis.mahalanobis(), "vim": vim.vim(HEAD, dim=2), "ash": ash.ash(HEAD),
    "react": react.react(HEAD),
}  # fmt: skip


def of_logits(detector):
    labels = Y3 % 2
    state = detector.fit(Outputs(LOGITS, {}), labels if "aux" in str(detector.score) else Y3)
    return lambda x: detector.score(state, Outputs(x, {}))


def of_features(detector):
    state = detector.fit(Outputs(LOGITS, {"penultimate": FEATURES}), Y3)
    return lambda x: detector.score(state, Outputs(x[:, :3], {"penultimate": x}))


@functools.cache
def functions():
    """Name -> per-sample function of (6, 3) or, of features, (6, 4)."""
    found = {
        "cross-entropy": lambda x: losses.softmax_cross_entropy(x, jnp.asarray(Y3)),
        "soft cross-entropy": lambda x: losses.soft_cross_entropy(x, jnp.asarray(ROWS)),
        "maximum probability": metrics.msp,
        "label logit": lambda x: likelihood.label_logit(x, jnp.asarray(Y3)),
        "margin": lambda x: dynamics.margin(x, jnp.asarray(Y3)),
        "ce": lambda x: objectives.ce(x, jnp.asarray(Y3)),
        "margin of an attack": lambda x: objectives.margin(x, jnp.asarray(Y3)),
        "dlr": lambda x: objectives.dlr(x, jnp.asarray(Y3)),
        "sign": lambda x: binary.sign(x).sum(1),
        "quantize": lambda x: quantize.quantize(x, 2, -1.0, 1.0).sum(1),
        "odin": lambda x: odin.confidence(apply, VARIABLES, x),
        "mean squared error": lambda x: matching.mse(x[:, :, None, None], jnp.zeros((1, 3, 1, 1)))[:, 0],
    }
    found |= {f"ood {name}": of_logits(detector) for name, detector in OF_LOGITS.items()}
    found |= {f"ood {name}": of_features(detector) for name, detector in OF_FEATURES.items()}
    for name in memorization.TABLE:
        fn = memorization.scorer(name, apply, probes=1, step=1e-2)
        found[f"score {name}"] = lambda x, fn=fn: fn(KEYS, VARIABLES, x, LABELS)
    return {name: jax.jit(fn) for name, fn in found.items()}


@pytest.mark.process
@given(st.integers(0, 5), st.integers(0, 2))
def test_a_sample_with_a_nan_has_no_result_and_the_others_keep_theirs(sample, place):
    for name, fn in functions().items():
        values = FEATURES if name.removeprefix("ood ") in OF_FEATURES else LOGITS
        broken = values.copy()
        broken[sample, place] = np.nan
        whole, found = np.asarray(fn(jnp.asarray(values))), np.asarray(fn(jnp.asarray(broken)))
        others = np.arange(6) != sample
        assert np.isnan(found[sample]), name
        np.testing.assert_allclose(found[others], whole[others], rtol=1e-5, atol=1e-6, err_msg=name)
