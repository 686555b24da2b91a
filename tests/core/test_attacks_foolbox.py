"""The same attacks in foolbox: fgsm and PGD step by step from the same start, Carlini-Wagner by its successes."""

import foolbox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import attacks, keys
from subspace_jax.core.attacks import balls

COUNT, EPS, ROUNDED = 12, 0.2, 1e-6
RNG = np.random.default_rng(0)
W, V = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((12, 8), (8, 3)))
X = jnp.asarray(RNG.uniform(size=(COUNT, 3, 4, 1)), jnp.float32)
KEYS = keys.sample_keys(jax.random.key(0), np.arange(COUNT))


def logits_fn(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W) @ V


Y = logits_fn(X).argmax(1)
PEER = foolbox.JAXModel(logits_fn, bounds=(0, 1))


def started(kind, norm, **settings):
    """A peer that starts where our attack does."""

    class Started(kind):
        def get_random_start(self, x0, epsilon):
            begun = jax.vmap(jax.random.fold_in, (0, None))(KEYS, 1 << 19)
            return type(x0)(balls.uniform(norm, begun, X, jnp.float32(EPS)))

    return Started(rel_stepsize=1 / 8, steps=10, random_start=True)


@pytest.mark.parametrize(("ours", "peer"), [
    (attacks.fgsm(), foolbox.attacks.LinfFastGradientAttack()),
    (attacks.fgsm(norm="l2"), foolbox.attacks.L2FastGradientAttack()),
    (attacks.pgd(steps=10), started(foolbox.attacks.LinfPGD, "linf")),
    (attacks.pgd(steps=10, norm="l2"), started(foolbox.attacks.L2PGD, "l2")),
], ids=["fgsm", "fgsm_l2", "pgd", "pgd_l2"])  # fmt: skip
def test_gradient_steps_are_those_of_foolbox(ours, peer):
    found = attacks.run(KEYS, ours, logits_fn, X, Y, eps=EPS)
    np.testing.assert_allclose(found, peer.run(PEER, X, Y, epsilon=EPS), atol=ROUNDED)


def test_carlini_wagner_succeeds_as_often_with_changes_as_small():
    settings = {"steps": 30, "step_size": 0.05, "weight": 0.1}
    found = attacks.run(KEYS, attacks.cw_l2(rounds=4, **settings), logits_fn, X, Y, eps=12**0.5)
    peer = foolbox.attacks.L2CarliniWagnerAttack(4, 30, 0.05, initial_const=0.1, abort_early=False)
    other = peer.run(PEER, X, Y)
    fooled = [np.asarray(logits_fn(x).argmax(1) != Y) for x in (found, other)]
    np.testing.assert_array_equal(*fooled)
    assert fooled[0].mean() > 0.5
    lengths = [np.linalg.norm(np.asarray(x - X).reshape(COUNT, -1)[fooled[0]], axis=1) for x in (found, other)]
    np.testing.assert_allclose(*lengths, rtol=0.05)
