import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.hierarchy import tree
from tests.hierarchy.trees import SHAPES, by_search, drawn

NESTED = {"animal": {"bird": ["crow", "owl"], "mammal": ["cat"]}, "vehicle": ["car", "bus"], "rock": "granite"}
NAMES = ["owl", "crow", "car", "cat", "bus", "granite"]
FOUND = tree.from_nested(NESTED, NAMES)


@given(st.sampled_from(SHAPES), st.integers(0, 2**31 - 1))
def test_distance_is_the_length_of_the_path_on_the_tree(shape, seed):
    found = drawn(shape, seed)
    d = tree.distance(found)
    np.testing.assert_array_equal(d, by_search(found))
    assert ((d == 0) == np.eye(found.classes, dtype=bool)).all()
    assert (d == d.T).all()
    assert (d % 2 == 0).all()
    assert d.max() <= 2 * found.levels
    assert (d[:, None, :] <= np.maximum(d[:, :, None], d[None])).all()  # d(a, c) <= max(d(a, b), d(b, c))


@given(st.sampled_from(SHAPES), st.integers(0, 2**31 - 1))
def test_classes_in_another_order_have_the_same_distances(shape, seed):
    found = drawn(shape, seed)
    order = np.random.default_rng(seed).permutation(found.classes)
    paths = np.asarray(found.paths)[order]
    paths[:, -1] = np.arange(found.classes)
    np.testing.assert_array_equal(tree.distance(tree.from_paths(paths)), tree.distance(found)[np.ix_(order, order)])


def test_nested_names_become_levels_and_high_classes_get_nodes_of_their_own():
    assert FOUND.levels == 3
    assert FOUND.names == (("animal", "vehicle", "rock"), ("bird", "car", "mammal", "bus", "granite"), tuple(NAMES))
    assert FOUND.sizes == (3, 5, 6)
    between = {(a, b): tree.distance(FOUND)[NAMES.index(a), NAMES.index(b)] for a in NAMES for b in NAMES}
    assert between["crow", "owl"] == 2
    assert between["crow", "cat"] == between["car", "bus"] == 4
    assert between["crow", "car"] == between["granite", "cat"] == 6
    y = np.array([3, 0, 3])
    np.testing.assert_array_equal(tree.ancestors(FOUND, y), np.asarray(FOUND.paths)[y].T)
    unknown = jax.jit(lambda y: tree.ancestors(FOUND, y))(np.array([-1, FOUND.classes]))
    np.testing.assert_array_equal(unknown, np.full((FOUND.levels, 2), -1))


def test_an_only_child_of_its_own_name_is_no_sibling_of_the_padding():
    found = tree.from_nested({"a": {"x": ["y", "z"]}, "b": {"c": ["d"]}} | {"e": [{"d2": ["f"]}, "g"]})
    assert found.names[1] == ("x", "c", "d2", "g")
    clash = tree.from_nested({"top": ["low", {"low": ["p", "q"]}]})
    assert clash.sizes == (1, 2, 3)


def test_numbers_are_names_and_one_list_is_a_tree_of_one_level():
    digits = [str(k) for k in range(3)]
    assert tree.from_nested([2, 0, 1], digits) == tree.flat(3)
    assert tree.distance(tree.flat(3)).tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]
    assert hash(tree.flat(3)) == hash(tree.flat(3))


def test_a_file_holds_nested_names(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(NESTED))
    assert tree.load(path, NAMES) == FOUND
    path.write_text('{"a": ["x"], "a": ["y"]}')
    with pytest.raises(ValueError, match="names 'a' twice under one node"):
        tree.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is no JSON of nested names"):
        tree.load(path)


@pytest.mark.parametrize(("nested", "classes", "message"), [
    ({"a": ["x", "y"], "b": ["x"]}, None, "class 'x' has two parents, a and b"),
    ({"a": ["x"]}, ["x", "y"], r"the tree lacks class 'y' \(1 of 2\)"),
    ({"a": ["x", "y"]}, ["x"], "names 'y', which is none of the classes x"),
    ({"a": ["x"], "b": []}, None, "node b holds no class"),
    ({"a": 1.5}, None, "nested mappings and lists of names; got float"),
])  # fmt: skip
def test_nested_names_that_are_no_tree_are_refused(nested, classes, message):
    with pytest.raises(ValueError, match=message):
        tree.from_nested(nested, classes)


@pytest.mark.parametrize(("paths", "message"), [
    ([[0, 0], [1]], "all classes have one node at every level"),
    ([[0, 0, 0], [1, 0, 1]], "node 0 of level 2 has two parents"),
    ([[0, 1], [0, 0]], "the last node of each class is the class itself"),
    ([[0, 0], [2, 1]], r"level 1 are numbered 0, 1, ... without gaps; got \[0 2\]"),
])  # fmt: skip
def test_paths_that_are_no_tree_are_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        tree.from_paths(paths)


def test_a_tree_with_too_few_names_is_refused():
    with pytest.raises(ValueError, match=r"levels have \[2\] nodes and \[1\] names"):
        tree.from_paths([[0], [1]], [["a"]])
