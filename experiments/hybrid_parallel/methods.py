"""The network in parts, the splits and how parameters lie in each scheme, by the words of the flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from jax.sharding import Mesh

from experiments.harness import flags
from subspace_jax import nn
from subspace_jax.nn.parts import ACTIVATIONS
from subspace_jax.parallel import splitbrain
from subspace_jax.parallel.splitbrain import Network, Plan
from subspace_jax.typing import Params, PyTree

if TYPE_CHECKING:
    from experiments.hybrid_parallel.experiment import Config

BASELINES = "jit", "fsdp"
SIZES = {
    "mlp": ("", "widths"),
    "lenet5": ("filters", "widths"),
    "cnn": ("widths", "dense"),
    "cnn2": ("widths", "dense"),
}
FIXED = "norm", "bits", "stochastic_act", "dtype", "classes"  # arguments that would change the dense layers


class Chain(NamedTuple):
    """A network of nn.build, whole and in parts."""

    model: nn.Model
    network: Network


def chain(config: Config, classes: int, dense: tuple[int, ...], dtype: str) -> Chain:
    """The network of the flags: its convolutions are the trunk, its dense layers but the last one may be split.

    Raises:
      ValueError: a network without such a chain, or an argument that would change its dense layers.
    """
    if config.model not in SIZES:
        raise ValueError(f"--model is one of {', '.join(SIZES)}, whose dense layers form a chain; got {config.model}.")
    own = flags.network_arguments(config)
    if fixed := [name for name in own if name in FIXED]:
        raise ValueError(
            f"--network-args {fixed[0]} would change what is split: statistics of a batch differ between devices, and "
            "dense layers are split as they are, without a norm."
        )
    widths, name = SIZES[config.model]
    sizes = own | {"dtype": dtype, "init": own.get("init", "lecun")} | ({widths: list(config.widths)} if widths else {})
    whole = nn.build(config.model, **sizes | {name: list(dense), "classes": classes})
    trunk = nn.build(config.model, **sizes | {name: [], "classes": 0})

    def features(params: Params, x: Any) -> Any:
        return trunk.apply({"params": params, "batch_stats": {}}, x)

    def head(params: Params, h: Any) -> Any:
        kernel, bias = (params["head"].get(leaf) for leaf in ("kernel", "bias"))
        return h @ kernel if bias is None else h @ kernel + bias[None]

    activation = ACTIVATIONS[own.get("activation", "relu")]
    return Chain(whole, Network(features, tuple(f"dense{i}" for i in range(len(dense))), head, activation))


def sizes(split: str) -> tuple[int, int]:
    """(groups, members) of "2x4".

    Raises:
      ValueError: another word.
    """
    data, _, model = split.partition("x")
    if not (data.isdecimal() and model.isdecimal()):
        raise ValueError(f"a split is written GROUPSxMEMBERS, such as 2x4; got {split!r}.")
    return int(data), int(model)


def overrides(config: Config) -> dict[str, str]:
    """--override as {path: kind}.

    Raises:
      ValueError: a flag that is no PATH=KIND.
    """
    if wrong := [line for line in config.override if "=" not in line]:
        raise ValueError(f"--override is PATH=KIND, such as dense0=replicated; got {wrong[0]!r}.")
    return dict(line.split("=", 1) for line in config.override)


def plan(config: Config, params: Params, dense: tuple[str, ...], split: str, batch: int, layout: str) -> Plan:
    """The plan of a split by the flags; `batch` samples a device."""
    data, model = sizes(split)
    return splitbrain.plan(
        params, dense, data=data, model=model, batch=batch, rule=config.rule, layout=layout,
        overrides=overrides(config), pad=config.pad,
    )  # fmt: skip


def schemes(config: Config, split: str) -> tuple[str, ...]:
    """What is measured at a split: with one member a group the schemes are one program; FSDP knows no groups."""
    data, model = sizes(split)
    own = config.schemes if model > 1 else config.schemes[:1]
    alone = ("fsdp",) * (data * model > 1 and model == 1)
    return (*own, *(name for name in config.baselines if name == "jit" or name in alone))


def loss_of(scheme: str, network: Network, plan: Plan, mesh: Mesh) -> Callable:
    """The loss of a scheme or baseline over a mesh."""
    if scheme == "jit":
        return splitbrain.annotated_loss(network, plan, mesh)
    return splitbrain.plain_loss(network) if scheme == "fsdp" else splitbrain.hybrid_loss(
        network, plan, mesh, scheme=scheme
    )  # fmt: skip


def specs_of(scheme: str, plan: Plan, params: Params) -> PyTree:
    """How padded parameters lie in a scheme or baseline."""
    fsdp = scheme == "fsdp"
    return splitbrain.fsdp_specs(params, plan.devices) if fsdp else splitbrain.param_specs(plan, params)
