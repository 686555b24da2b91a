"""Valid calls of what factories return, where it runs on the host: the starts of methods, and fits of detectors."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import losses
from subspace_jax.ood import auxiliary_class, detectors, norm_scaling
from subspace_jax.spiking import network, temporal_pruning
from tests.fuzz.mutations import Call, Own, blind, call
from tests.fuzz.values import LOGITS, SCORES, Y3, Y
from tests.traced import learners, steps
from tests.traced.batches import KEY, VARIABLES, X

RNG = np.random.default_rng(9)  # its own: the values of a file do not depend on which others were read


def calls() -> list[Call]:
    return [*_losses(), *_starts(), *_fits(), *_stages()]


def _losses() -> list[Call]:
    return [call(losses.class_rows, np.eye(3, 2, dtype=np.float32), Y3), call(losses.mean, jnp.asarray(SCORES))]


def _starts() -> list[Call]:
    """A start reads shapes and dtypes; what the parameters are worth shows in the state."""
    algorithms = [step for group in ("agents", "federated") for step in steps.steps(group).values()]
    made = [call(step.begin, KEY, VARIABLES) for step in algorithms]
    made += [call(tx.tx.init, tx.params) for tx in learners.transforms().values()]
    made += [call(method.init, KEY, X) for _, method in learners.learners().values()]
    return [blind(one) for one in made]


def _fits() -> list[Call]:
    """Fits and scores of the detectors that tests/fuzz/entries_ood.py leaves out."""
    head = RNG.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)
    made = {
        "norm_scaling": (norm_scaling.norm_scaling("norm", kind="energy", missing="identity"), Y3),
        "matched": (norm_scaling.matched(correct_only=False), Y3),
        "matched_raw": (norm_scaling.matched_raw(correct_only=False), Y3),
        "weight": (norm_scaling.weight(head), Y3),
        "aux": (auxiliary_class.aux(), Y), "aux_max": (auxiliary_class.aux_max(), Y),
    }  # fmt: skip
    found = []
    for name, (detector, labels) in made.items():
        outputs = detectors.Outputs(LOGITS)
        found.append(call(detector.fit, outputs, labels)._replace(name=f"ood.{name}.fit"))
        state = detector.fit(outputs, labels)
        found.append(call(detector.score, Own(state), outputs)._replace(name=f"ood.{name}.score"))
    return found


def _stages() -> list[Call]:
    params = {"a": np.ones((4, 3), np.float32), "b": np.ones((3, 2), np.float32)}
    net = network.Spiking(params, (network.Layer("a", True, 0), network.Layer("b", True, 0)), print)

    def train(key, params, thresholds, steps, samples):
        return {name: leaf + thresholds[0] * jnp.sum(samples) for name, leaf in params.items()}

    method = temporal_pruning.shorten(net, [0.5], (6, 4), train, order="update_first")
    state = method.init(KEY, {"params": params})
    return [call(method.step, KEY, Own(state), SCORES)]
