"""One step of every learner of a task sequence, and every transform of updates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax import nn
from subspace_jax.compression import hybrid_net
from subspace_jax.continual import baselines, gpm, projected, protocol, sgp, space, tasks, trgp
from subspace_jax.core import capture
from subspace_jax.hardware import adc_pruning
from subspace_jax.privacy import noise
from tests.traced.batches import KEY, MODEL, PARAMS, SGD, K, N, Step, X, Y, fn

TASK = tasks.Task(X, Y, X, Y)


@functools.cache
def table_of():
    return capture.layers(fn, PARAMS, X)


@functools.cache
def learners() -> dict[str, tuple[Callable, protocol.Learner]]:
    model, table = with_heads()
    plain = {
        protocol.learner: {}, baselines.a_gem.a_gem_learner: {"capacity": N}, baselines.er.er_learner: {"capacity": N},
        baselines.ewc.ewc_learner: {"strength": 1.0, "samples": 3},
        baselines.ogd.ogd_learner: {"tasks": 2, "samples": 3},
    }  # fmt: skip
    projecting = {
        baselines.owm.owm_learner: {}, projected.gpm_learner: {"energy": 0.9, "samples": 3},
        projected.sgp_learner: {"energy": 0.9, "samples": 3},
        trgp.trgp_learner: {"tasks": 2, "energy": lambda t: 0.9, "samples": 3},
        baselines.hat.hat_learner: {"tasks": 2, "period": 3, "heads": ("second",)},
    }  # fmt: skip
    made = [(make, make(MODEL, SGD, **given)) for make, given in plain.items()]
    made += [(make, make(MODEL, SGD, table_of(), **given)) for make, given in projecting.items()]
    made += [(space.space_learner, space.space_learner(model, SGD, table, tasks=2, steps=1, batch=3))]
    return {make.__name__: (make, method) for make, method in made}


def with_heads():
    """A network with a head for each of two tasks, and its table."""
    model = nn.multi_head(nn.build("mlp", classes=0, widths=(5,)), tasks=2, classes=K)
    return model, capture.layers(model.apply, jax.eval_shape(model.init, KEY, X), X)


@functools.cache
def started(name: str) -> protocol.State:
    """The state of a learner that knows one task, at the beginning of the second."""
    _, method = learners()[name]
    state = method.begin(KEY, method.init(KEY, X), TASK, 0)
    if name == "space_learner":  # whose end trains
        return state
    return method.begin(KEY, method.end(KEY, state, TASK, 0), TASK, 1)


def learned(name: str) -> Step:
    make, method = learners()[name]
    task = jnp.int32(name != "space_learner")

    def step(held, x, y):
        return method.step(held, ((x, y),), task, KEY), None

    kept = name in ("trgp_learner", "hat_learner")  # which train more than the network
    trained = lambda held: (held.variables["params"], held.kept if kept else ())  # noqa: E731
    return Step(make, step, started(name), learned=trained, carried=("kept/initial",))


class Transform(NamedTuple):
    """A transform of updates.

    Attributes:
      made_by: the public function that gives it.
      tx: the transform.
      params: of which the updates are.
      state: after a task, where the transform has one.
    """

    made_by: Callable
    tx: optax.GradientTransformation
    params: Any
    state: Any


@functools.cache
def transforms() -> dict[str, Transform]:
    seen = capture.collect(fn, PARAMS, [X[:3]], dtype="float64")
    model, table = with_heads()
    owned, heads = space.channels(table), jax.tree.map(lambda leaf: jnp.ones(leaf.shape), model.init(KEY, X)["params"])
    first, scaled, masked = gpm.gpm(table_of()), sgp.sgp(table_of()), adc_pruning.masked(("first",))
    noisy, centred, frozen = (
        noise.gaussian_noise(KEY, sigma=1.0, clip=1.0, expected_batch=2.0), hybrid_net.recentre(["first"]),
        space.freeze(owned),
    )  # fmt: skip
    return {
        "gpm": Transform(gpm.gpm, first, PARAMS, gpm.GPMState(gpm.update(first.init(PARAMS).bases, seen, energy=0.9))),
        "sgp": Transform(sgp.sgp, scaled, PARAMS, sgp.update(scaled.init(PARAMS), seen, energy=0.9)),
        "masked": Transform(adc_pruning.masked, masked, PARAMS, masked.init(PARAMS)),
        "freeze": Transform(space.freeze, frozen, heads, frozen.init(heads)),
        "recentre": Transform(hybrid_net.recentre, centred, PARAMS, centred.init(PARAMS)),
        "gaussian_noise": Transform(noise.gaussian_noise, noisy, PARAMS, noisy.init(PARAMS)),
    }
