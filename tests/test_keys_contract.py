"""Every public function with a `key`: it comes first, may be of the old or the new kind, and is never an int seed."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import subspace_jax
from subspace_jax import nn
from subspace_jax.compression import baselines as compressed
from subspace_jax.continual import baselines as continual
from subspace_jax.continual import leak, protocol, tasks
from subspace_jax.core import capture, compress, keys, quantize, roc, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.data import batches, corrupt, partition, public
from subspace_jax.decentralized import choco_sgd, codes, deep_squeeze, idkd, low_precision, ngc, train
from subspace_jax.decentralized import protocol as of_agents
from subspace_jax.decentralized.state import State
from subspace_jax.federated import fedavg, inversion, tofu
from subspace_jax.hardware import circuit, sram
from subspace_jax.label_noise import trusted
from subspace_jax.memorization import confident_learning, scores, stability
from subspace_jax.nn.layers import quantized
from subspace_jax.ood import outliers, vrm
from subspace_jax.parallel import asap
from subspace_jax.privacy import audit, dp_sgd, noise, sampling, shadows, zeroth_order
from subspace_jax.privacy.masks import independent_masks, shadow_masks
from subspace_jax.robustness import latent, neighborhood
from subspace_jax.spiking import encode, network, pruning
from subspace_jax.training.adversarial import attacked
from subspace_jax.training.augment import crop_flip
from subspace_jax.training.many import train_many
from subspace_jax.training.minimise import minimise, repeat
from subspace_jax.training.scoring import score_dataset
from subspace_jax.training.state import create
from subspace_jax.typing import Algorithm
from subspace_jax.unlearning import samples
from subspace_jax.unlearning.baselines import METHODS, descent, engine
from subspace_jax.unlearning.baselines.unsir import learn_noise

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
Y = np.array([0, 1, 0, 1])
ROWS, IMAGES = np.asarray(X), np.asarray(X)[..., None, None]
PARAMS = {"w": jnp.ones((3, 2))}
VARIABLES = {"params": PARAMS, "batch_stats": {}}
SGD, ZERO = optax.sgd(0.1), jnp.int32(0)
SPIKING = network.Spiking({"w": jnp.ones((3, 3)), "v": jnp.ones((3, 2))},
                           (network.Layer("w", True, 0), network.Layer("v", True, 0)), print)  # fmt: skip
DROPPED = {"hold": 3, "order": "update_first", "rate": 0.5}
LABELLED = State(ZERO, {}, {}, (), idkd.Memory((), jnp.ones((4, 2)) / 2, jnp.ones(4, bool)))
ALONE, COPIES = Comm(1), choco_sgd.choco_start(PARAMS)
GOSSIP = {"mix": lambda t, own, wire, decode: (own, ZERO), "compressor": compress.random_k(0.5), "gamma": 1.0}


def fn(params, x):
    return x @ params["w"]


def loss(params, batch_stats, batches, constants, key):
    return jnp.sum(params["w"]), batch_stats


def soft_loss(params, x, y):
    return (fn(params, jnp.tanh(x)) * jnp.reshape(y, (len(x), -1))).sum(1)


def per_sample(variables, x, y):
    return fn(variables["params"], x)[:, 0]


TABLE = capture.layers(fn, PARAMS, X)
IN_ARRAY = fn, PARAMS, sram.calibrate(fn, PARAMS, ROWS)
FITS = circuit.fit(*IN_ARRAY, ROWS)
MODEL = nn.from_function(lambda key, x: {"w": jax.random.normal(key, (3, 2))}, fn)
FORGETTING = MODEL, VARIABLES, (X, Y), (X, Y)
NOISE = {"fraction": 0.5, "classes": 3}
EIGHT, ONES = np.arange(8) % 2, jnp.ones(4)

CALLS = {
    compressed.random_subspaces: lambda key: compressed.random_subspaces(key, TABLE, PARAMS, ranks={"w": 1}),
    continual.er.draw: lambda key: continual.er.draw(key, {"x": X, "y": Y, "t": Y, "seen": 4}, 2),
    tasks.permuted: lambda key: tasks.permuted(key, tasks.Task(IMAGES, Y, IMAGES, Y), tasks=2),
    capture.observe: lambda key: capture.observe(fn, PARAMS, X, max_rows=2, key=key),
    compress.feedback: lambda key: compress.feedback(key, GOSSIP["compressor"], PARAMS, PARAMS),
    keys.as_key: keys.as_key,
    keys.sample_keys: lambda key: keys.sample_keys(key, Y),
    quantize.codes: lambda key: quantize.codes(ONES, 2, 0, 3, key=key),
    quantize.quantize: lambda key: quantize.quantize(ONES, 2, 0, 3, key=key),
    quantize.quantize_grad: lambda key: quantize.quantize_grad(key, ONES, 2),
    roc.bootstrap: lambda key: roc.bootstrap(key, ROWS[:, 0], Y == 1, fprs=[1.0], resamples=2),
    quantize.stochastic_round: lambda key: quantize.stochastic_round(key, ONES / 2),
    topology.best_expander: lambda key: topology.best_expander(key, 6, degree=3, trials=2),
    topology.random_regular: lambda key: topology.random_regular(key, 6, degree=3),
    batches.epoch_order: lambda key: batches.epoch_order(key, 1, 4, 2),
    corrupt.duplicates: lambda key: corrupt.duplicates(key, ROWS, Y, pairs=1, classes=3),
    corrupt.pair: lambda key: corrupt.pair(key, Y, **NOISE),
    corrupt.symmetric: lambda key: corrupt.symmetric(key, Y, **NOISE),
    partition.build: lambda key: partition.build(key, "iid", EIGHT, agents=2),
    partition.dirichlet: lambda key: partition.dirichlet(key, EIGHT, agents=2, alpha=1.0),
    partition.iid: lambda key: partition.iid(key, EIGHT, agents=2),
    partition.label_pairs: lambda key: partition.label_pairs(key, EIGHT, agents=2),
    partition.label_sorted: lambda key: partition.label_sorted(key, EIGHT, agents=2, skew=0.5),
    partition.shards: lambda key: partition.shards(key, EIGHT, agents=2),
    public.moved: lambda key: public.moved(key, IMAGES),
    public.noise: lambda key: public.noise(key, ROWS, count=2),
    choco_sgd.choco_round: lambda key: choco_sgd.choco_round(key, ZERO, PARAMS, COPIES, **GOSSIP),
    deep_squeeze.deep_squeeze_round: lambda key: deep_squeeze.deep_squeeze_round(key, ZERO, PARAMS, PARAMS, **GOSSIP),
    low_precision.compressed_round: lambda key: low_precision.compressed_round(key, ZERO, PARAMS, (), **GOSSIP),
    ngc.send: lambda key: ngc.send(key, GOSSIP["compressor"], PARAMS, [PARAMS], 0),
    idkd.draw: lambda key: idkd.draw(key, LABELLED, (X, jnp.asarray(Y)), X, 3),
    train.uniform: lambda key: train.uniform(key, LABELLED, (X, jnp.asarray(Y)), None, 3),
    train.stacked: lambda key: train.stacked(
        key, Algorithm(lambda key, variables: State(ZERO, jax.random.key_data(key), {}, (), ()), print), ALONE, {}
    ),
    fedavg.draw: lambda key: fedavg.draw(key, 4, steps=2, batch=3),
    tofu.encode: lambda key: tofu.encode(
        key, soft_loss, PARAMS, PARAMS, proxies=2, shape=(3,), classes=2, steps=2
    ),
    inversion.inverting_gradients: lambda key: inversion.inverting_gradients(
        key, soft_loss, PARAMS, PARAMS, Y[:1], shape=(3,), steps=2, restarts=1, tv=0.0
    ),
    inversion.dlg: lambda key: inversion.dlg(
        key, soft_loss, PARAMS, PARAMS, images=1, shape=(3,), classes=2, steps=1
    ),
    inversion.guess_random: lambda key: inversion.guess_random(key, IMAGES, count=2),
    trusted.select_members: lambda key: trusted.select_members(key, np.arange(4), Y, per_class=1),
    confident_learning.folds: lambda key: confident_learning.folds(key, 4),
    scores.score: lambda key: scores.score(key, fn, PARAMS, X, Y, name="loss"),
    stability.subset_tables: lambda key: stability.subset_tables(key, 4, models=2, ratio=0.5),
    independent_masks: lambda key: independent_masks(key, 2, 5),
    outliers.gaussian: lambda key: outliers.gaussian(key, IMAGES.shape),
    outliers.uniform: lambda key: outliers.uniform(key, IMAGES.shape),
    outliers.salt_pepper: lambda key: outliers.salt_pepper(key, IMAGES.shape),
    outliers.blur: lambda key: outliers.blur(key, IMAGES.shape),
    outliers.constant: lambda key: outliers.constant(key, IMAGES.shape),
    outliers.permuted: lambda key: outliers.permuted(key, IMAGES),
    vrm.partners: lambda key: vrm.partners(key, Y),
    vrm.shares_of: lambda key: vrm.shares_of(key, 0.5, 3),
    vrm.within_class: lambda key: vrm.within_class(key, X, Y),
    vrm.noise_vicinity: lambda key: vrm.noise_vicinity(key, X, Y, classes=2, noise=((0.0,), (1.0,))),
    encode.poisson: lambda key: encode.poisson(key, IMAGES / 8, Y, steps=2),
    network.run: lambda key: network.run(SPIKING, (0.5,), X[None], key=key, **DROPPED),
    pruning.select: lambda key: pruning.select(SPIKING.params, SPIKING.layers, widths=(1,), kind="random", key=key),
    network.trace: lambda key: network.trace(SPIKING, (0.5,), X[None], key=key, **DROPPED),
    shadow_masks: lambda key: shadow_masks(key, 2, 5),
    asap.classifier_step: lambda key: asap.classifier_step(
        key, "mlp", {"widths": (), "classes": 2}, (ROWS[None], Y[None]), batch=2, lr=0.1
    )(0, 1, np.ones(8, np.float32)),
    asap.sgd_step: lambda key: asap.sgd_step(key, fn, PARAMS, (ROWS[None], Y[None]), batch=2, lr=0.1)(
        0, 1, np.ones(6, np.float32)
    ),
    asap.lognormal_times: lambda key: asap.lognormal_times(key, 3, 2, sigma=0.5),
    zeroth_order.black_box: lambda key: zeroth_order.black_box(key, lambda x, y: (x**3).sum(1), ROWS, Y),
    zeroth_order.zeroth_order: lambda key: zeroth_order.zeroth_order(key, fn, PARAMS, X, Y, probes=1),
    quantized.bifurcated: lambda key: jax.grad(
        lambda x: quantized.bifurcated(key, jnp.multiply, 2, x, X).sum()
    )(X),
    crop_flip: lambda key: crop_flip(key, X[None, ..., None], pad=1),
    minimise: lambda key: minimise(key, loss, SGD, VARIABLES, [(X, Y)], steps=1, batch=2),
    noise.gaussian_noise: lambda key: (
        (tx := noise.gaussian_noise(key, sigma=1.0, clip=1.0, expected_batch=2.0)).update(PARAMS, tx.init(PARAMS))
    ),
    neighborhood.initial_table: lambda key: neighborhood.initial_table(key, ROWS, Y, ROWS, entries=2)[:2],
    neighborhood.neighbor_loss: lambda key: neighborhood.neighbor_loss(key, X, X, neighbors=2),
    latent.sliced_w2: lambda key: latent.sliced_w2(key, X, X + 1, directions=2),
    latent.latent_report: lambda key: latent.latent_report(key, ROWS, Y, classes=2),
    attacked: lambda key: attacked(key, MODEL, VARIABLES, jnp.clip(X, 0, 1), jnp.asarray(Y), eps=0.1),
    circuit.run_circuit: lambda key: circuit.run_circuit(*IN_ARRAY, FITS, ROWS, key=key),
    sram.sample_chip: lambda key: sram.sample_chip(key, IN_ARRAY[2]),
    sram.over_chips: lambda key: sram.over_chips(key, *IN_ARRAY, ROWS, Y, chips=2),
    sampling.poisson_sets: lambda key: sampling.poisson_sets(key, 4, q=0.5, steps=2),
    audit.plant: lambda key: audit.plant(
        key, per_sample, SGD, VARIABLES, (X, Y), canaries=4
    )[3:],
    score_dataset: lambda key: score_dataset(key, lambda keys, v, x: x[:, 0], PARAMS, (X,)),
    create: lambda key: create(key, MODEL, SGD, X),
    descent.uniform: lambda key: descent.uniform(key, MODEL, VARIABLES, X),
    engine.fresh: lambda key: engine.fresh(key, MODEL.init, X),
    samples.select_samples: lambda key: samples.select_samples(key, EIGHT, forget=[1], retain_count=2, forget_count=2),
}  # fmt: skip
TRAINING = {  # what trains, and is compiled for a second: refused here, equal by the same first line
    capture.collect: lambda key: capture.collect(fn, PARAMS, [X], max_rows=2, key=key),
    continual.multitask.multitask: lambda key: continual.multitask.multitask(
        key, MODEL, SGD, [tasks.Task(ROWS, Y, ROWS, Y)], classes=2, steps=1, batch=2
    ),
    codes.probe: lambda key: codes.probe(key, MODEL, VARIABLES["params"], X, Y, bits=4),
    codes.usage: lambda key: codes.usage(key, MODEL, VARIABLES["params"], X, Y, bits=4),
    leak.leak: lambda key: leak.leak(key, TABLE, SGD, PARAMS, None),
    protocol.run: lambda key: protocol.run(
        key, protocol.learner(MODEL, SGD), [tasks.Task(ROWS, Y, ROWS, Y)], classes=2, batch=2, length=1
    ),
    of_agents.run: lambda key: of_agents.run(
        key, None, VARIABLES, (X, Y), (X, Y), comm=ALONE, runner=None, apply=fn, weights=np.ones((1, 1)), steps=1,
        batch=2, every=1,
    ),
    shadows.train: lambda key: shadows.train(
        key, MODEL, SGD, (ROWS, Y), shadow_masks(jax.random.key(0), 2, 4), "nowhere", epochs=1, batch=2
    ),
    dp_sgd.fit: lambda key: dp_sgd.fit(
        key, per_sample, SGD, VARIABLES, (X, Y), sigma=1.0, batch=2, steps=1, delta=0.1
    ),
    train_many: lambda key: train_many(key, MODEL, SGD, (X, Y), Y[None], epochs=1, batch=2),
    repeat: lambda key: repeat(key, print, 0, [(X, Y)], steps=1, batch=2, params=PARAMS),
    descent.retrain: lambda key: descent.retrain(key, *FORGETTING, recipe=engine.RECIPE),
    engine.descend: lambda key: engine.descend(key, loss, VARIABLES, [(X, Y)], recipe=engine.RECIPE, label=""),
    learn_noise: lambda key: learn_noise(key, MODEL, VARIABLES, (X, Y)),
} | {
    METHODS[name]: lambda key, name=name: METHODS[name](key, *FORGETTING)
    for name in METHODS
    if name not in ("retrain", "ssd")
}  # fmt: skip
IGNORES = {METHODS["ssd"]}  # takes the key that every unlearning method gets


def public_functions():
    """Everything that the package defines at the top of a module, without an underscore."""
    for module in pkgutil.walk_packages(subspace_jax.__path__, "subspace_jax."):
        members = vars(importlib.import_module(module.name)).items()
        for name, member in members:
            if callable(member) and getattr(member, "__module__", "") == module.name and name[0] != "_":
                yield f"{module.name}.{name}", member


WITH_KEY = {
    name: inspect.signature(member)
    for name, member in public_functions()
    if not inspect.isclass(member) and "key" in inspect.signature(member).parameters
}
TABLED = {f"{member.__module__}.{member.__name__}" for member in (*CALLS, *TRAINING, *IGNORES)}


def test_every_public_function_with_a_key_is_tried_here():
    assert set(WITH_KEY) == TABLED


@pytest.mark.parametrize("name", WITH_KEY)
def test_the_key_comes_first_unless_it_may_be_left_out(name):
    parameters = WITH_KEY[name].parameters
    optional = parameters["key"].kind is inspect.Parameter.KEYWORD_ONLY and parameters["key"].default is None
    assert optional or next(iter(parameters)) == "key"


def numbers(result):
    leaves = [jax.random.key_data(x) if jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key) else x
              for x in jax.tree.leaves(result)]  # fmt: skip
    return [np.asarray(leaf) for leaf in leaves]


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_an_old_key_is_the_new_one(function):
    new, old = (numbers(CALLS[function](key)) for key in (jax.random.key(7), jax.random.PRNGKey(7)))
    assert len(new) > 0
    jax.tree.map(np.testing.assert_array_equal, new, old)


@pytest.mark.parametrize("function", CALLS | TRAINING, ids=lambda function: function.__name__)
def test_an_int_seed_is_refused_in_one_sentence(function, unchecked):
    with pytest.raises(ValueError, match=r"key must be a key of jax.random; got .*: give jax.random.key\("):
        (CALLS | TRAINING)[function](7)
