"""One step of every algorithm, learner and objective, as it runs inside a program of the user."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import nn, training
from subspace_jax.core import attacks, compress, exchange, losses, topology
from subspace_jax.decentralized import idkd, methods, state
from subspace_jax.federated import fedavg, tofu
from subspace_jax.hardware import adc_pruning
from subspace_jax.hierarchy import baselines as in_tree
from subspace_jax.hierarchy import conditional, tree
from subspace_jax.label_noise import mixup, sam
from subspace_jax.ood import vrm
from subspace_jax.privacy import clipping
from subspace_jax.robustness import ot_classifier
from tests.traced.batches import KEY, MODEL, PARAMS, SGD, VARIABLES, D, K, Step, X, Y, apply
from tests.traced.learners import learned, learners

AGENTS = 4
FAMILY = tree.from_nested({"a": ["b", "c"], "d": ["e"]})
PLAIN = training.mean_loss(MODEL.train_apply)
OUTPUT_MORE = PARAMS | {"second": jnp.ones((5, K + 1))}


def of_levels(variables, x, key):
    logits, kept = MODEL.train_apply(variables, x, key)
    return (logits[:, :2], logits), kept


def _minimised(made_by: Callable, objective: Callable, params: Any = PARAMS, constants: Any = None) -> Step:
    """A step down the gradient of an objective."""

    def step(params, x, y):
        (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(params, {}, ((x, y),), constants, KEY)
        return optax.tree.add_scale(params, -0.1, grads), loss

    return Step(made_by, step, params)


def objectives() -> dict[str, Step]:
    noises, quick = ((0.0,), (1.0,)), attacks.pgd(steps=1)
    dub = adc_pruning.mapped(apply, VARIABLES, X, rows=4, dense=True)
    found = {
        "mean_loss": (training.mean_loss, PLAIN), "mixup": (mixup.mixup, mixup.mixup(MODEL.train_apply)),
        "sam": (sam.sam, sam.sam(PLAIN)),
        "vrm_mixup": (vrm.mixup, vrm.mixup(MODEL.train_apply)), "vrm_intra": (vrm.intra, vrm.intra(MODEL.train_apply)),
        "vrm_auxiliary": (vrm.auxiliary, vrm.auxiliary(MODEL.train_apply, classes=K, noise=noises), OUTPUT_MORE),
        "conditional": (conditional.objective, conditional.objective(of_levels, FAMILY)),
        "soft_labels": (in_tree.soft_objective, in_tree.soft_objective(of_levels, FAMILY, beta=1.0)),
        "adversarial": (training.adversarial, training.adversarial(MODEL, eps=0.1, attack=quick)),
        "adc_pruning": (
            adc_pruning.objective, adc_pruning.objective(MODEL.train_apply, dub, 4), PARAMS, {"strength": 0.1},
        ),
    }  # fmt: skip
    return {name: _minimised(*given) for name, given in found.items()}


def _stacked(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * AGENTS), tree)


def agents() -> dict[str, Step]:
    comm, weights = exchange.Comm(AGENTS), topology.uniform(topology.ring(AGENTS))
    loss, soft = state.classification(MODEL.train_apply), idkd.distillation(MODEL.train_apply)
    given = {"comm": comm, "weights": weights, "lr": 0.1}
    found = {name: _mixed(own.make, methods.build(name, loss, **given)) for name, own in methods.METHODS.items()}
    plain = methods.build("d_psgd", soft, **given)
    taught = _mixed(idkd.idkd, idkd.idkd(plain, samples=2, classes=K))
    return found | {"idkd": taught._replace(y=np.eye(K, dtype=np.float32)[Y], carried=("memory/labels",))}


def _mixed(make: Any, method: Any) -> Step:
    """All agents start alike and have the same batch."""

    def step(held, x, y):
        run = exchange.vmap(lambda own, batch: method.step(KEY, own, batch), exchange.Comm(AGENTS))
        new, info = run(_stacked(held), _stacked((x, y)))
        return jax.tree.map(lambda leaf: leaf[0], (new, info.loss))

    begun = method.init(KEY, VARIABLES)
    return Step(getattr(make, "func", make), step, begun, learned=parameters, begin=method.init)


def federated() -> dict[str, Step]:
    comm, loss = exchange.Comm(AGENTS), fedavg.classification(apply)
    signs, settings = fedavg.every(compress.sign()), {"proxies": 2, "shape": (D,), "classes": K, "steps": 2}
    found = {
        "fedavg": (fedavg.fedavg, fedavg.fedavg(loss, comm=comm, lr=0.1)),
        "fedavg_sign": (
            fedavg.fedavg, fedavg.fedavg(loss, comm=comm, lr=0.1, uplink=signs, error_feedback=True, least_cosine=0.1)
        ),
        "tofu": (tofu.tofu, tofu.tofu(loss, comm=comm, lr=0.1, **settings)),
    }  # fmt: skip
    return {name: _gathered(*given) for name, given in found.items()}


def _gathered(make: Callable, method: Any) -> Step:
    """Two local steps of each client on the same batch."""

    def step(held, x, y):
        run = exchange.vmap(lambda own, batch: method.step(KEY, own, batch), exchange.Comm(AGENTS))
        new, info = run(_stacked(held), _stacked(jax.tree.map(lambda part: jnp.stack([part] * 2), (x, y))))
        return jax.tree.map(lambda leaf: leaf[0], (new, info.loss))

    return Step(make, step, method.init(KEY, VARIABLES), learned=parameters, begin=method.init)


def parameters(held: Any) -> Any:
    return held.params


def single() -> dict[str, Step]:
    begun = training.create(KEY, MODEL, SGD, X)
    private = clipping.of_params(losses.cross_entropy(apply))
    stages = conditional.in_turn(conditional.sequential(of_levels, FAMILY), SGD)
    taught = training.train_step(MODEL, SGD)

    def clipped(params, x, y):
        total, metrics = clipping.clipped_sum(private, params, x, y, jnp.zeros(len(x), bool), clip=1.0)
        return optax.tree.add_scale(params, -0.1, total), metrics.loss

    def trained(held, x, y):
        new, metrics = taught(held, x, y)
        return new, metrics["loss"]

    return {
        "train_step": Step(training.train_step, trained, begun, learned=parameters),
        "clipped_sum": Step(clipping.clipped_sum, clipped, PARAMS, empty=True),
        "in_turn": Step(
            conditional.in_turn, lambda held, x, y: (stages(held, ((x, y),), None, KEY), None), begun,
            learned=parameters,
        ),
        "ot_gan": _coded("gan"), "ot_mmd": _coded("mmd"),
    }  # fmt: skip


def _coded(div: str) -> Step:
    encoder, head = (nn.build("mlp", widths=(), classes=outputs) for outputs in (2, K))
    opponent = nn.build("mlp", widths=(3,), classes=1)
    method = ot_classifier.ot_classifier(encoder, head, SGD, width=2, div=div, discriminator=opponent)
    begun = method.init(KEY, ot_classifier.network(encoder, head).init(KEY, X))

    def step(held, x, y):
        new, info = method.step(KEY, held, (x, y))
        return new, info.loss + info.div

    return Step(ot_classifier.ot_classifier, step, begun, learned=parameters)


GROUPS = {
    "objectives": objectives, "learners": lambda: {name: learned(name) for name in learners()}, "agents": agents,
    "federated": federated, "single": single,
}  # fmt: skip


@functools.cache
def steps(group: str) -> dict[str, Step]:
    return GROUPS[group]()
