"""The data and the network of federated_proxy, and every way to upload an update, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import flags, sets
from subspace_jax import data, nn, trees
from subspace_jax.core import compress
from subspace_jax.core.exchange import Comm
from subspace_jax.federated import fedavg, inversion, tofu
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.federated_proxy.experiment import Config

PARTITIONS = {"iid": "iid", "sorted": "label_sorted", "dirichlet": "dirichlet"}
INDEX_BYTES = 8  # of a kept entry of top-k: value and position


class Setup(NamedTuple):
    """What all seeds share. Inputs are pixels in [0, 1]; the network standardises them itself.

    Attributes:
      x: training images.
      label: of them.
      test_x: test images.
      test_label: of them.
      classes: their number.
      spread: mean and deviation of a pixel, by channel.
      init: (key, x) -> variables.
      apply: (variables, x) -> logits.
      loss: of `fedavg.classification`.
    """

    x: np.ndarray
    label: np.ndarray
    test_x: np.ndarray
    test_label: np.ndarray
    classes: int
    spread: tuple[np.ndarray, np.ndarray]
    init: Callable
    apply: Callable
    loss: Callable

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.x.shape[1:]


class Run(NamedTuple):
    """One federated training.

    Attributes:
      kind: a name of --methods.
      proxies: whose bytes it takes; 0 where they have no say.
      partition: name in `data.partition`.
      suffix: of its figures: "" or "_sorted".
      full: rounds of full updates at its end.
    """

    kind: str
    proxies: int
    partition: str
    suffix: str
    full: int = 0

    @property
    def name(self) -> str:
        """In the figures."""
        return self.kind + (f"_{self.proxies}" if self.proxies else "") + ("_full" if self.full else "")


class Case(NamedTuple):
    """An update that is attacked, and how many of its images are looked for: the first ones."""

    name: str
    images: int
    steps: int
    batch: int


WHOLE = Run("fedavg", 0, "iid", "")  # rounds of full updates


def setup(config: Config) -> Setup:
    """Load the data and build the network."""
    found = sets.load(config, config.samples, pixels=True)
    scaling = data.scaling(config.data, data.inputs(found.train))
    channels = len(scaling.mean)
    pixels = data.Scaling(scaling.divisor, (0.0,) * channels, (1.0,) * channels)
    x, test_x = (np.asarray(data.scale(data.inputs(part), pixels)) for part in (found.train, found.test))
    widths = {"widths": list(config.widths)} if config.widths else {}
    model = nn.build(config.model, classes=found.classes, **widths | flags.network_arguments(config))
    mean, std = (np.asarray(part, np.float32) for part in scaling[1:])
    apply = standardised(model.apply, tuple(mean.tolist()), tuple(std.tolist()))
    loss, label = fedavg.classification(apply), found.train["label"]
    if len(label) < config.clients:
        raise ValueError(f"--clients is at most the {len(label)} training samples; got {config.clients}.")
    return Setup(
        x, label, test_x, found.test["label"], found.classes, (mean, std), jax.jit(model.init), apply, loss
    )  # fmt: skip


@functools.lru_cache  # one function object a network, and so one compilation
def standardised(apply: Callable, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable:
    """The network on pixels in [0, 1]: the box that an attacker searches is the same for every data set."""
    lift = (None, None, None)
    return lambda variables, x: apply(variables, (x - jnp.asarray(mean)[lift]) / jnp.asarray(std)[lift])


def runs(config: Config) -> list[Run]:
    """Every training: those of --partition, and beside an IID one some that are sorted by label."""
    found = [run for kind in config.methods for run in of_kind(config, kind, PARTITIONS[config.partition], "")]
    if config.beside and config.partition == "iid":
        few = ("fedavg", "sign", "tofu")
        beside = [run for kind in few for run in of_kind(config, kind, "label_sorted", "_sorted")]
        middle = config.proxies[len(config.proxies) // 2]
        found += [run for run in beside if run.kind in config.methods and run.proxies in (0, middle) and not run.full]
    return found


def of_kind(config: Config, kind: str, partition: str, suffix: str) -> list[Run]:
    """The trainings of one name of --methods; fedavg_equal_bytes is read off that of fedavg."""
    if kind == "fedavg_equal_bytes":
        return []
    if kind in ("fedavg", "sign"):
        return [Run(kind, 0, partition, suffix)]
    if kind == "tofu_ef":
        return [Run(kind, config.proxies[len(config.proxies) // 2], partition, suffix)]
    found = [Run(kind, n, partition, suffix) for n in config.proxies]
    if kind == "tofu" and config.full_rounds:
        found += [run._replace(full=config.full_rounds) for run in found]
    return found


def algorithm(config: Config, shared: Setup, run: Run, comm: Comm) -> Algorithm:
    """The method of a training; with error feedback wherever a compressor needs it."""
    options: dict[str, Any] = {"comm": comm, "lr": config.lr, "loop": config.loop}
    if run.kind in ("tofu", "tofu_ef"):
        settings = encoding(config, shared) | {"proxies": run.proxies, "steps": config.round_encode_steps}
        settings["encode_lr"] = settings.pop("lr")
        options |= {"error_feedback": run.kind == "tofu_ef", "least_cosine": config.least_cosine}
        return tofu.tofu(shared.loss, **options, **settings)
    if run.kind == "fedavg":
        return fedavg.fedavg(shared.loss, **options)
    compressor = compress.sign() if run.kind == "sign" else equal_bytes(config, shared, run.proxies)
    return fedavg.fedavg(shared.loss, **options, uplink=fedavg.every(compressor), error_feedback=True)


def cases(config: Config) -> list[Case]:
    """Single steps on few images, and the update of a round."""
    single = [Case(f"images_{n}", n, 1, n) for n in config.images]
    most = min(max(config.images), config.local_steps * config.batch)
    return [*single, Case(f"steps_{config.local_steps}x{config.batch}", most, config.local_steps, config.batch)]


def analytic(shared: Setup, update: Any) -> np.ndarray | None:
    """What the units of a dense first layer tell, as images; None where the network begins with another layer."""
    leaves = trees.flatten(update)
    if not {"dense0/kernel", "dense0/bias"} <= leaves.keys() or len(leaves["dense0/kernel"]) != np.prod(shared.shape):
        return None
    rows = inversion.analytic(leaves["dense0/kernel"], leaves["dense0/bias"])
    mean, std = shared.spread
    return np.clip(np.asarray(rows).reshape(-1, *shared.shape) * std + mean, 0, 1)


@functools.lru_cache
def inverter(loss: Callable, shape: tuple[int, ...], steps: int, tv: float, restarts: int, loop: str) -> Callable:
    """(key, weights, gradients, labels) -> images rebuilt by inverting gradients; weights and gradients stacked."""

    def one(key, params, gradient, labels):
        settings = {"shape": shape, "steps": steps, "tv": tv, "restarts": restarts}
        return inversion.inverting_gradients(key, loss, params, gradient, labels, **settings).x

    def in_turn(key, weights, gradients, labels):
        return jax.lax.map(lambda pair: one(key, pair[0], pair[1], labels), (weights, gradients))

    return jax.jit(in_turn if loop == "map" else jax.vmap(one, (None, 0, 0, None)))


def encoding(config: Config, shared: Setup) -> dict[str, Any]:
    """Settings of `tofu.encode`, without the number of proxies and of steps."""
    return {
        "shape": shared.shape, "classes": shared.classes, "lr": config.encode_lr, "init_std": config.init_std,
        "scale": config.scale, "layerwise": config.layerwise,
    }  # fmt: skip


def proxy_bytes(config: Config, shared: Setup, proxies: int) -> int:
    """Of a proxy, by its formula; the figures count the arrays that are sent."""
    scales = len(jax.tree.leaves(params_like(shared))) if config.layerwise else 1
    return 4 * (proxies * (int(np.prod(shared.shape)) + shared.classes + 1) + scales)


def equal_bytes(config: Config, shared: Setup, proxies: int) -> compress.Compressor:
    """Top-k of the whole update that fits into the bytes of so many proxies, at most all entries but one."""
    size = compress.nbytes(params_like(shared)) // 4
    keep = min(proxy_bytes(config, shared, proxies) // INDEX_BYTES, size - 1)
    return compress.as_vector(compress.top_k(1 - (keep + 0.5) / size))  # half an entry more, against rounding


def params_like(shared: Setup) -> Any:
    """Shapes of the weights."""
    return jax.eval_shape(shared.init, jax.random.key(0), shared.x[:1])["params"]
