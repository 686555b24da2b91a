"""Valid calls of what larger methods are made of, where it can also be called alone."""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.continual import widths
from subspace_jax.core import capture, likelihood, packed
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import cga, soft_labels
from subspace_jax.federated import fedavg, inversion, tofu
from subspace_jax.hierarchy import conditional, metrics, tree
from subspace_jax.nn.layers import neighborhood as looked_up
from subspace_jax.ood import detectors, norm_scaling
from subspace_jax.privacy.attacks import fits
from subspace_jax.robustness import neighborhood
from subspace_jax.spiking import encode, network, pruning
from tests.fuzz.mutations import Call, Own, blind, call
from tests.fuzz.values import JX, KERNEL, LOGITS, PARAMS, Y3, X, Y, fn, loss

RNG = np.random.default_rng(8)  # its own: the values of a file do not depend on which others were read


def calls() -> list[Call]:
    return [*_agents(), *_classes(), *_networks()]


def soft_loss(params, x, y):
    return -(y * jax.nn.log_softmax(fn(params, x))).sum(-1)


def per_sample(params, x, y):
    return loss({"params": params}, x, y)


def _agents() -> list[Call]:
    labels = jax.nn.softmax(jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32))
    wire = soft_labels.encode(labels, jnp.ones(6, bool))
    proxy = tofu.Proxy(jnp.ones((2, 3)), jnp.ones((2, 2)), jnp.ones(2), jnp.float32(1))
    few = jnp.asarray(RNG.random((2, 4, 4, 1)), jnp.float32)
    ring = np.array([[0.5, 0.5], [0.5, 0.5]])
    return [
        call(cga.aggregate, KERNEL, jnp.stack([KERNEL, -KERNEL]), 0.5),
        call(cga.least_quadratic, jnp.eye(2), jnp.ones(2), 0.5),
        call(soft_labels.decode, Own(wire)),
        call(soft_labels.merger, Own(Comm(2)), ring, rule="mean"),
        call(fedavg.local_update, per_sample, PARAMS, (JX[None], Y[None]), lr=0.1),
        call(inversion.guess, few, np.array([0, 1]), np.array([0, 1, 1])),
        call(tofu.decode, soft_loss, PARAMS, Own(proxy)),
    ]


def _classes() -> list[Call]:
    family = tree.from_nested({"a": ["b", "c"], "d": ["e"]})
    levels = [jnp.asarray(RNG.normal(size=(6, count)), jnp.float32) for count in (2, 3)]
    scaling = norm_scaling.norm_scaling(correct_only=False).fit(detectors.Outputs(LOGITS), Y3)
    shadows, keep = RNG.normal(size=(4, 1, 6)), np.arange(4)[:, None, None] % 2 == np.arange(6) % 2
    gaussian = likelihood.Gaussian(np.zeros(3), np.ones(3))
    return [
        call(conditional.level_losses, levels, Y3, Own(family)),
        blind(call(conditional.validity, levels, Y3, Own(family))),  # NaN is no right answer
        call(metrics.head_agreement, np.array([[0, 1, 0], [0, 2, 1]]), Own(family)),
        call(tree.from_paths, np.array([[0, 0], [0, 1], [1, 2]])),
        call(norm_scaling.scaled, Own(scaling), LOGITS),
        call(fits.gaussians, shadows, keep),
        call(fits.quantile, shadows, keep, 0.5),
        call(fits.spread_of, Own(gaussian), "std"),
    ]


def _networks() -> list[Call]:
    seen = capture.collect(fn, PARAMS, [X], of="outputs", dtype="float64")
    path = next(iter(seen))
    words = jnp.asarray(RNG.integers(0, 2**16, (4, 2)), jnp.uint32)
    entries = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
    _, near = looked_up.neighborhood(JX, entries, entries, neighbors=2, tau=1.0)
    net = network.Spiking(
        {"w": jnp.ones((3, 3)), "v": jnp.ones((3, 2))},
        (network.Layer("w", True, 0), network.Layer("v", True, 0)),
        print,
    )
    frames = jnp.asarray(RNG.normal(size=(4, 2, 2, 2, 1)), jnp.float32)
    return [
        call(packed.popcount_dot, words, words.T, words),
        call(widths.task_widths, Own(seen), {path: 0}, v=0.9),
        call(neighborhood.drift, JX, entries),
        call(encode.dct_encode, frames, -0.5, 0.5, steps=2),
        call(pruning.widths, Own(seen), tau=0.9),
        call(pruning.parameters, Own(net), (2,)),
        call(neighborhood.moving_average, entries, JX, Own(near), rho=0.05),
    ]
