"""What factories return: a wrong batch is refused, NaN and wrong labels show, and a scan is the loop.

One program is compiled a step: two of them in a scan, with the state donated, as loops of users run them.
"""

import ast
import functools
import inspect
import textwrap

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax import trees
from tests.fuzz.test_fuzz import calls, reached
from tests.traced import learners
from tests.traced import steps as table
from tests.traced.batches import KEY, D, K, N, X
from tests.traced.untried import UNTRIED
from tests.traced.wrong import DTYPES, SHAPES, outcome

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("unchecked")]
EXECUTED = 1e-4  # relative: float32 sums in another order
FEW = {  # steps that are also run one by one: eager programs are compiled operation by operation
    "objectives": ("vrm_intra", "soft_labels"), "learners": ("er_learner", "sgp_learner"), "agents": ("qgm",),
    "federated": ("fedavg",), "single": ("train_step", "in_turn"),
}  # fmt: skip
KERNELS = {  # first ones, and what no network with the others has; Flax makes real of complex ones
    "first": ("one less", "complex"), "encoder/head/kernel": ("one less",), "dense0/kernel": ("one less",),
}  # fmt: skip
GROUPS = pytest.mark.parametrize("group", table.GROUPS)
TRANSFORMS = "gpm", "sgp", "masked", "freeze", "recentre", "gaussian_noise"
LEARNERS = "a_gem", "er", "ewc", "ogd", "gpm", "sgp", "trgp"  # whose `end` looks at the samples of the task


@functools.cache
def twice(group, name):
    """(held, two batches) -> (held after both steps, both losses); held is donated."""
    fn = table.steps(group)[name].fn
    return jax.jit(lambda held, batches: jax.lax.scan(lambda h, one: fn(h, *one), held, batches), donate_argnums=0)


def two(step):
    """Two batches: the valid one, and its samples in the opposite order."""
    return tuple(np.stack([part, part[::-1]]) for part in (step.x, step.y))


def run(group, name, batches, held=None):
    """What was learned, and the losses."""
    step = table.steps(group)[name]
    own = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), step.held if held is None else held)
    after, loss = twice(group, name)(own, batches)
    return step.learned(after), loss


def is_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))


def refused(fn, *args):
    """What is wrong with the outcome of a wrong call, "" of one that ends in a sentence; Flax has its own of shapes."""
    found, fault = outcome(fn, *args)
    if fault.startswith(flax.errors.ScopeParamShapeError.__name__):
        return ""
    return fault or ("" if found is None else "an answer")


@GROUPS
def test_a_valid_batch_trains(group):
    for name, step in table.steps(group).items():
        learned, loss = run(group, name, two(step))
        assert is_finite((learned, loss)), name
        with pytest.raises(AssertionError):
            jax.tree.map(np.testing.assert_array_equal, learned, step.learned(step.held))


@GROUPS
@settings(max_examples=5)
@given(st.data())
def test_what_is_no_number_and_no_class_shows_in_what_is_learned(group, data):
    for name, step in table.steps(group).items():
        x, y = two(step)
        place = data.draw(st.integers(0, 1)), data.draw(st.integers(0, N - 1))
        if y.dtype.kind == "i" and data.draw(st.booleans()):
            y[place] = data.draw(st.sampled_from([K, 100, -1, -100]))
        elif y.dtype.kind == "f" and data.draw(st.booleans()):
            y[place] = np.nan
        else:
            x[(*place, data.draw(st.integers(0, D - 1)))] = np.nan
        assert not is_finite(run(group, name, (x, y))), name


@GROUPS
def test_a_state_with_nan_does_not_train_on(group):
    for name, step in table.steps(group).items():
        for path, leaf in trees.flatten(step.held).items():
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not path.startswith(step.carried or "-"):
                broken = trees.update(step.held, {path: jnp.full_like(leaf, jnp.nan)})
                assert not is_finite(run(group, name, two(step), broken)), (name, path)


@GROUPS
def test_a_state_holds_no_array_twice(group):
    """Such a state could not be donated."""
    for name, step in table.steps(group).items():
        leaves = jax.tree.leaves(step.held)
        assert len({id(leaf) for leaf in leaves}) == len(leaves), name


@GROUPS
def test_a_wrong_batch_is_refused_while_the_step_is_traced(group):
    faults = {}
    for name, step in table.steps(group).items():
        for at in (1, 2):
            for kind, change in (SHAPES | DTYPES).items():
                args = [step.held, step.x, step.y]
                args[at] = change(args[at])
                alike = np.shape(args[at]) == np.shape((step.x, step.y)[at - 1])
                fault = refused(step.fn, *args)
                if fault and not (fault == "an answer" and alike and kind in (*SHAPES, *right(step, at))):
                    faults[f"{name}, argument {at}, {kind}"] = fault
        if not step.empty and (fault := refused(step.fn, step.held, step.x[:0], step.y[:0])):
            faults[f"{name}, no sample"] = fault
    assert faults == {}


def right(step, at):
    """Other dtypes that a step may take: pixels, class numbers of a byte, distributions of any real numbers."""
    if at == 1:
        return "int8", "bool", "float16"
    return ("int8",) if step.y.dtype.kind == "i" else ("int8", "bool", "float16")


@GROUPS
def test_a_batch_of_numpy_may_be_a_constant_of_the_program_but_text_is_refused(group):
    for name, step in table.steps(group).items():
        found, fault = outcome(lambda held, step=step: step.fn(held, step.x, step.y), step.held)
        assert found is not None, (name, fault)
        for x, y in ((np.full(step.x.shape, "a"), step.y), (step.x, np.full(step.y.shape, "a"))):
            fault = refused(lambda held, x=x, y=y, fn=step.fn: fn(held, x, y), step.held)
            assert not fault, (name, fault)


@GROUPS
def test_parameters_of_another_network_are_refused(group):
    faults = {}
    for name, step in table.steps(group).items():
        for path, leaf in trees.flatten(step.held).items():
            for kind in KERNELS.get(path.removeprefix("variables/").removeprefix("params/"), ()):
                other = trees.update(step.held, {path: (SHAPES | DTYPES)[kind](leaf)})
                if fault := refused(step.fn, other, step.x, step.y):
                    faults[f"{name}, {path}, {kind}"] = fault
    assert faults == {}


@GROUPS
@settings(max_examples=2)
@given(st.integers(0, 2**31 - 1))
def test_a_scan_of_a_donated_state_is_the_loop_of_eager_steps(group, seed):
    for name in FEW[group]:
        step = table.steps(group)[name]
        x = np.random.default_rng(seed).random((2, N, D)).astype(np.float32)
        y = np.stack([np.roll(step.y, seed), step.y])
        held, losses = step.held, []
        for one in zip(x, y, strict=True):
            held, loss = step.fn(held, *one)
            losses.append(loss)
        found, loss = run(group, name, (x, y))
        jax.tree.map(close, found, step.learned(held))
        if loss is not None:
            close(loss, np.stack(losses))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=EXECUTED, atol=EXECUTED)


# --- transforms


@functools.cache
def transformed(name):
    tx = learners.transforms()[name]
    return jax.jit(lambda updates, state, params: tx.tx.update(updates, state, params)[0])


@pytest.mark.parametrize("name", TRANSFORMS)
@given(st.data())
def test_an_update_with_nan_stays_one(name, data):
    tx = learners.transforms()[name]
    updates = trees.flatten(jax.tree.map(jnp.ones_like, tx.params))
    path = data.draw(st.sampled_from(sorted(updates)))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in updates[path].shape)
    hidden = name == "freeze" and path == "heads/kernel" and place[0] > 0  # the head of a later task stands still
    broken = trees.update(jax.tree.map(jnp.ones_like, tx.params), {path: updates[path].at[place].set(jnp.nan)})
    assert is_finite(transformed(name)(broken, tx.state, tx.params)) == hidden


@pytest.mark.parametrize("name", TRANSFORMS)
def test_updates_of_other_parameters_are_refused(name):
    tx, faults = learners.transforms()[name], {}
    for path, leaf in trees.flatten(tx.params).items():
        for kind, change in (SHAPES | DTYPES).items():
            wrong = trees.update(jax.tree.map(jnp.ones_like, tx.params), {path: change(leaf)})
            if (kind != "float16" and np.shape(change(leaf)) != np.shape(leaf)) or kind in ("int8", "complex", "bool"):
                fault = refused(lambda u, tx=tx: tx.tx.update(u, tx.state, tx.params), wrong)
                faults |= {f"{path}, {kind}": fault} if fault else {}
    assert faults == {}


# --- what learners keep of a task


@pytest.mark.parametrize("name", LEARNERS)
def test_nan_in_a_task_is_refused_at_its_end_or_stays_in_what_is_kept(name):
    _, method = learners.learners()[f"{name}_learner"]
    x = np.array(X)
    x[1, 1] = np.nan
    try:
        state = method.end(KEY, method.init(KEY, X), learners.TASK._replace(x=x), 0)
    except ValueError as error:
        assert "NaN" in str(error) or "finite" in str(error)  # noqa: PT017
    else:
        assert not is_finite(state)


# --- all of them


KINDS = "Algorithm", "Learner", "GradientTransformation", "Detector"
INNER = {"step", "objective", "sharp", "loss"}  # names of what a factory defines and returns


def factories():
    """Public functions that return an algorithm, a learner, a transform, a detector, an objective or a step."""
    found = set()
    for name, member in reached().items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(member))).body[0]
        returns = ast.unparse(tree.returns) if getattr(tree, "returns", None) else ""
        inner = {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)} - {member.__name__}
        if any(kind in returns for kind in KINDS) or (inner & INNER and "Callable" in returns):
            found.add(name)
    return found


def test_every_factory_is_tried_or_left_out_with_a_reason():
    fitted = {call.name.removesuffix(".fit") for domain in ("ood", "steps") for call in calls(domain)}
    tried = [step.made_by for group in table.GROUPS for step in table.steps(group).values()]
    tried += [tx.made_by for tx in learners.transforms().values()]
    named = {f"{made.__module__.removeprefix('subspace_jax.')}.{made.__name__}" for made in tried}
    untried = {name for names in UNTRIED.values() for name in names.split()}
    named |= {name for name in factories() if name.startswith("ood.") and f"ood.{name.split('.')[-1]}" in fitted}
    assert factories() - named - untried == set()
    assert untried - factories() == set(), "left out, but not there"
    assert untried & named == set(), "left out, but tried"
