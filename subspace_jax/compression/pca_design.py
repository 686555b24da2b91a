"""How many filters does each layer need, and how many layers? Counted from one trained network in one pass.

The response of a layer, before bias, norm and activation, is a cloud of rows, one for each image and position. Its
CENTRED covariance has as many significant dimensions k as the leading principal components that hold the share tau of
its variance; the new layer gets k filters. Layers after the first one whose k falls add nothing and can go. The new
network starts from fresh values and is trained once: no filter is copied, nothing is pruned and retrained.

Controls belong beside a design: `uniform_widths` of equal cost, and `spectra` of the same network before its training,
since k also counts what the data and the size of the kernels allow (k <= window x channels read).

Garg, Panda, Roy: "A Low Effort Approach to Structured CNN Design Using PCA", IEEE Access 2020, arXiv 1812.06224. That
paper leaves out residual networks; here layers that meet in a sum get the largest k among them.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from subspace_jax.compression.channel_groups import INPUT, channel_groups
from subspace_jax.core import capture, checks, moments
from subspace_jax.core.moments import Moments
from subspace_jax.core.subspace import Rule, participation_ratio, significant_dims
from subspace_jax.nn import Model
from subspace_jax.typing import Float, Variables

DEPTH_TAU = 0.999  # the profile that depth is read from, whatever sets the widths: a low tau makes it noisy
ROWS = 100  # rows a filter that the authors ask for
DEAD = 1e-12  # share of a layer's energy that rounding alone may give to channels that do not vary


class LayerSpectrum(NamedTuple):
    """Principal components of one layer's response.

    Attributes:
      path: of the layer.
      width: filters, or units.
      eigenvalues: of the centred covariance, descending, float64 (width,); all 0 where the response does not vary.
      rows: images times positions that were seen.
      images: number of images.
      group: the first of the layers whose outputs meet this one's element by element; its own path if there is none.
    """

    path: str
    width: int
    eigenvalues: Float[np.ndarray, " width"]
    rows: int
    images: int
    group: str


class LayerReport(NamedTuple):
    """One line of a design.

    Attributes:
      path: of the layer.
      full: width of the measured network.
      dims: significant dimensions k at the tau of the design.
      depth_dims: k at tau = .999, from which depth is read.
      participation: `participation_ratio` of the spectrum: near 1, one direction makes every tau loose.
      width: in the design; 0 where the layer goes.
    """

    path: str
    full: int
    dims: int
    depth_dims: int
    participation: float
    width: int


class Design(NamedTuple):
    """A smaller network.

    Attributes:
      widths: of the layers that stay, in their order: `build("cnn", widths=...)`.
      keep: for each measured layer whether it stays.
      report: for each measured layer what was counted.
    """

    widths: tuple[int, ...]
    keep: tuple[bool, ...]
    report: tuple[LayerReport, ...]


def spectra(model: Model, variables: Variables, batches: Iterable[Any]) -> list[LayerSpectrum]:
    """Principal components of every layer but the last, the classifier, in the order of execution.

    One pass; covariances are streamed in float64, so memory does not grow with the number of images.

    Args:
      model: the network, in inference mode (`Model.apply`).
      variables: its variables.
      batches: of inputs (b, ...).

    Raises:
      ValueError: no batch, or a network of a single layer; layers with groups or under a scan; kernels that
        `capture.layers` cannot follow; channels that meet as `channel_groups` cannot follow.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("batches is empty: there is nothing to observe.")
    first = jax.ShapeDtypeStruct(np.shape(batches[0]), np.asarray(batches[0]).dtype)
    table = capture.layers(model.apply, variables, first)
    *paths, last = table
    if not paths or (odd := [path for path in paths if table[path].lead]):
        what = f"{odd[0]!r} has groups or is scanned" if paths else f"{last!r} is the only layer"
        raise ValueError(f"{what}: widths are those of plain layers before the classifier.")
    groups = channel_groups(model.apply, variables, first)
    measured = capture.collect(model.apply, variables, batches, of="outputs", layers=paths, dtype="float64")
    images = sum(map(len, batches))
    given = groups[table[last].leaf]  # what meets the logits has their number of channels
    found = []
    for path in paths:
        group = groups[table[path].leaf]
        own = INPUT if group in (INPUT, given) else next(p for p in paths if table[p].leaf == group)
        found.append(spectrum(path, measured[path], images=images, group=own))
    return found


@checks.on_host
def spectrum(path: str, response: Moments, *, images: int, group: str | None = None) -> LayerSpectrum:
    """The spectrum of one response from its moments, float64: `spectra` for responses that were measured elsewhere.

    Raises:
      ValueError: moments that are not finite, or complex.
    """
    checks.check_real("a design by principal components", {path: response.gram.dtype})
    checks.check_finite(f"response of {path!r}", response, remedy="drop samples that are not finite, or train again")
    covariance = checks.as_real("the covariance", moments.covariance(response))
    values = np.linalg.eigvalsh(covariance)[::-1].clip(0)
    if np.trace(covariance) <= DEAD * np.trace(response.gram) / max(float(response.count), 1.0):
        values = np.zeros_like(values)
    return LayerSpectrum(path, len(values), values, int(response.count), images, group or path)


@checks.on_host
def propose(
    spectra: Sequence[LayerSpectrum], *, tau: float | int, rule: Rule = "reach", depth: bool = True,
    slack: float | int = 0.05, min_width: int = 4, multiple_of: int = 1,
) -> Design:  # fmt: skip
    """The widths k of a smaller network and, with `depth`, which layers it keeps.

    A layer gets k filters, at least `min_width`, rounded up to `multiple_of`, and never more than it had. Depth: l* is
    the first layer with k_l < (1 - slack) k_{l-1} at tau = .999; layers before it stay, it and all later ones go. Keep
    the poolings, so that the classifier sees a map of the same size.

    Args:
      spectra: of `spectra`, in the order of execution.
      tau: share of the variance to keep, in (0, 1); the paper's is .999.
      rule: of `core.subspace.significant_dims`.
      depth: whether layers may go; without it all stay.
      slack: fall of k that is not counted as one, in [0, 1).
      min_width: at least 1.
      multiple_of: at least 1; 8 or 16 suits accelerators.

    Raises:
      ValueError: settings out of range; a layer with fewer rows than filters, without variance, or joined with the
        network's input or output; depth with layers that are joined.

    Warns:
      UserWarning: fewer than 100 rows a filter, with the images that are missing.
    """
    if not 0 < tau < 1:
        raise ValueError(f"tau is the share of variance to keep, in (0, 1); got {tau}.")
    if not 0 <= slack < 1 or min(min_width, multiple_of) < 1:
        raise ValueError(
            f"slack is in [0, 1), min_width and multiple_of are at least 1; got {slack}, {min_width}, {multiple_of}."
        )
    _check(spectra, depth)
    dims = {own.path: int(significant_dims(own.eigenvalues, tau=tau, rule=rule)) for own in spectra}
    profile = [int(significant_dims(own.eigenvalues, tau=DEPTH_TAU, rule=rule)) for own in spectra]
    stays = depth_kept(profile, slack=slack) if depth else len(spectra)
    report = []
    for i, own in enumerate(spectra):
        most = max(dims[other.path] for other in spectra if other.group == own.group)
        width = min(own.width, -(-max(most, min_width) // multiple_of) * multiple_of)
        ratio = float(participation_ratio(own.eigenvalues))
        report.append(LayerReport(own.path, own.width, dims[own.path], profile[i], ratio, width if i < stays else 0))
    keep = tuple(line.width > 0 for line in report)
    return Design(tuple(line.width for line in report if line.width), keep, tuple(report))


def depth_kept(dims: Sequence[int], *, slack: float | int = 0.05) -> int:
    """Number of layers before the first one that contracts, k_l < (1 - slack) k_{l-1}; all where none does.

    >>> depth_kept([10, 20, 20, 30]), depth_kept([10, 20, 30, 25, 8]), depth_kept([100, 98, 120])
    (4, 3, 3)
    """
    checks.check_number("slack", slack, 0, 1)
    falls = [i for i in range(1, len(dims)) if dims[i] < (1 - slack) * dims[i - 1]]
    return falls[0] if falls else len(dims)


def uniform_widths(
    widths: Sequence[int], cost: Callable[[tuple[int, ...]], float | int], *, target: float | int
) -> tuple[int, ...]:
    """One factor in (0, 1] on all widths, each rounded and at least 1: the nearest to a target cost.

    Args:
      widths: of the full network.
      cost: of widths, such as multiply-accumulates; never falls when a width grows.
      target: cost to come near; above that of the full network, the full widths are the nearest.

    >>> uniform_widths((8, 4), sum, target=6)
    (4, 2)
    """
    checks.check_number("target", target)
    edges = sorted({(k + 0.5) / width for width in widths for k in range(width)} | {1.0})
    tried = {tuple(max(1, int(factor * width + 0.5 + 1e-9)) for width in widths) for factor in (1e-9, *edges)}
    return min(sorted(tried), key=lambda one: (abs(cost(one) - target), one))


def chain_macs(table: capture.Layers, widths: Sequence[int]) -> int:
    """Multiply-accumulates of a chain of layers with other widths; each layer reads all of the one before.

    Args:
      table: of the full network, with one image; the last layer is the classifier, whose outputs stay.
      widths: of all layers but the last.

    Raises:
      ValueError: not one width for each layer but the last.
    """
    if len(widths) != len(table) - 1:
        raise ValueError(f"{len(table) - 1} layers come before the classifier; got {len(widths)} widths.")
    total, before, full = 0, 1, 1
    for layer, width in zip(table.values(), [*widths, None], strict=True):
        own = layer.d_out if width is None else width
        total += layer.rows * layer.d_in * before // full * own
        before, full = own, layer.d_out
    return total


def check_rows(spectra: Sequence[LayerSpectrum]) -> None:
    """Refuse spectra of fewer rows than filters; warn of fewer than 100 rows a filter.

    Raises:
      ValueError: names the layer and the images that it takes.

    Warns:
      UserWarning: names the layers and the images that are missing.
    """

    def images(own: LayerSpectrum, rows: int) -> int:
        return int(np.ceil(rows * own.images / own.rows))

    for own in spectra:
        if own.rows < own.width:
            raise ValueError(
                f"{own.path!r}: {own.rows} rows cannot count {own.width} filters: measure at least "
                f"{images(own, own.width)} images, better {images(own, ROWS * own.width)}."
            )
    if thin := [own for own in spectra if own.rows < ROWS * own.width]:
        need, names = max(images(own, ROWS * own.width) for own in thin), ", ".join(own.path for own in thin)
        warnings.warn(
            f"{names}: fewer than {ROWS} rows a filter; measure {need} images, {need - thin[0].images} more.",
            stacklevel=4,
        )


def _check(spectra: Sequence[LayerSpectrum], depth: bool) -> None:
    """Refuse spectra of which no width can be read; warn of thin ones."""
    check_rows(spectra)
    for own in spectra:
        if not own.eigenvalues.any():
            raise ValueError(f"{own.path!r} gives the same for every row: it is dead; train the network again.")
        if own.group == INPUT:
            raise ValueError(f"{own.path!r} meets the network's input or output, whose channels are given.")
        if depth and any(other.group == own.group for other in spectra if other.path != own.path):
            raise ValueError(f"{own.path!r} is joined with other layers: no layer can go; set depth=False.")
