import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from subspace_jax import trees
from subspace_jax.nn import Model, from_function, from_linen, from_nnx

FLOAT32 = 1e-6  # the same products and sums
X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


class Linen(nn.Module):
    """Takes no argument that says train."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="second")(nn.relu(nn.Dense(4, name="first")(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.second = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


def plain_init(key, x):
    kernel = jax.nn.initializers.lecun_normal()
    sizes = {"first": (x.shape[-1], 4), "second": (4, 2)}
    return {name: {"kernel": kernel(key, size), "bias": jnp.zeros(size[1])} for name, size in sizes.items()}


def plain_apply(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"][None]


class NoisyLinen(nn.Module):
    """BatchNorm and dropout, told by `deterministic`."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.BatchNorm(use_running_average=deterministic)(nn.Dense(64)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(x))


class NoisyNnx(nnx.Module):
    """BatchNorm and dropout, told by nnx's own modes; a list of layers; a constant."""

    def __init__(self, rngs):
        self.scale = jnp.full(3, 2.0)
        self.layers = nnx.List([nnx.Linear(3, 64, rngs=rngs), nnx.Linear(64, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x * self.scale[None]))))


class CallRngsNnx(nnx.Module):
    """Dropout whose streams come with the call, and an argument that says train."""

    def __init__(self, rngs):
        self.linear, self.dropout = nnx.Linear(3, 64, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, train, rngs=None):
        return self.linear(self.dropout(x, deterministic=not train, rngs=rngs))


class Staged(nn.Module):
    """Names its own stages."""

    logits: str = "logits"

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(4)(x)
        return {"hidden": hidden, self.logits: nn.Dense(2)(hidden)}


class Counting(nn.Module):
    """Keeps a collection that nobody would save."""

    @nn.compact
    def __call__(self, x):
        self.variable("counters", "calls", jnp.zeros, ())
        return nn.Dense(2)(x)


class CountingNnx(nnx.Module):
    def __init__(self, rngs):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        return x


class Twice(nn.Module):
    """One layer called twice, one value sown."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3)
        x = layer(layer(x))
        self.sow("intermediates", "middle", x)
        return nn.Dense(2)(x)


def compiled(model):
    """Each function one program, not one an operation."""
    return Model(*map(jax.jit, model))


SMALL = {
    "linen": compiled(from_linen(Linen())),
    "nnx": compiled(from_nnx(Nnx)),
    "plain": compiled(from_function(plain_init, plain_apply)),
}
NOISY = {"linen": compiled(from_linen(NoisyLinen())), "nnx": compiled(from_nnx(NoisyNnx))}


@pytest.mark.parametrize("name", SMALL)
def test_three_ways_to_write_a_network_are_one(name):
    variables = SMALL["linen"].init(jax.random.key(0), X)
    model = SMALL[name]
    chex.assert_trees_all_equal_shapes_and_dtypes(model.init(jax.random.key(0), X), variables)
    first, second = (jax.device_get(variables["params"][layer]) for layer in ("first", "second"))
    hidden = np.maximum(X @ first["kernel"] + first["bias"], 0)
    expected = hidden @ second["kernel"] + second["bias"]
    chex.assert_trees_all_close(model.apply(variables, X), expected, atol=FLOAT32)
    logits, stats = model.train_apply(variables, X, jax.random.key(2))
    chex.assert_trees_all_close(logits, expected, atol=FLOAT32)
    assert stats == {}
    chex.assert_trees_all_close(model.features(variables, X)["logits"], expected, atol=FLOAT32)


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_works_under_grad_and_vmap(name):
    model = SMALL[name]
    stacked = jax.jit(jax.vmap(model.init, (0, None)))(jax.random.split(jax.random.key(0), 2), X)
    gradient = jax.jit(jax.grad(lambda variables: model.apply(variables, X).sum()))
    looped = trees.stack([gradient(variables) for variables in trees.unstack(stacked)])
    chex.assert_trees_all_close(jax.jit(jax.vmap(gradient))(stacked), looped, atol=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_noise_and_statistics_belong_to_training(name):
    model = NOISY[name]
    variables = model.init(jax.random.key(0), X)
    (one, stats), (same, _), (other, _) = (model.train_apply(variables, X, jax.random.key(s)) for s in (5, 5, 6))
    chex.assert_trees_all_equal(one, same)
    assert not np.allclose(one, other)
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
    before = np.asarray(model.apply(variables, X))
    company = np.concatenate([X[:1], 9 * X[1:]])
    np.testing.assert_allclose(before[0], np.asarray(model.apply(variables, company))[0], atol=1e-5)
    assert not np.allclose(before, model.apply({**variables, "batch_stats": stats}, X))


def test_streams_and_mode_can_come_with_the_call():
    model = compiled(from_nnx(CallRngsNnx))
    variables = model.init(jax.random.key(0), X)
    one, other = (model.train_apply(variables, X, jax.random.key(seed))[0] for seed in (5, 6))
    assert not np.allclose(one, other)
    chex.assert_trees_all_equal(model.apply(variables, X), model.apply(variables, X))


def test_nnx_variables_are_plain_nested_dicts():
    variables = NOISY["nnx"].init(jax.random.key(0), X)
    assert set(flatten_dict(variables, sep="/")) == {
        "params/layers/0/kernel", "params/layers/0/bias", "params/layers/1/kernel", "params/layers/1/bias",
        "params/norm/scale", "params/norm/bias", "batch_stats/norm/mean", "batch_stats/norm/var",
    }  # fmt: skip
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))


def test_features_of_a_foreign_linen_module_are_its_submodules():
    stages = SMALL["linen"].features(SMALL["linen"].init(jax.random.key(0), X), X)
    assert list(stages) == ["first", "second", "logits"]
    chex.assert_trees_all_equal(stages["second"], stages["logits"])


def test_second_calls_and_sown_values_have_names():
    model = compiled(from_linen(Twice()))
    stages = model.features(model.init(jax.random.key(0), X), X)
    assert set(stages) == {"Dense_0", "Dense_0/1", "middle", "Dense_1", "logits"}
    chex.assert_trees_all_equal(stages["Dense_0/1"], stages["middle"])


@pytest.mark.parametrize("name", ["nnx", "plain"])
def test_other_networks_have_logits_alone(name):
    model = SMALL[name]
    assert list(model.features(model.init(jax.random.key(0), X), X)) == ["logits"]


def test_a_network_may_name_its_own_stages():
    model = compiled(from_linen(Staged()))
    variables = model.init(jax.random.key(0), X)
    stages = model.features(variables, X)
    assert list(stages) == ["hidden", "logits"]
    chex.assert_trees_all_equal(model.apply(variables, X), stages["logits"])


def test_stages_without_logits_are_refused():
    model = from_linen(Staged(logits="scores"))
    with pytest.raises(ValueError, match='must name "logits" in it; this one names hidden, scores'):
        model.apply(model.init(jax.random.key(0), X), X)


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: from_linen(Counting()).init(jax.random.key(0), X), "counters"), (lambda: from_nnx(CountingNnx), "calls")],
)
def test_state_that_no_checkpoint_would_carry_is_refused(make, name):
    with pytest.raises(ValueError, match=f"also keeps {name}"):
        make()
