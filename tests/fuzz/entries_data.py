"""Valid calls of data, training, nn and checkpoints."""

import jax.numpy as jnp
import numpy as np

from subspace_jax import nn
from subspace_jax.data import batches, corrupt, partition, pixels, public, subpopulations
from subspace_jax.nn.layers import binary, neighborhood, norm, quantized, spiking
from subspace_jax.training.adversarial import adversarial, attacked
from subspace_jax.training.augment import crop_flip
from subspace_jax.training.fit import fit, train_epoch
from subspace_jax.training.minimise import mean_loss, minimise
from subspace_jax.training.recipe import Recipe, optimizer
from subspace_jax.training.scoring import evaluate, predict, score_dataset
from subspace_jax.training.state import create, train_step
from tests.fuzz.mutations import Call, Own, blind, call
from tests.fuzz.values import IMAGES, JX, KERNEL, KEY, MODEL, PARAMS, SGD, VARIABLES, Y3, X, Y, apply

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def optimizer_of(*, steps, **fields):
    return optimizer(Recipe(**fields), steps)


def calls() -> list[Call]:
    eight = np.arange(8) % 2
    table, h = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    embedding = jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32)
    found = subpopulations.subpopulations(X, Y, per_class=2)
    trained = create(KEY, MODEL, SGD, X)
    return [
        call(batches.epoch_order, KEY, 1, 6, 2),
        blind(call(batches.padded, (X, Y), 4)),
        call(corrupt.symmetric, KEY, Y3, fraction=0.5, classes=3),
        call(corrupt.pair, KEY, Y3, fraction=0.5, classes=3),
        call(corrupt.given, Y3, Y3[::-1], classes=3),
        blind(call(corrupt.duplicates, KEY, X, Y3, pairs=1, classes=3)),
        call(partition.iid, KEY, eight, agents=2),
        call(partition.label_sorted, KEY, eight, agents=2, skew=0.5),
        call(partition.dirichlet, KEY, eight, agents=2, alpha=1.0),
        call(partition.shards, KEY, eight, agents=2, shards=2),
        call(partition.label_pairs, KEY, eight, agents=2),
        call(partition.build, KEY, "iid", eight, agents=2),
        call(partition.histogram, eight, [np.arange(4), np.arange(4, 8)], classes=2),
        call(partition.skewness, np.array([[1.0, 2.0], [2.0, 1.0]])),
        call(pixels.scaling, Own("digits"), (IMAGES * 255).astype(np.uint8)),
        call(pixels.scale, IMAGES, pixels.Scaling(255.0, (0.0,), (1.0,))),
        call(public.noise, KEY, X, count=2),
        blind(call(public.moved, KEY, IMAGES, by=1)),
        blind(call(public.among, X, X[:2])),
        call(subpopulations.subpopulations, X, Y, per_class=2),
        call(subpopulations.nearest, Own(found), X, Y),
        call(nn.build, "mlp", widths=(3,), classes=2),
        call(norm.range_factor, 8),
        call(norm.at_least_float32, JX),
        call(spiking.lif, jnp.ones((3, 2, 4)), 1.0, 0.9),
        call(neighborhood.neighborhood, h, table, embedding, neighbors=2, tau=1.0),
        call(neighborhood.nearest, h, table, 2),
        call(neighborhood.log_memberships, jnp.ones((4, 3))),
        call(neighborhood.check_table, h, table, embedding, 2),
        call(quantized.on_own_range, JX, 4),
        call(binary.step_scale, KERNEL, 1, 1, "mean"),
        call(binary.packed_kernel, KERNEL, bits_w=1, bits_a=1),
        call(adversarial, MODEL, eps=0.1),
        call(attacked, KEY, MODEL, VARIABLES, jnp.clip(JX, 0, 1), jnp.asarray(Y), eps=0.1),
        blind(call(crop_flip, KEY, jnp.asarray(IMAGES), pad=1)),
        call(train_epoch, MODEL, SGD, batch=2),
        call(fit, train_epoch(MODEL, SGD, batch=2), Own(trained), (X, Y), epochs=1),
        call(minimise, KEY, mean_loss(lambda v, x, key: (apply(v, x), {})), SGD, VARIABLES, [(X, Y)], steps=1, batch=2),
        call(predict, apply, VARIABLES, X, batch=4),
        blind(call(evaluate, apply, VARIABLES, X, Y, batch=4)),
        call(score_dataset, KEY, lambda keys, v, x: x.reshape(len(x), -1).sum(1) * v["w"].sum(), PARAMS, (X,), batch=4),
        blind(call(create, KEY, MODEL, SGD, X)),
        call(train_step, MODEL, SGD),
        call(optimizer_of, optimizer="adam", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="step", steps=3),
        call(nn.multi_head, MODEL, tasks=2, classes=2),
        call(nn.level_heads, nn.build("mlp", widths=(3,), classes=0), sizes=(2, 3)),
    ]
