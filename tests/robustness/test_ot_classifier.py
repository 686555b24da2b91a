"""A short code drawn to a prior: each step against one written out, the limits without a divergence, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn, training
from subspace_jax.core import attacks, keys, losses
from subspace_jax.robustness import latent, ot_classifier

COUNT, WIDTH, RATE, WEIGHT = 96, 2, 0.1, 0.7
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(COUNT, 3, 3, 1)).astype(np.float32)
Y = np.asarray(((X - 0.5).reshape(COUNT, -1) @ RNG.normal(size=(9, 3))).argmax(1))
ENCODER = nn.build("mlp", widths=(8,), classes=WIDTH)
HEAD = nn.build("mlp", widths=(), classes=3)
OPPONENT = nn.build("mlp", widths=(6,), classes=1)
SGD = optax.sgd(RATE)
WHOLE = ot_classifier.network(ENCODER, HEAD)
WEAK = attacks.pgd(steps=2, step_size=0.5)
FLOAT32 = 1e-5


@functools.cache
def method(div="none", tx=SGD, **settings):
    own = {"weight": WEIGHT, "discriminator": OPPONENT, "discriminator_tx": SGD} | settings
    return ot_classifier.ot_classifier(ENCODER, HEAD, tx, width=WIDTH, div=div, **own)


def begun(algorithm, seed=0):
    key = jax.random.key(seed)
    return algorithm.init(key, WHOLE.init(key, X[:1]))


@functools.cache
def stepped(div="none", **settings):
    """One step of the algorithm from the same start."""
    algorithm = method(div, **settings)
    state = begun(algorithm)
    return state, *jax.jit(algorithm.step)(jax.random.key(5), state, (X, Y))


@pytest.mark.parametrize(("div", "weight"), [("none", 1.0), ("gan", 0.0)])
def test_without_a_divergence_it_is_plain_training_bit_for_bit(div, weight):
    plain = training.train_epoch(WHOLE, SGD, batch=32)
    algorithm = method(div, weight=weight)
    epoch = ot_classifier.train_epoch(algorithm, batch=32)
    expected, rows = training.fit(plain, training.create(jax.random.key(0), WHOLE, SGD, X[:1]), (X, Y), epochs=2)
    found, carries = training.fit(epoch, begun(algorithm), (X, Y), epochs=2)
    jax.tree.map(np.testing.assert_array_equal, training.variables(found), training.variables(expected))
    np.testing.assert_array_equal(carries["metrics"]["loss"], rows["metrics"]["loss"])
    assert "discriminator" not in found.opt_state


def test_initial_values_and_keys_do_not_depend_on_the_divergence():
    states = [begun(method(div)) for div in ot_classifier.DIVS]
    for other in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, training.variables(states[0]), training.variables(other))
        assert states[0].key == other.key


def distance(div, key, params, opponent, prior):
    """Div of the codes of all images."""
    code = ENCODER.apply({"params": params["encoder"], "batch_stats": {}}, X)
    if div == "gan":
        return latent.encoder_loss(OPPONENT.apply(opponent, code)[:, 0])
    if div == "mmd":
        return latent.mmd(code, prior)
    return latent.sliced_w2(jax.random.fold_in(key, ot_classifier.DIV_KEY), code, prior, directions=50)


def played(params, codes, prior):
    on_codes, on_prior = (OPPONENT.apply({"params": params, "batch_stats": {}}, z)[:, 0] for z in (codes, prior))
    return WEIGHT * latent.discriminator_loss(on_codes, on_prior)


@pytest.mark.parametrize("div", ["gan", "mmd", "sliced"])
def test_a_step_is_the_one_written_out(div):
    """The discriminator first, on the codes before the update; then encoder and head, against the new one."""
    before, after, info = stepped(div)
    key = jax.random.key(5)
    prior = jax.random.normal(jax.random.fold_in(key, ot_classifier.PRIOR_KEY), (COUNT, WIDTH))
    opponent = None
    if div == "gan":
        codes = ENCODER.apply(ot_classifier.part(training.variables(before), "encoder"), X)
        old = before.opt_state["discriminator"]["params"]
        new = jax.tree.map(lambda p, g: p - RATE * g, old, jax.jit(jax.grad(played))(old, codes, prior))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=FLOAT32),
            after.opt_state["discriminator"]["params"], new,
        )  # fmt: skip
        opponent = {"params": new, "batch_stats": {}}
        told = OPPONENT.apply({"params": old, "batch_stats": {}}, jnp.concatenate([codes, prior]))[:, 0]
        right = np.asarray(told > 0) == np.repeat([False, True], COUNT)
        np.testing.assert_allclose(info.discriminator, right.mean(), rtol=1e-6)

    def objective(params):
        logits = WHOLE.apply({"params": params, "batch_stats": before.batch_stats}, X)
        div_value = distance(div, key, params, opponent, prior)
        return losses.softmax_cross_entropy(logits, Y).mean() + WEIGHT * div_value, div_value

    grads, value = jax.jit(jax.grad(objective, has_aux=True))(before.params)
    expected = jax.tree.map(lambda p, g: p - RATE * g, before.params, grads)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=FLOAT32), after.params, expected)
    np.testing.assert_allclose(info.div, value, rtol=1e-4)


def test_inference_has_a_code_of_the_width_and_no_discriminator():
    _, after, _ = stepped("gan")
    variables = training.variables(after)
    assert set(variables["params"]) == {"encoder", "head"}
    stages = WHOLE.features(variables, X)
    assert stages["code"].shape == (COUNT, WIDTH)
    np.testing.assert_array_equal(stages["logits"], WHOLE.apply(variables, X))


@pytest.mark.parametrize("div", ["mmd", "sliced"])
def test_a_divergence_draws_the_codes_to_the_prior(div):
    algorithm = method(div, tx=optax.adam(2e-2), weight=10.0)
    state = begun(algorithm)
    state.params["encoder"]["head"]["bias"] = jnp.full(WIDTH, 3.0)  # away from the prior

    def far(state):
        codes = WHOLE.features(training.variables(state), X)["code"]
        return float(latent.latent_report(jax.random.key(1), codes, Y, classes=3).sliced_w2)

    epoch = ot_classifier.train_epoch(algorithm, batch=32)
    trained, _ = training.fit(epoch, state, (X, Y), epochs=60)
    assert far(trained) < 0.02 * far(state)


def test_noise_makes_a_random_network_that_is_attacked_with_draws_alone():
    state = begun(method())
    fn = jax.tree_util.Partial(ot_classifier.noisy(ENCODER, HEAD, latent_noise=0.5), training.variables(state))
    own = keys.sample_keys(jax.random.key(0), np.arange(8))
    found = [attacks.run(own, WEAK, fn, X[:8], Y[:8], eps=0.1, draws=1) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    with pytest.raises(ValueError, match="a random network needs draws"):
        attacks.run(own, WEAK, fn, X[:8], Y[:8], eps=0.1)
    drawn, plain = (fn(X, jax.random.key(n)) for n in (1, 2))
    assert np.abs(drawn - plain).max() > 0.1
    _, _, quiet = stepped()
    _, _, loud = stepped(latent_noise=0.5)
    assert quiet.loss != loud.loss


def test_adversarial_steps_see_attacked_images_alone():
    before, _, info = stepped("mmd", eps=0.2, attack=WEAK)
    key, variables = jax.random.key(5), training.variables(before)
    own = jax.random.split(jax.random.fold_in(key, ot_classifier.ATTACK_KEY), COUNT)
    changed = attacks.run(own, WEAK, jax.tree_util.Partial(WHOLE.apply, variables), X, Y, eps=0.2)
    stages = WHOLE.features(variables, changed)
    np.testing.assert_allclose(info.loss, losses.softmax_cross_entropy(stages["logits"], Y).mean(), rtol=1e-4)
    prior = jax.random.normal(jax.random.fold_in(key, ot_classifier.PRIOR_KEY), (COUNT, WIDTH))
    np.testing.assert_allclose(info.div, latent.mmd(stages["code"], prior), rtol=1e-3)
    _, _, clean = stepped("mmd")
    assert info.loss > clean.loss


def test_codes_that_collapsed_are_counted_and_stop_the_training():
    algorithm = method("gan")
    state = begun(algorithm)
    flat = state._replace(params=state.params | {"encoder": jax.tree.map(jnp.zeros_like, state.params["encoder"])})
    step = jax.jit(algorithm.step)
    counted = step(jax.random.key(0), flat, (X, Y))[0]
    assert int(counted.opt_state["narrow"]) == 1
    ot_classifier.check_training(counted)
    late = state._replace(opt_state=state.opt_state | {"narrow": jnp.int32(99)})
    late_flat = flat._replace(opt_state=flat.opt_state | {"narrow": jnp.int32(99)})
    wide = late._replace(params=jax.tree.map(lambda leaf: 5 * leaf, late.params))
    assert int(step(jax.random.key(0), wide, (X, Y))[0].opt_state["narrow"]) == 0
    with pytest.raises(ValueError, match="for 100 steps: the encoder has collapsed; lower the weight"):
        ot_classifier.check_training(step(jax.random.key(0), late_flat, (X, Y))[0])


def test_a_discriminator_that_is_not_finite_stops_the_training():
    state = begun(method("gan"))
    lost = jax.tree.map(lambda leaf: leaf * jnp.nan, state.opt_state["discriminator"])
    with pytest.raises(ValueError, match=r"the discriminator .* must be finite"):
        ot_classifier.check_training(state._replace(opt_state=state.opt_state | {"discriminator": lost}))
    ot_classifier.check_training(begun(method()))


@pytest.mark.parametrize(("changed", "message"), [
    ({"div": "kl"}, "no divergence 'kl'; there are none, gan, mmd, sliced"),
    ({"width": 0}, "at least 1; got 0 and 50"),
    ({"weight": -1.0}, "not negative; got -1.0"),
    ({"prior_std": 0.0}, "prior_std is the deviation of the prior, above 0; got 0.0"),
    ({"latent_noise": -0.1}, "not negative; got 1.0, -0.1"),
])  # fmt: skip
def test_settings_without_a_meaning_are_refused(changed, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ot_classifier.ot_classifier(ENCODER, HEAD, SGD, **{"width": WIDTH} | changed)


def test_batches_that_do_not_fit_are_refused_at_the_first_step(unchecked):
    def first(algorithm, x, y):
        algorithm.step(jax.random.key(0), begun(algorithm), (x, y))

    with pytest.raises(ValueError, match="takes 2 samples or more; got 1 and 1"):
        first(method("mmd"), X[:1], Y[:1])
    other = ot_classifier.ot_classifier(ENCODER, HEAD, SGD, width=3, div="mmd")
    with pytest.raises(ValueError, match="codes of length 2; width says 3"):
        first(other, X, Y)
    with pytest.raises(ValueError, match="a code of 2 numbers is no bottleneck for 2 pixels"):
        ot_classifier.check_width(2, 2, pixels=2, classes=2)
    with pytest.warns(UserWarning, match="codes of 2 numbers may not hold 10 classes apart"):
        ot_classifier.check_width(2, 2, pixels=64, classes=10)
