"""What computes with NumPy says so inside jit, grad and vmap; no tracer of JAX gets past its door."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import roc
from subspace_jax.privacy.attacks import thresholds
from tests.test_keys_contract import CALLS, public_functions
from tests.traced.wrong import LEAKS

SENTENCE = "computes on the host, in NumPy: call it outside jit, grad and vmap"
# With a traced key these still end in JAX's own error: they also take models, tables or steps that may be traced.
UNSAID = "random_subspaces", "draw", "stacked", "classifier_step", "sgd_step", "run_circuit", "plant"
KEY = jax.random.key(0)
LOSSES = np.random.default_rng(0).normal(size=(2, 1, 6)).astype(np.float32)


def test_a_function_on_the_host_keeps_its_name_arguments_and_answer():
    assert thresholds.yeom.__name__ == "yeom"
    assert list(inspect.signature(thresholds.yeom).parameters) == ["loss"]
    np.testing.assert_allclose(thresholds.yeom(jnp.asarray(LOSSES)), -LOSSES[:, 0], rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=["jit", "grad", "vmap"])
def test_traced_values_are_refused_in_one_sentence(transform):
    with pytest.raises(ValueError, match=f"^yeom {SENTENCE}[.]"):
        transform(lambda losses: thresholds.yeom(losses).sum())(jnp.asarray(LOSSES))
    with pytest.raises(ValueError, match=f"^curve {SENTENCE}[.]"):
        transform(lambda scores: roc.curve(scores=scores, positive=LOSSES[0, 0] > 0).threshold.sum())(jnp.ones(6))


def is_on_host(member):
    """Whether `on_host` is among the decorators."""
    return inspect.isfunction(member) and "on_host\n" in inspect.getsource(member).partition("def ")[0]


def test_every_function_on_the_host_refuses_before_it_looks_at_its_arguments(unchecked):
    found = {name: member for name, member in public_functions() if is_on_host(member)}
    assert len(found) > 100
    for member in found.values():
        with pytest.raises(ValueError, match=f"^{member.__name__} {SENTENCE}"):
            jax.eval_shape(member, jnp.ones(3))


def said(call):
    """What is said while the call is traced, nothing where it gives an answer."""
    try:
        jax.eval_shape(lambda key: [leaf for leaf in jax.tree.leaves(call(key)) if isinstance(leaf, jax.Array)], KEY)
    except LEAKS as leak:
        return f"a traced value escapes: {type(leak).__name__}"
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.process
@pytest.mark.parametrize(
    "function", [f for f in CALLS if f.__name__ not in UNSAID], ids=lambda function: function.__name__
)
def test_a_traced_key_gives_an_answer_or_the_sentence(function, unchecked):
    told = said(CALLS[function])
    assert not told or "outside jit, grad and vmap" in told or "not for jit, grad or vmap" in told
