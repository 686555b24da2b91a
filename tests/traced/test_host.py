"""What computes with NumPy says so inside jit, grad and vmap; no tracer of JAX gets past its door."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import checks, roc
from subspace_jax.privacy.attacks import thresholds
from tests.test_keys_contract import CALLS, public_functions
from tests.traced.wrong import LEAKS

SENTENCE = "computes on the host, in NumPy: call it outside jit, grad and vmap"
ON_HOST = {
    name: member for name, member in public_functions()
    if getattr(member, "__code__", None) is checks.on_host(print).__code__
}  # fmt: skip
LOSSES = np.random.default_rng(0).normal(size=(2, 1, 6)).astype(np.float32)


def test_a_function_on_the_host_keeps_its_name_arguments_and_answer():
    assert thresholds.yeom.__name__ == "yeom"
    assert list(inspect.signature(thresholds.yeom).parameters) == ["loss"]
    np.testing.assert_allclose(thresholds.yeom(jnp.asarray(LOSSES)), -LOSSES[:, 0], rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=["jit", "grad", "vmap"])
def test_traced_values_are_refused_in_one_sentence(transform):
    with pytest.raises(ValueError, match=f"^yeom {SENTENCE}[.]$"):
        transform(lambda losses: thresholds.yeom(losses).sum())(jnp.asarray(LOSSES))
    with pytest.raises(ValueError, match=f"^curve {SENTENCE}[.]$"):
        transform(lambda scores: roc.curve(scores=scores, positive=LOSSES[0, 0] > 0).threshold.sum())(jnp.ones(6))


@pytest.mark.parametrize("name", ON_HOST)
def test_every_function_on_the_host_refuses_before_it_looks_at_its_arguments(name):
    with pytest.raises(ValueError, match=f"^{ON_HOST[name].__name__} {SENTENCE}"):
        jax.eval_shape(ON_HOST[name], jnp.ones(3))


@pytest.mark.process
@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_a_traced_key_gives_an_answer_or_the_sentence(function, unchecked):
    try:
        jax.eval_shape(lambda key: arrays_of(CALLS[function](key)), jax.random.key(0))
    except LEAKS as leak:
        pytest.fail(f"a traced value escapes: {leak}")
    except ValueError as error:
        assert "outside jit, grad and vmap" in str(error)


def arrays_of(result):
    """Arrays of JAX; others are none of the program's."""
    return [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)]
