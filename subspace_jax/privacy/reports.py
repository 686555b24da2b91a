"""What was guaranteed of a run, segment by segment, as a checkpoint keeps it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from subspace_jax.core import checks
from subspace_jax.privacy.accounting import Accountant, Segment, total

NEIGHBOURING = "add_or_remove_one"
FEW = 8  # batches of one size in a row that chance does not give: Poisson batches vary by the root of their size


class PrivacyReport(NamedTuple):
    """What was guaranteed of a run: (epsilon, delta)-DP of all its parameters together, step by step."""

    epsilon: float
    delta: float
    segments: tuple[Segment, ...]
    accountant: Accountant = "pld"
    neighbouring: str = NEIGHBOURING


def report(
    segments: Sequence[Segment], *, delta: float, accountant: Accountant = "pld", samples: int | None = None,
    sizes: Sequence[int] | None = None,
) -> PrivacyReport:  # fmt: skip
    """The guarantee of a run.

    Args:
      segments: all its steps, from the first on.
      delta: chance of no guarantee.
      accountant: "pld" or "rdp".
      samples: in the data set; a delta above 1 / samples gets a warning.
      sizes: of the batches that were taken in the last segment, where they are known.

    Raises:
      ValueError: as `epsilon`; batches of one size that are called Poisson.
    """
    last = segments[-1] if segments else None
    if last and last.sampling == "poisson" and last.q < 1:
        _check_sizes(sizes)
    if samples:
        check_delta(delta, samples)
    segments = merged(segments)
    return PrivacyReport(total(segments, delta=delta, accountant=accountant), float(delta), segments, accountant)


def merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Neighbouring segments that differ only in their steps become one; empty ones go."""
    found: list[Segment] = []
    for segment in (s for s in segments if s.steps):
        if found and found[-1]._replace(steps=0) == segment._replace(steps=0):
            found[-1] = segment._replace(steps=found[-1].steps + segment.steps)
        else:
            found.append(segment)
    return tuple(found)


def check_delta(delta: float, samples: int) -> None:
    """Warn of a delta above 1 / samples: publishing one random sample whole would keep it.

    Raises:
      ValueError: delta outside (0, 1), no sample.
    """
    checks.check_count("the number of samples", samples)
    if not 0 < delta < 1:
        raise ValueError(f"delta is the chance of no guarantee, in (0, 1); got {delta}.")
    if delta > 1 / samples:
        warnings.warn(
            f"delta should be below 1/N = {1 / samples:.2g}; got {delta:g}: publishing a random sample would pass.",
            stacklevel=3,
        )


def to_json(found: PrivacyReport) -> dict[str, Any]:
    """The report as a checkpoint's config takes it: plain JSON, null where a number is infinite."""
    plain = found._asdict() | {"segments": [segment._asdict() for segment in found.segments]}
    plain["segments"] = [{k: _finite(v) for k, v in segment.items()} for segment in plain["segments"]]
    return plain | {"epsilon": _finite(found.epsilon)}


def from_json(saved: dict[str, Any]) -> PrivacyReport:
    """What `to_json` gave."""

    def whole(part: dict[str, Any]) -> dict[str, Any]:
        return {name: math.inf if value is None else value for name, value in part.items()}

    return PrivacyReport(**whole(saved) | {"segments": tuple(Segment(**whole(s)) for s in saved["segments"])})


def _finite(value: Any) -> Any:
    return None if value == math.inf else value


def _check_sizes(sizes: Sequence[int] | None) -> None:
    if sizes is not None and len(sizes) >= FEW and len(set(sizes)) == 1:
        raise ValueError(
            f"{len(sizes)} batches of exactly {sizes[0]} samples are no Poisson batches: draw them by "
            'sampling.poisson_sets, or account them with sampling="fixed", which gives no credit for sampling.'
        )
