"""TRGP: what a scale changes, which old tasks are trusted, and a sequence of two tasks that contradict each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.continual import projection, protocol, trgp
from tests.continual.sequences import DATA, KEY, PERMUTED, SGD, SHORT, TURNED, drawn, with_heads

MODEL, TABLE = with_heads(widths=(12,), use_bias=False)
VARIABLES = drawn(MODEL)
OWN = projection.beside(TABLE, ["heads"])
METHOD = trgp.trgp_learner(MODEL, SGD, TABLE, tasks=3, energy=lambda t: 0.9, samples=30, heads=("heads",))


def spaces(basis, *, tasks=2):
    own = trgp.init(OWN, tasks=tasks)["dense0/kernel"]
    return {"dense0/kernel": own._replace(bases=own.bases.at[0].set(basis))}


def basis(rank):
    return jnp.eye(6) * (jnp.arange(6) < rank)[None]


def test_identity_scales_leave_the_network_as_it_is():
    state = spaces(basis(3))
    state["dense0/kernel"] = state["dense0/kernel"]._replace(trusted=jnp.array([[-1, -1], [0, -1]]))
    same = trgp.effective(OWN, VARIABLES["params"], state, 1)
    np.testing.assert_allclose(same["dense0"]["kernel"], VARIABLES["params"]["dense0"]["kernel"], atol=1e-6)


def test_a_scale_acts_inside_the_trusted_space_only_and_for_its_task_only():
    state = spaces(basis(2))
    own = state["dense0/kernel"]
    state["dense0/kernel"] = own._replace(
        trusted=jnp.array([[-1, -1], [0, -1]]), scales=own.scales.at[1, 0].set(3 * jnp.eye(6))
    )
    kernel = VARIABLES["params"]["dense0"]["kernel"]
    other, scaled = (trgp.effective(OWN, VARIABLES["params"], state, t)["dense0"]["kernel"] for t in (0, 1))
    np.testing.assert_allclose(other, kernel, atol=1e-6)
    np.testing.assert_allclose(scaled, kernel.at[:2].multiply(3), atol=1e-5)


@pytest.mark.parametrize(("rank", "trusted"), [(6, [0, -1]), (0, [-1, -1])])
def test_a_task_is_trusted_where_its_space_holds_the_gradient(rank, trusted):
    chosen = trgp.begin_task(OWN, spaces(basis(rank)), VARIABLES["params"], task=1)
    np.testing.assert_array_equal(chosen["dense0/kernel"].trusted, [[-1, -1], trusted])


def test_the_share_of_the_gradient_decides_at_one_half():
    state = spaces(basis(1))
    for first, expected in ((0.6, 0), (0.5, -1)):
        gradient = jnp.zeros((6, 12)).at[0, 0].set(first).at[1, 0].set(0.8 if first == 0.6 else 1.0)
        grads = {**VARIABLES["params"], "dense0": {"kernel": gradient}}
        chosen = trgp.begin_task(OWN, state, grads, task=1)
        assert int(chosen["dense0/kernel"].trusted[1, 0]) == expected


def test_the_loss_is_that_of_the_scaled_kernel():
    """A part of the learner on its own: no sequence is run."""
    settings = METHOD.step.__self__
    kept = spaces(basis(2), tasks=3)
    kept["dense0/kernel"] = kept["dense0/kernel"]._replace(trusted=jnp.array([[-1, -1], [0, -1], [-1, -1]]))
    scales = {"dense0/kernel": jnp.stack([2 * jnp.eye(6), 5 * jnp.eye(6)])}  # the second belongs to no old task
    state = protocol.State(VARIABLES, (), kept)
    loss = jax.jit(settings.loss)
    for t, factor in ((0, 1.0), (1, 2.0)):
        kernel = np.array(VARIABLES["params"]["dense0"]["kernel"])
        kernel[:2] *= factor
        z = np.maximum(DATA.x.reshape(-1, 6) @ kernel, 0) @ VARIABLES["params"]["heads"]["kernel"][t]
        expected = np.mean(np.logaddexp.reduce(z, 1) - np.asarray(z)[np.arange(len(z)), DATA.y])
        found, _ = loss((VARIABLES["params"], scales), state, DATA.x, DATA.y, t, KEY)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sequence_keeps_old_tasks_and_learns_a_contradicting_one():
    found = protocol.run(KEY, METHOD, [DATA, TURNED, PERMUTED[1]], **SHORT)
    measures = protocol.measures(found.matrix)
    assert measures.accuracy > 0.85
    assert measures.backward_transfer > -0.1
    assert found.held["reused/dense0/kernel"][1] >= 1  # the second task has the inputs of the first
    assert (np.diff(found.held["floats"]) > 0).all()


def test_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="at least 1 task and plain layers; got 0"):
        trgp.init(OWN, tasks=0)
