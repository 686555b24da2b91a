"""The bits of every network that is trained: binary, hybrids, other layers in their bits, uniform, full."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from subspace_jax.compression import hybrid_net
from subspace_jax.core.costs import FULL_BITS

if TYPE_CHECKING:
    from experiments.mixed_precision.experiment import Config

CONTROLS = "first", "last", "random"
Plan = tuple[int, ...]  # bits of each convolution


def plans(config: Config, counts: Mapping[str, int], seed: int) -> dict[str, Plan]:
    """{network: bits}; counts are those of the trained binary network, without its first convolution."""
    found = {"xnor": uniform(counts, 1)}
    for bits in config.bits:
        found[f"hybrid_{bits}"] = hybrid_net.bit_plan(counts, delta=config.delta, bits=bits)
    most = max(config.bits)
    significant = [i for i, bits in enumerate(found[f"hybrid_{most}"]) if 1 < bits < FULL_BITS]
    for control in config.controls:
        chosen = others(control, len(counts), significant, seed)
        found[f"{control}_{most}"] = tuple(most if i in chosen else own for i, own in enumerate(found["xnor"]))
    least = min(config.bits)
    return found | {f"all_{least}": uniform(counts, least), "full": uniform(counts, FULL_BITS)}


def uniform(layers: Collection, bits: int) -> Plan:
    """The same bits in every convolution but the first."""
    return (FULL_BITS, *(bits for _ in layers))


def others(control: str, layers: int, significant: list[int], seed: int) -> list[int]:
    """As many binary convolutions as are significant: the first, the last, or some that are not, drawn by the seed."""
    few = len(significant)
    if control == "first":
        return list(range(1, 1 + few))
    if control == "last":
        return list(range(1 + layers - few, 1 + layers))
    rest = [i for i in range(1, 1 + layers) if i not in significant]
    return np.random.default_rng(seed).choice(rest, min(few, len(rest)), replace=False).tolist() if rest else []
