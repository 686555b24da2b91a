import chex
import numpy as np

from subspace_jax.label_noise.verifix import alpha_curve, verifix, verifix_select
from tests.label_noise.cases import measured, mlp, mlp_case

PARAMS, X = mlp_case(0)
TABLE, SEEN = measured(mlp, PARAMS, X)
ALPHAS = [1.0, 30.0, 1e3, 1e5]


def size(params):
    return sum(float((layer["kernel"] ** 2).sum()) for layer in params.values())


def near(goal):
    return lambda params: -abs(size(params) - goal)


def edit(alpha, layers=None):
    return verifix(TABLE, PARAMS, SEEN, alpha=alpha, layers=layers)


def test_the_curve_is_the_score_of_each_edit():
    found = alpha_curve(TABLE, PARAMS, SEEN, alphas=[None, *ALPHAS], score_fn=size)
    np.testing.assert_array_equal(found, [size(PARAMS), *(size(edit(alpha)) for alpha in ALPHAS)])
    assert np.all(np.diff(found[1:]) > 0)  # a larger alpha keeps more
    assert alpha_curve(TABLE, PARAMS, SEEN, alphas=[], score_fn=size).shape == (0,)


def test_the_best_alpha_is_chosen():
    best = verifix_select(TABLE, PARAMS, SEEN, alphas=iter(ALPHAS), score_fn=near(size(edit(30.0))))
    assert best.alpha == 30.0
    assert best.scores.shape == (5,)
    assert best.scores.argmax() == 2
    chex.assert_trees_all_equal(best.params, edit(30.0))


def test_the_unedited_network_wins_ties_and_is_the_same_tree():
    for score_fn in (near(size(PARAMS)), lambda params: 0.5):
        best = verifix_select(TABLE, PARAMS, SEEN, alphas=ALPHAS, score_fn=score_fn)
        assert best.alpha is None
        assert best.params is PARAMS


def test_of_equal_alphas_the_first_wins():
    best = verifix_select(TABLE, PARAMS, SEEN, alphas=ALPHAS, score_fn=lambda params: params is not PARAMS)
    assert best.alpha == ALPHAS[0]


def test_a_selection_of_layers_is_kept():
    head = ["head/kernel"]
    best = verifix_select(TABLE, PARAMS, SEEN, alphas=[30.0], score_fn=near(size(edit(30.0, head))), layers=head)
    chex.assert_trees_all_equal(best.params, edit(30.0, head))
    assert best.params["first"]["kernel"] is PARAMS["first"]["kernel"]
