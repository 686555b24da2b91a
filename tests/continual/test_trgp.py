import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn
from subspace_jax.continual import protocol, tasks, trgp
from subspace_jax.core import capture

CENTRES = np.random.default_rng(0).normal(size=(3, 6)) * 3
MODEL = nn.multi_head(nn.build("mlp", classes=0, widths=(12,), use_bias=False), tasks=3, classes=3)
KEY = jax.random.key(0)


def blobs(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (CENTRES[y] + rng.normal(size=(n, 6))).astype(np.float32).reshape(n, 1, 6, 1), y


DATA = tasks.Task(*blobs(90, 1), *blobs(60, 2))
TURNED = DATA._replace(y=(DATA.y + 1) % 3, test_y=(DATA.test_y + 1) % 3)
VARIABLES = MODEL.init(KEY, DATA.x[:1])
TABLE = capture.layers(MODEL.apply, VARIABLES, DATA.x[:1])
OWN = capture.Layers({"dense0/kernel": TABLE["dense0/kernel"]}, ())
METHOD = trgp.trgp_learner(MODEL, optax.sgd(0.05), TABLE, tasks=3, energy=lambda t: 0.9, samples=30, heads=("heads",))
SHORT = {"classes": 3, "length": 60, "batch": 10}


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


def test_a_sequence_keeps_old_tasks_and_learns_a_contradicting_one():
    sequence = [DATA, TURNED, *tasks.permuted(jax.random.key(3), DATA, tasks=2)[1:]]
    found = protocol.run(KEY, METHOD, sequence, **SHORT)
    measures = protocol.measures(found.matrix)
    assert measures.accuracy > 0.85
    assert measures.backward_transfer > -0.1
    assert found.held["reused/dense0/kernel"][1] >= 1  # the second task has the inputs of the first
    assert (np.diff(found.held["floats"]) > 0).all()


def test_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="at least 1 task and plain layers; got 0"):
        trgp.init(OWN, tasks=0)
