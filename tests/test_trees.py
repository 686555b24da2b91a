import chex
import jax.numpy as jnp
import pytest

from subspace_jax import trees

TREE = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "attention": {"value": {"kernel": jnp.ones(2)}}}


def test_paths_name_every_leaf_once():
    assert sorted(trees.flatten(TREE)) == ["attention/value/kernel", "dense/bias", "dense/kernel"]


def test_update_replaces_only_what_is_named():
    new = trees.update(TREE, {"dense/bias": jnp.ones(3)})
    assert float(new["dense"]["bias"].sum()) == 3
    chex.assert_trees_all_equal(new["dense"]["kernel"], TREE["dense"]["kernel"])


def test_a_path_without_a_leaf_is_refused_with_the_paths_there_are():
    with pytest.raises(KeyError, match=r"no leaf 'dense/scale'.*dense/bias"):
        trees.select(TREE, ["dense/scale"])
    with pytest.raises(KeyError, match="no leaf"):
        trees.update(TREE, {"head": jnp.ones(1)})


def test_stack_and_unstack_are_inverse():
    other = trees.map_with_path(lambda path, leaf: leaf + len(path), TREE)
    chex.assert_trees_all_equal(trees.unstack(trees.stack([TREE, other])), [TREE, other])
