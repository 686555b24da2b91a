"""Which dense layer is split over the members of a group, in which direction, and why."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from subspace_jax import trees
from subspace_jax.parallel.splitbrain.network import weights
from subspace_jax.typing import Params

KINDS = "replicated", "column", "row"
RULES = "ccr", "size"
LAYOUTS = "pair", "gather"
LARGE = 0.1  # of all parameters: from this share on the rule "size" splits a layer


class Layer(NamedTuple):
    """One dense layer of a plan.

    Attributes:
      path: of the layer.
      d_in: its inputs.
      d_out: its outputs.
      kind: "replicated"; "column": each member holds some of the outputs; "row": some of the inputs.
      ratio: communication over that of a replicated layer (rule "ccr"), or the share of all parameters ("size").
      why: the kind, in words.
    """

    path: str
    d_in: int
    d_out: int
    kind: str
    ratio: float
    why: str


class Plan(NamedTuple):
    """Where the dense layers lie.

    Attributes:
      data: groups D.
      model: members K of a group.
      layers: the dense layers in order.
    """

    data: int
    model: int
    layers: tuple[Layer, ...]

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.model

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of the mesh with more than one device: over a single one nothing is exchanged."""
        return tuple(name for name, size in (("data", self.data), ("model", self.model)) if size > 1)

    def runs(self) -> list[tuple[Layer, ...]]:
        """The chain in pieces: split layers that follow each other together, a replicated one alone."""
        found: list[tuple[Layer, ...]] = []
        for layer in self.layers:
            joins = found and "replicated" not in (layer.kind, found[-1][-1].kind)
            found[-1:] = [(*found[-1], layer)] if joins else [*found[-1:], (layer,)]
        return found

    def padded(self, width: int) -> int:
        """The next multiple of K."""
        return -(-width // self.model) * self.model


def plan(
    params: Params,
    dense: Sequence[str],
    *,
    data: int,
    model: int,
    batch: int,
    rule: str = "ccr",
    layout: str = "pair",
    overrides: Mapping[str, str] | None = None,
    pad: bool = False,
) -> Plan:
    """Decide for each dense layer whether it is split.

    "ccr" compares what one device sends and receives in a step, N = D K devices, P entries of the layer. Replicated:
    the ring all-reduce of its gradient, 2 (N - 1) / N P. Split: 2 (D - 1) / D P / K for the gradient of the shard, and
    for activations 2 (K - 1) b d, where d is the input of a column layer and the output of a row layer. The layer is
    split where the latter is not more. "size" splits layers that hold a tenth of all parameters or more.

    Split layers that follow each other are column, row, column, ... in the layout "pair": a row layer reads the columns
    where they are, and only its output is exchanged. In "gather", the paper's, all are column layers.

    Args:
      params: arrays or shapes of the whole network.
      dense: paths of the dense layers in order, `Network.dense`.
      data: groups D.
      model: members K of a group; 1 replicates every layer.
      batch: samples b of a device.
      rule: "ccr" or "size".
      layout: "pair" or "gather".
      overrides: {path: kind}, whatever rule and layout say.
      pad: whether a width that K does not divide may be padded, see `pad_params`; exact, since padded units are 0.

    Raises:
      ValueError: unknown rule, layout, path or kind; D, K or b below 1; a row layer behind no column layer; a width
        that K does not divide, without `pad`.
    """
    overrides = dict(overrides or {})
    _check(dense, data, model, batch, rule, layout, overrides)
    found = Plan(data, model, ())
    total = sum(leaf.size for leaf in trees.flatten(params).values())
    for path in dense:
        kernel, bias = weights(params, path)
        entries = kernel.size + (0 if bias is None else bias.size)
        before = found.layers[-1].kind if found.layers else "replicated"
        kind = "row" if layout == "pair" and before == "column" else "column"
        moved = kernel.shape[1] if kind == "row" else kernel.shape[0]
        ratio = entries / total if rule == "size" else _ratio(found, entries, batch * moved)
        split = ratio >= LARGE if rule == "size" else ratio <= 1
        kind, why = kind if split else "replicated", f"{rule} {ratio:.3g}"
        if path in overrides:
            kind, why = overrides[path], "override"
        if model == 1:
            kind, why = "replicated", "one member a group"
        layer = Layer(path, kernel.shape[0], kernel.shape[1], kind, ratio, why)
        _check_layer(found, layer, before, pad)
        found = found._replace(layers=(*found.layers, layer))
    return found


def _ratio(found: Plan, entries: int, moved: int) -> float:
    """Communication of a split layer over that of a replicated one; 1 device has none."""
    d, k = found.data, found.model
    replicated = 2 * (found.devices - 1) / found.devices * entries
    split = 2 * (d - 1) / d * entries / k + 2 * (k - 1) * moved
    return split / replicated if replicated else 1.0


def _check(
    dense: Sequence[str], data: int, model: int, batch: int, rule: str, layout: str, overrides: Mapping[str, str]
) -> None:
    if min(data, model, batch) < 1:
        raise ValueError(f"groups, members and samples are at least 1; got {data}, {model} and {batch}.")
    for name, value, known in (("rule", rule, RULES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise ValueError(f"the {name} is one of {', '.join(known)}; got {value!r}.")
    for path, kind in overrides.items():
        if path not in dense:
            raise ValueError(f"there is no dense layer {path!r} to override; there are {', '.join(dense)}.")
        if kind not in KINDS:
            raise ValueError(f"{path} can be {', '.join(KINDS)}; got {kind!r}.")


def _check_layer(found: Plan, layer: Layer, before: str, pad: bool) -> None:
    if layer.kind == "row" and before != "column":
        raise ValueError(
            f"{layer.path} as row layer reads columns, which no column layer before it leaves: take column."
        )
    width = layer.d_out if layer.kind == "column" else found.model
    if width % found.model and not pad:
        raise ValueError(
            f"{layer.path} has {width} outputs, which {found.model} members cannot share: make it "
            f"{found.padded(width)} wide, pad it, or leave it replicated."
        )
