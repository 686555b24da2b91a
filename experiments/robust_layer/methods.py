"""The networks of robust_layer: encoder, embedding, head, and what stands in place of the embedding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.families import classifier
from subspace_jax import nn, training, trees
from subspace_jax.core import losses
from subspace_jax.nn.layers.neighborhood import neighborhood
from subspace_jax.robustness import neighborhood as tables

if TYPE_CHECKING:
    from experiments.robust_layer.experiment import Config

NETWORKS = (
    "dense", "dense_decay", "spectral", "table", "npl", "npl_neighbor", "soft_knn", "pixel_knn", "adversarial",
    "npl_adversarial",
)  # fmt: skip
DENSE = "dense", "dense_decay", "spectral", "adversarial"
FINE_TUNED = "npl", "npl_neighbor", "npl_adversarial"
VOTES = "soft_knn", "pixel_knn"
DECAY, NEIGHBOR_WEIGHT, FLOOR = 1.0, 0.1, 1e-3
SURROGATES: dict[str, dict[str, Any]] = {  # smoother forms of the layer, on which examples are made
    "full_softmax": {"neighbors": None}, "tau_4": {"tau": 4.0}, "tau_16": {"tau": 16.0}, "tau_free": {"held": False},
}  # fmt: skip


def encoder(config: Config, shared: classifier.Setup) -> nn.Model:
    """What comes before the embedding: a network without head, on images in [0, 1]."""
    network = nn.build(config.model, **classifier.network_arguments(config, 0))
    return classifier.on_pixels(network, tuple(shared.scaling.mean), tuple(shared.scaling.std))


def inner(variables: Any) -> Any:
    """The encoder's own variables."""
    return {"params": variables["params"]["encoder"], "batch_stats": variables["batch_stats"]["encoder"]}


def affine(part: Any, x: Any) -> Any:
    """X W + b."""
    return x @ part["kernel"] + part["bias"][None]


@functools.lru_cache
def dense(of: nn.Model, width: int, classes: int, bounded: bool = False) -> nn.Model:
    """Encoder, dense embedding without activation, head; bounded: kernels before the head divided by their norm."""

    def layer(key, inputs, outputs):
        kernel = jax.random.normal(key, (inputs, outputs)) / np.sqrt(inputs)
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    def init(key, x):
        first, second, third = jax.random.split(key, 3)
        variables = of.init(first, x)
        features = jax.eval_shape(of.apply, variables, x).shape[1]
        params = {"encoder": variables["params"], "embedding": layer(second, features, width)}
        params |= {"head": layer(third, width, classes)}
        return {"params": params, "batch_stats": {"encoder": variables["batch_stats"]}}

    def used(variables):
        return variables | {"params": limited(variables["params"])} if bounded else variables

    def logits(variables, h):
        return affine(variables["params"]["head"], affine(variables["params"]["embedding"], h))

    def apply(variables, x):
        variables = used(variables)
        return logits(variables, of.apply(inner(variables), x))

    def train_apply(variables, x, key):
        variables = used(variables)
        h, stats = of.train_apply(inner(variables), x, key)
        return logits(variables, h), {"encoder": stats}

    return nn.Model(init, apply, train_apply, lambda variables, x: {"logits": apply(variables, x)})


def limited(params: Any) -> Any:
    """Every kernel before the head divided by max(1, its spectral norm), a convolution as a matrix of its taps."""

    def limit(path, leaf):
        if not path.endswith("kernel") or path.startswith("head"):
            return leaf
        return leaf / jnp.maximum(1, spectral_norm(leaf.reshape(-1, leaf.shape[-1])))

    return trees.map_with_path(limit, params)


def spectral_norm(matrix: Any) -> Any:
    """||W||_2 = ||u' W||, u from the smaller Gram matrix: exact, as its gradient u v' is, and cheaper than an SVD."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    held = jax.lax.stop_gradient(wide)
    u = jnp.linalg.eigh(jnp.matmul(held, held.T, precision="highest"))[1][:, -1]
    return jnp.linalg.norm(u @ wide)


@functools.lru_cache
def looked_up(
    of: nn.Model | None, *, neighbors: int | None, weighting: str = "adaptive", tau: float = 1.0, held: bool = True,
    votes: bool = False,
) -> Callable:  # fmt: skip
    """(variables, x) -> logits of a network whose embedding is a table; without encoder it reads pixels.

    neighbors None: all entries. votes: the embeddings are one-hot labels, logits the logarithm of their shares.
    """

    def apply(variables, x):
        h = of.apply(inner(variables), x) if of else x.reshape(len(x), -1)
        return read(variables, h, neighbors=neighbors, weighting=weighting, tau=tau, held=held, votes=votes)[0]

    return apply


def read(variables: Any, h: Any, *, neighbors: int | None, votes: bool = False, **settings: Any) -> tuple:
    """Logits, the layer's output and the entries that decided it."""
    position, params = variables["batch_stats"]["position"], variables["params"]
    v, found = neighborhood(h, position, params["embedding"], neighbors=neighbors or len(position), **settings)
    return (jnp.log(v + FLOOR) if votes else affine(params["head"], v)), v, found


@functools.lru_cache
def through_layer(of: nn.Model, *, neighbors: int, weighting: str, weight: float, average: bool) -> Callable:
    """The objective of fine-tuning: cross-entropy and the neighbour loss; positions have no gradient."""

    def objective(params, batch_stats, batches, constants, key):
        ((x, y),) = batches
        dropped, drawn = jax.random.split(key)
        variables = {"params": params, "batch_stats": batch_stats}
        h, stats = of.train_apply(inner(variables), x, dropped)
        logits, v, found = read(variables, h, neighbors=neighbors, weighting=weighting)
        loss, position = losses.softmax_cross_entropy(logits, y).mean(), batch_stats["position"]
        if weight:
            loss += weight * tables.neighbor_loss(drawn, h, v, neighbors=neighbors)
        if average:
            position = tables.moving_average(position, *jax.lax.stop_gradient((h, found)))
        return loss, {"encoder": stats, "position": position}

    return objective


@functools.lru_cache
def hardened(objective: Callable, model: nn.Model, eps: float) -> Callable:
    """The objective of images that an attack changed on the network of the step."""

    def on_attacked(params, batch_stats, batches, constants, key):
        ((x, y),) = batches
        drawn, own = jax.random.split(key)
        variables = {"params": params, "batch_stats": batch_stats}
        changed = training.attacked(drawn, model, variables, x, y, eps=eps)
        return objective(params, batch_stats, ((changed, y),), constants, own)

    return on_attacked


def optimizer(config: Config, name: str, steps: int) -> optax.GradientTransformation:
    """That of the run; of dense_decay Adam with decoupled weight decay."""
    if name == "dense_decay":
        return _decayed(config.lr)
    return training.optimizer(recipe(config), steps)


@functools.lru_cache
def _decayed(lr: float) -> optax.GradientTransformation:
    return optax.adamw(lr, weight_decay=DECAY)


def recipe(config: Config, *, rate: float = 1.0) -> training.Recipe:
    """The recipe of the flags, its learning rate times a factor."""
    return training.Recipe(
        config.optimizer, config.lr * rate, weight_decay=config.weight_decay, schedule=config.schedule,
        epochs=config.epochs, batch=config.batch,
    )  # fmt: skip


def apply_of(config: Config, of: nn.Model, name: str, classes: int, **changed: Any) -> Callable:
    """(variables, x) -> logits of a network by name; `changed` makes a surrogate of its layer."""
    if name in DENSE:
        return dense(of, config.width, classes, name == "spectral").apply
    settings = {"neighbors": config.neighbors, "weighting": config.weighting, "votes": name in VOTES} | changed
    return looked_up(None if name == "pixel_knn" else of, **settings)
