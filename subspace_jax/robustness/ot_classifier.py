"""A classifier that reads a short code whose distribution is drawn to a simple prior.

An encoder Q gives codes z of d numbers, far fewer than pixels, a head f logits of a code. Over encoders that map the
data onto the prior N(0, s^2 I), the least expected loss is the cost of transporting the labels' distribution onto that
of f(Z), Z from the prior; relaxed, training descends

    mean CE(f(Q(x)), y) + weight Div(Q(x), prior).

Li, Min, Yu, Hsieh, Lee and Kruus, Optimal transport classifier: defending against adversarial attacks by regularized
deep embedding, arXiv 1811.07950; the adversarial Div and its argument after Tolstikhin et al., Wasserstein
auto-encoders, ICLR 2018. The prior bounds the size of codes, not the slope of the encoder: a robust accuracy must be
measured (`robustness.audit`), beside the same network without a short code and with one but without Div.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import training
from subspace_jax.core import checks, losses
from subspace_jax.core.attacks import Attack
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model, build
from subspace_jax.robustness import latent
from subspace_jax.training import TrainState
from subspace_jax.typing import Algorithm, Array, Float, Key, PyTree, Variables

Div = Literal["none", "gan", "mmd", "sliced"]
DIVS = "none", "gan", "mmd", "sliced"
ATTACK_KEY, PRIOR_KEY, DIV_KEY, NOISE_KEY, DISCRIMINATOR_KEY = 1, 2, 3, 4, 5  # the network itself has the key of a step
RATE = 2.5e-4  # of the discriminator: a faster one leaves the encoder no way but to collapse
NARROW, PATIENCE = 0.1, 100  # codes narrower than this share of the prior, for so many steps, have collapsed


class Info(NamedTuple):
    """What a step saw, before its update.

    Attributes:
      loss: cross-entropy, ().
      accuracy: of the batch, ().
      div: the divergence, not weighted; NaN without one.
      discriminator: its accuracy on codes and prior together; NaN without one.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    div: Float[Array, ""]
    discriminator: Float[Array, ""]


@lru_cache(maxsize=64)  # one function object for the same networks, and so one compilation
def network(encoder: Model, head: Model) -> Model:
    """Encoder and head as one network, with the stages "code" and "logits"; variables by "encoder" and "head".

    Args:
      encoder: whose outputs are the code, such as `nn.build("mlp", classes=16)`.
      head: codes -> logits, such as `nn.build("mlp", widths=(), classes=10)`.
    """

    def init(key, x):
        first, second = jax.random.split(key)
        inner = encoder.init(first, x)
        code = jax.eval_shape(encoder.apply, inner, x)
        outer = head.init(second, jnp.zeros(code.shape, code.dtype))
        return {kind: {"encoder": inner[kind], "head": outer[kind]} for kind in ("params", "batch_stats")}

    def features(variables, x):
        code = encoder.apply(part(variables, "encoder"), x)
        return {"code": code, "logits": head.apply(part(variables, "head"), code)}

    def apply(variables, x):
        return features(variables, x)["logits"]

    def train_apply(variables, x, key):
        _, logits, batch_stats = _passed(encoder, head, variables, x, key, 0.0)
        return logits, batch_stats

    return Model(init, apply, train_apply, features)


@lru_cache(maxsize=64)
def noisy(encoder: Model, head: Model, *, latent_noise: float) -> Callable:
    """(variables, x, key) -> logits of codes with Gaussian noise: a random network, attacked with `draws`.

    One draw hides its gradient in noise; take 20 or more (Athalye et al., ICML 2018).
    """

    def apply(variables, x, key):
        code = encoder.apply(part(variables, "encoder"), x)
        code += latent_noise * jax.random.normal(key, code.shape, code.dtype)
        return head.apply(part(variables, "head"), code)

    return apply


def part(variables: Variables, name: str) -> Variables:
    """The variables of "encoder" or "head"."""
    return {kind: variables[kind][name] for kind in ("params", "batch_stats")}


@lru_cache(maxsize=64)
def ot_classifier(
    encoder: Model, head: Model, tx: optax.GradientTransformation, *, width: int, div: Div = "gan", weight: float = 1.0,
    prior_std: float = 1.0, latent_noise: float = 0.0, eps: float = 0.0, attack: Attack | None = None,
    directions: int = 50, discriminator: Model | None = None,
    discriminator_tx: optax.GradientTransformation | None = None,
) -> Algorithm:  # fmt: skip
    """Training of `network(encoder, head)` with codes drawn to the prior.

    `init(key, variables)` gives a `TrainState`, whose `training.variables` are those of the network; the discriminator
    lives in its opt_state and has no part in inference. `step(key, state, (x, y))` gives the next one and `Info`:
    first the discriminator ascends on the codes before the update, then encoder and head descend with it held.
    `train_epoch` runs whole epochs. With div "none" or weight 0 it is `training.train_step` bit for bit.

    Args:
      encoder: images in [0, 1] -> codes (b, width).
      head: codes -> logits.
      tx: of encoder and head.
      width: d, the length of a code.
      div: "gan", by a discriminator; "mmd"; "sliced", by sorted projections; "none".
      weight: of the divergence, at least 0. Too high with "gan", all codes collapse to one: see `check_training`.
      prior_std: s.
      latent_noise: deviation of Gaussian noise on codes in training; predict with `noisy`.
      eps: largest change of a pixel in adversarial training; 0 for none. Div is that of the attacked images' codes.
      attack: of adversarial training, see `training.attacked`.
      directions: of "sliced", drawn anew each step.
      discriminator: codes -> one logit, positive for the prior; an MLP of widths 256, 256 when None.
      discriminator_tx: its optimiser; Adam at 2.5e-4 when None.

    Raises:
      ValueError: an unknown div; a width or a number of directions below 1; a negative weight or noise; a prior_std
        that is not positive; at the first step, codes of another width, a width that is no bottleneck for a div, fewer
        than 2 samples for "mmd".
    """
    if div not in DIVS:
        raise ValueError(f"there is no divergence {div!r}; there are {', '.join(DIVS)}.")
    if width < 1 or directions < 1:
        raise ValueError(f"width and directions are at least 1; got {width} and {directions}.")
    if not weight >= 0 or not latent_noise >= 0 or not eps >= 0:
        raise ValueError(f"weight, latent_noise and eps are not negative; got {weight}, {latent_noise} and {eps}.")
    latent.check_prior(prior_std)
    method = OTClassifier(
        encoder, head, tx, width, div if weight else "none", weight, prior_std, latent_noise, eps, attack, directions,
        discriminator or build("mlp", widths=(256, 256), classes=1), discriminator_tx or optax.adam(RATE),
    )  # fmt: skip
    return Algorithm(method.init, method.step)


class OTClassifier(NamedTuple):
    """The settings of `ot_classifier`, checked; `init` and `step` are the algorithm."""

    encoder: Model
    head: Model
    tx: optax.GradientTransformation
    width: int
    div: str
    weight: float
    prior_std: float
    latent_noise: float
    eps: float
    attack: Attack | None
    directions: int
    discriminator: Model
    discriminator_tx: optax.GradientTransformation

    def init(self, key: Key[Array, ""], variables: Variables) -> TrainState:
        """The state before the first step; neither the network nor the keys of its steps depend on div."""
        key = as_key(key)
        opt_state: dict[str, PyTree] = {"network": self.tx.init(variables["params"])}
        if self.div == "gan":
            blank = jnp.zeros((1, self.width))
            opponent = self.discriminator.init(jax.random.fold_in(key, DISCRIMINATOR_KEY), blank)
            opt_state |= {"discriminator": opponent, "opponent": self.discriminator_tx.init(opponent["params"])}
        if self.div != "none":
            opt_state["narrow"] = jnp.int32(0)
        return TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], opt_state, key)

    def step(self, key: Key[Array, ""], state: TrainState, batch: PyTree) -> tuple[TrainState, Info]:
        """Attack the images where asked, train the discriminator, then encoder and head."""
        key, (x, y) = as_key(key), batch
        if self.eps:
            drawn = jax.random.fold_in(key, ATTACK_KEY)
            whole = network(self.encoder, self.head)
            x = training.attacked(drawn, whole, training.variables(state), x, y, eps=self.eps, attack=self.attack)
        opt_state, prior, told = self.against(key, state, x)

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            code, logits, batch_stats = _passed(self.encoder, self.head, variables, x, key, self.latent_noise)
            loss = losses.mean(losses.softmax_cross_entropy(logits, y))
            div = self.divergence(key, opt_state, code, prior)
            info = Info(loss, (logits.argmax(-1) == y).mean(), div, told)
            return (loss if self.div == "none" else loss + self.weight * div), (batch_stats, code, info)

        grads, (batch_stats, code, info) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt = self.tx.update(losses.uphill(grads), opt_state["network"], state.params)
        opt_state |= {"network": opt}
        if self.div != "none":
            is_narrow = code.std(0).max() < NARROW * self.prior_std
            opt_state["narrow"] = jnp.where(is_narrow, opt_state["narrow"] + 1, 0)
        return TrainState(
            state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state, state.key
        ), info

    def against(self, key: Key[Array, ""], state: TrainState, x: Any) -> tuple[dict[str, PyTree], Any, Any]:
        """The optimisers' state with the discriminator after its step, a sample of the prior, and its accuracy."""
        opt_state, nothing = dict(state.opt_state), jnp.full((), jnp.nan)
        if self.div == "none":
            return opt_state, None, nothing
        variables = training.variables(state)
        code, logits, _ = _passed(self.encoder, self.head, variables, x, key, self.latent_noise)
        check_width(code.shape[1], self.width, pixels=int(np.prod(x.shape[1:])), classes=logits.shape[1])
        prior = self.prior_std * jax.random.normal(jax.random.fold_in(key, PRIOR_KEY), code.shape, code.dtype)
        if self.div != "gan":
            return opt_state, prior, nothing
        code, opponent = jax.lax.stop_gradient(code), opt_state["discriminator"]

        def loss_fn(params):
            both = self.judged(opponent | {"params": params}, jnp.concatenate([code, prior]))
            on_codes, on_prior = jnp.split(both, 2)
            told = ((on_codes < 0).mean() + (on_prior > 0).mean()) / 2
            return self.weight * latent.discriminator_loss(on_codes, on_prior), told

        grads, told = jax.grad(loss_fn, has_aux=True)(opponent["params"])
        updates, opt = self.discriminator_tx.update(grads, opt_state["opponent"], opponent["params"])
        trained = opponent | {"params": optax.apply_updates(opponent["params"], updates)}
        return opt_state | {"discriminator": trained, "opponent": opt}, prior, told

    def judged(self, opponent: Variables, code: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Logits of the discriminator."""
        return self.discriminator.apply(opponent, code)[:, 0]

    def divergence(self, key: Key[Array, ""], opt_state: PyTree, code: Any, prior: Any) -> Float[Array, ""]:
        """Div of the codes of a batch; NaN, and no part of the loss, without one."""
        if self.div == "gan":
            return latent.encoder_loss(self.judged(opt_state["discriminator"], code))
        if self.div == "mmd":
            return latent.mmd(code, prior, prior_std=self.prior_std)
        if self.div == "sliced":
            return latent.sliced_w2(jax.random.fold_in(key, DIV_KEY), code, prior, directions=self.directions)
        return jnp.full((), jnp.nan)


@lru_cache(maxsize=64)  # one program an algorithm
def train_epoch(method: Algorithm, *, batch: int, prepare: Callable | None = None) -> Callable:
    """(state, x, y) -> (state, `Info` by name, averaged over the epoch), what `training.fit` runs.

    Args:
      method: of `ot_classifier`.
      batch: samples per step.
      prepare: (key, x) -> x on the device, see `training.train_step`, whose keys these are.
    """

    def step(state, x, y):
        prepare_key, own = jax.random.split(jax.random.fold_in(state.key, state.step))
        state, info = method.step(own, state, (prepare(prepare_key, x) if prepare else x, y))
        return state, info._asdict()

    return training.epoch_of(step, batch)


def check_training(state: TrainState) -> None:
    """Refuse to go on where training has failed without an error; for `fit`'s after_epoch.

    Raises:
      ValueError: a discriminator that is not finite; codes that were narrower than a tenth of the prior in every
        coordinate for 100 steps: the encoder gives every image the same code.
    """
    if not isinstance(state.opt_state, dict) or "narrow" not in state.opt_state:
        return
    remedy = "lower its learning rate or the weight"
    checks.check_finite("the discriminator", state.opt_state.get("discriminator", {}), remedy=remedy)
    if int(state.opt_state["narrow"]) >= PATIENCE:
        raise ValueError(
            f"all codes have been narrower than {NARROW} of the prior for {int(state.opt_state['narrow'])} steps: the "
            "encoder has collapsed; lower the weight or the discriminator's learning rate."
        )


def check_width(found: int, width: int, *, pixels: int, classes: int) -> None:
    """Refuse codes of another length than the prior's, and those that are no shorter than the image.

    Raises:
      ValueError: names both lengths.
    """
    if found != width:
        raise ValueError(f"the encoder gives codes of length {found}; width says {width}.")
    if width >= pixels:
        raise ValueError(
            f"a code of {width} numbers is no bottleneck for {pixels} pixels: lower width, or take no div."
        )
    if 2**width < classes:
        warnings.warn(f"codes of {width} numbers may not hold {classes} classes apart.", stacklevel=2)


def _passed(encoder: Model, head: Model, variables: Variables, x: Any, key: Any, latent_noise: float) -> tuple:
    """Codes as the head reads them, logits and new statistics, in training."""
    code, inner = encoder.train_apply(part(variables, "encoder"), x, key)
    if latent_noise:
        noise = jax.random.normal(jax.random.fold_in(key, NOISE_KEY), code.shape, code.dtype)
        code += latent_noise * noise
    logits, outer = head.train_apply(part(variables, "head"), code, key)
    return code, logits, {"encoder": inner, "head": outer}
