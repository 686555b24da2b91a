"""TOFU: an update of the weights sent as a few synthetic samples, whose gradient points the same way.

A proxy is n inputs x, label logits z, weights a and a scale s. At the weights w that client and server share it stands
for s S with S = grad_w sum_i a_i loss(w, x_i, softmax(z_i)). Encoding minimises 1 - cos(U, S) over x, z and a with
Adam, through the gradient; decoding is one backward pass. A proxy takes 4 (n (inputs + classes + 1) + 1) bytes, however
large the network is.

This hides an update from the eye and from nobody else: the decoded update is close to the true one by construction,
and encoding is itself a gradient inversion, whose proxies may be the private samples (see `inversion`).

Source: Garg, Nagaraj, Roy, Towards obfuscated federated updates by encoding weight updates into gradients from proxy
data, arXiv 2201.08494. Adam, its rate and the initial scales are ours.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import trees
from subspace_jax.core import checks, kinks
from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.core.keys import as_key
from subspace_jax.federated.fedavg import Uplink, distance, fedavg
from subspace_jax.typing import Algorithm, Array, Float, Key, PyTree

Scale = Literal["least_squares", "norm"]


class Proxy(NamedTuple):
    """What is sent in place of an update; all of it counts as bytes.

    Attributes:
      x: synthetic inputs, (n, ...), of any range.
      z: logits of their soft labels, (n, classes).
      a: their weights, of any sign, (n,).
      scale: s, (); one a leaf of the parameters where it is layerwise, (leaves,).
    """

    x: Float[Array, "n ..."]
    z: Float[Array, "n classes"]
    a: Float[Array, " n"]
    scale: Float[Array, "..."]


class Encoded(NamedTuple):
    """A proxy, and how it was found.

    Attributes:
      proxy: the best iterate.
      trace: 1 - cos of the best iterate so far, before each step and after the last, (steps + 1,).
    """

    proxy: Proxy
    trace: Float[Array, " steps+1"]


def encode(
    key: Key[Array, ""],
    loss: Callable,
    params: PyTree,
    update: PyTree,
    *,
    proxies: int,
    shape: tuple[int, ...],
    classes: int,
    steps: int = 500,
    lr: float = 0.05,
    init_std: float = 0.5,
    learn_weights: bool = True,
    scale: Scale = "least_squares",
    layerwise: bool = False,
    start: Proxy | None = None,
) -> Encoded:
    """The proxy whose gradient at `params` is as parallel to `update` as `steps` steps of Adam make it.

    x ~ N(0, init_std^2), z ~ N(0, 1), a = 1 / n; the rate falls to zero as a cosine. s is <U, S> / ||S||^2, which
    leaves U - s S orthogonal to S, or ||U|| / ||S||. Smaller inputs, grey or of less resolution, are a loss that
    enlarges them. Costs about six passes over n samples a step; works under `jit` and `vmap`.

    Args:
      key: of the initial proxy.
      loss: loss(params, x, y) -> (n,), y soft labels (n, classes), such as `fedavg.classification(apply)`; smooth, and
        without batch statistics. Compiled once for each function object.
      params: w, any pytree of floating arrays.
      update: U, a tree as `params`; its length does not matter for the search.
      proxies: n, at least 1.
      shape: of one input.
      classes: of a soft label.
      steps: of Adam; 0 gives the best scale of the initial proxy.
      lr: its first rate.
      init_std: of the initial inputs.
      learn_weights: whether a changes; with "least_squares" s still does.
      scale: "least_squares", or "norm".
      layerwise: minimise the mean over leaves of 1 - cos, and send a scale for each: otherwise the leaf with the
        largest gradient decides.
      start: initial proxy, in place of a random one.

    Returns:
      The proxy and its trace. A zero update gets scale 0, with a warning.

    Raises:
      ValueError: an update of another tree; numbers out of range; inputs that the loss does not take; a loss that is
        not finite, with the step.
    """
    _check_settings(proxies=proxies, steps=steps, lr=lr, init_std=init_std, scale=scale)
    checks.check_finite("params", params)
    _check_tree(params, update)
    _check_loss(loss, params, (proxies, *shape), (proxies, classes))
    key, dtype = as_key(key), jnp.result_type(*jax.tree.leaves(update))
    first, second = jax.random.split(key)
    x = init_std * jax.random.normal(first, (proxies, *shape), dtype)
    drawn = x, jax.random.normal(second, (proxies, classes), dtype), jnp.full(proxies, 1 / proxies, dtype)
    known = all(map(checks.is_known, jax.tree.leaves(update)))
    if known and not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(update)):
        warnings.warn("the update is zero: its proxy has scale 0 and stands for no direction.", stacklevel=2)
    settings = {"steps": steps, "lr": lr, "learn_weights": learn_weights, "scale": scale, "layerwise": layerwise}
    found = _encode(params, update, start[:3] if start else drawn, loss=loss, **settings)
    if checks.is_known(found.trace) and not np.isfinite(found.trace).all():
        step = int(np.flatnonzero(~np.isfinite(found.trace))[0])
        raise ValueError(f"1 - cos is not finite at step {step} of {steps}: lower lr or init_std, or check the loss.")
    return found


def decode(loss: Callable, params: PyTree, proxy: Proxy, *, digest: str | None = None) -> PyTree:
    """The update that a proxy stands for: s grad_w sum_i a_i loss(w, x_i, softmax(z_i)), a tree as `params`.

    Linear in s and in a. Compiled, so that two calls with the same arrays give the same bits; under `vmap` over clients
    the sums may be rounded in another order: client and server must then both decode in this way.

    Args:
      loss: as in `encode`.
      params: the weights at which the proxy was encoded.
      proxy: what was received.
      digest: of the sender's weights, see `trees.digest`; not compared when None.

    Raises:
      ValueError: other weights than the sender's; a number of scales that is not that of the leaves.
    """
    if digest is not None and digest != (own := trees.digest(params)):
        raise ValueError(
            f"the proxy was encoded at weights {digest[:12]}, these are {own[:12]}: its gradient means nothing here."
        )
    leaves, scales = len(jax.tree.leaves(params)), jnp.shape(proxy.scale)
    if scales not in ((), (leaves,)):
        raise ValueError(f"a proxy has one scale, or one for each of the {leaves} leaves; got shape {scales}.")
    return _decode(params, proxy, loss=loss)


def tofu(
    loss: Callable,
    *,
    comm: Comm,
    lr: float,
    encode_lr: float = 0.05,
    server_lr: float = 1.0,
    error_feedback: bool = False,
    least_cosine: float = 0.0,
    loop: str = "vmap",
    **settings,
) -> Algorithm:
    """Federated averaging with proxies on the way up; the weights come down in full.

    To end with some rounds of full updates go on with `fedavg.fedavg`: its state is the same.

    Args:
      loss: loss(params, x, y) -> (batch,), for integer labels and for soft ones.
      comm: the clients.
      lr: of the local steps.
      encode_lr: the `lr` of `encode`.
      server_lr: factor of the mean update.
      error_feedback: as in `fedavg`; not part of the published method.
      least_cosine: a client whose proxy stays below it sends the full update, which is counted.
      loop: as in `fedavg`.
      **settings: the others of `encode`; `proxies`, `shape` and `classes` are required.
    """
    options = {"server_lr": server_lr, "error_feedback": error_feedback, "least_cosine": least_cosine, "loop": loop}
    return fedavg(loss, comm=comm, lr=lr, uplink=uplink(loss, lr=encode_lr, **settings), **options)


def uplink(loss: Callable, **settings) -> Uplink:
    """Weights -> compressor whose wire is a `Proxy`; settings as in `encode`."""
    _check_settings(**settings)

    def at(params):
        return Compressor(
            lambda key, update: encode(key, loss, params, update, **settings).proxy,
            lambda wire, like: decode(loss, params, wire),
        )

    return at


def _gradient(loss: Callable, params: PyTree, x: Array, z: Array, a: Array) -> PyTree:
    return jax.grad(lambda w: jnp.vdot(a, loss(w, x, jax.nn.softmax(z))))(params)


@functools.partial(jax.jit, static_argnames="loss")
def _decode(params: PyTree, proxy: Proxy, *, loss: Callable) -> PyTree:
    leaves, structure = jax.tree.flatten(_gradient(loss, params, proxy.x, proxy.z, proxy.a))
    scales = jnp.broadcast_to(proxy.scale, (len(leaves),))
    return structure.unflatten([scales[i].astype(leaf.dtype) * leaf for i, leaf in enumerate(leaves)])


@functools.partial(jax.jit, static_argnames=("loss", "steps", "lr", "learn_weights", "scale", "layerwise"))
def _encode(
    params: PyTree, update: PyTree, start: tuple, *, loss: Callable, steps: int, lr: float, learn_weights: bool,
    scale: Scale, layerwise: bool,
) -> Encoded:  # fmt: skip
    tx = optax.adam(optax.cosine_decay_schedule(lr, max(steps, 1)))

    def away(parts):
        x, z, a = parts
        return distance(update, _gradient(loss, params, x, z, a if learn_weights else start[2]), layerwise=layerwise)

    def one(carry, _):
        parts, opt_state, best, found = carry
        value, grads = jax.value_and_grad(away)(parts)
        found = jax.tree.map(lambda new, old: jnp.where(value < best, new, old), parts, found)
        best = jnp.minimum(value, best)
        updates, opt_state = tx.update(grads, opt_state, parts)
        return (optax.apply_updates(parts, updates), opt_state, best, found), jnp.where(jnp.isnan(value), value, best)

    begin = start, tx.init(start), jnp.asarray(jnp.inf, start[0].dtype), start
    (*_, found), trace = jax.lax.scan(one, begin, length=steps + 1)
    x, z, a = found
    scales = _scales(update, _gradient(loss, params, x, z, a), scale, layerwise)
    return Encoded(Proxy(x, z, a, scales), trace)


def _scales(update: PyTree, gradient: PyTree, scale: Scale, layerwise: bool) -> Float[Array, "..."]:
    """s, or one for each leaf; 0 where the gradient is zero."""
    rows = [
        (jnp.vdot(u, s), jnp.vdot(u, u), jnp.vdot(s, s))
        for u, s in zip(jax.tree.leaves(update), jax.tree.leaves(gradient), strict=True)
    ]
    product, own, square = (jnp.stack(column) if layerwise else sum(column) for column in zip(*rows, strict=True))
    top, below = (product, square) if scale == "least_squares" else (jnp.sqrt(own), jnp.sqrt(square))
    return jnp.where(square == 0, 0, top / jnp.where(square == 0, 1, below))  # NaN stays


def _check_settings(*, proxies: int, steps: int = 0, lr: float = 1, init_std: float = 1, scale: Scale = "norm", **_):
    if proxies < 1:
        raise ValueError(f"proxies is the number of synthetic samples, at least 1; got {proxies}.")
    if steps < 0:
        raise ValueError(f"steps is the number of steps of Adam, 0 or more; got {steps}.")
    for name, value in (("lr", lr), ("init_std", init_std)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is above 0 and finite; got {value}.")
    if scale not in ("least_squares", "norm"):
        raise ValueError(f'scale is "least_squares" or "norm"; got {scale!r}.')


def _check_tree(params: PyTree, update: PyTree) -> None:
    wanted, got = (
        {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in trees.flatten(tree).items()}
        for tree in (params, update)
    )
    differ = [path for path in wanted | got if wanted.get(path) != got.get(path)]
    if differ:
        named = ", ".join(f"{path} {got.get(path, 'missing')} for {wanted.get(path, 'none')}" for path in differ[:5])
        raise ValueError(f"the update has another tree than the parameters, in {len(differ)} leaves: {named}.")


def _check_loss(loss: Callable, params: PyTree, x: tuple[int, ...], y: tuple[int, ...]) -> None:
    """Refuse inputs that the loss does not take, and warn of a piecewise linear network."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    dtype = jnp.result_type(*jax.tree.leaves(like))
    inputs = (jax.ShapeDtypeStruct(shape, dtype) for shape in (x, y))
    try:
        traced, out = jax.make_jaxpr(loss, return_shape=True)(like, *inputs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the loss takes no inputs {x} with soft labels {y}: {error}") from error
    if getattr(out, "shape", None) != x[:1]:
        raise ValueError(f"the loss gives one value for each of {x[0]} samples; got {out}.")
    if kinks.has_kinks(traced.jaxpr):
        warnings.warn(
            "the loss has kinks (max(x, 0), as in ReLU), across which the encoder sees no slope: it may encode worse; "
            "take silu or softplus.",
            stacklevel=3,
        )
