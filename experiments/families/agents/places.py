"""Where the agents of an experiment run: on devices of this process, or in several processes, see `harness.launch`."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

from experiments.harness import launch
from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm

FREE = *launch.PLACES, "save_every"  # flags that change no recipe


@dataclasses.dataclass(frozen=True)
class Config(launch.Config):
    """Flags of every experiment whose agents can run on several devices."""

    agents: int = 10
    """Number of agents; a multiple of devices x processes."""
    runner: Literal["vmap", "pmap", "shard_map", "processes"] = "vmap"
    """vmap: all agents on one device; pmap: one each; shard_map: equally many each; processes: see --processes."""
    devices: int = 0
    """Devices per process, simulated on a CPU; 0: all that divide --agents, on a CPU one per agent or process."""

    def check(self) -> None:
        """Refuse what cannot run, without touching a device.

        Raises:
          ValueError: names the flags and the remedy.
        """
        super().check()
        count = launch.started(self)
        if launch.several(self) and self.runner in ("pmap", "shard_map"):
            raise ValueError(f"--processes has a runner of its own; leave --runner {self.runner} away.")
        if self.runner == "processes" and not launch.several(self):
            raise ValueError(
                "--runner processes needs --processes: 2 starts two of them here, auto joins a cluster's job."
            )
        if self.devices < 0 or self.agents < 1:
            raise ValueError(f"--agents is at least 1, --devices at least 0; got {self.agents} and {self.devices}.")
        alone = count or (self.runner == "vmap" and not launch.several(self))
        if alone and self.devices > 1:
            raise ValueError(
                f"vmap and each of --processes has one device; got --devices {self.devices}: use shard_map."
            )
        places = (self.devices or 1) * (count or 1)
        if self.agents % places:
            fitting = ", ".join(str(d) for d in range(1, self.agents + 1) if self.agents % d == 0)
            raise ValueError(
                f"agents must be a multiple of devices x processes; got {self.agents} agents on "
                f"{self.devices or 1} x {count or 1}: {self.agents} is divided by {fitting}."
            )

    def cpu_devices(self) -> int:
        """Into how many devices a CPU is divided, in each process."""
        if launch.several(self):
            return self.devices or 1
        return 1 if self.runner == "vmap" else self.devices or self.agents

    def holds(self, rank: int) -> str:
        """Which agents a process has."""
        block = self.agents // launch.started(self)
        return f"agents {rank * block}-{(rank + 1) * block - 1}" if block > 1 else f"agent {rank}"


def exchange_of(config: Config, agents: int) -> tuple[Comm, Callable]:
    """(Comm, runner) of a method; agents in another number than --agents all run on one device, in every process alike.

    Raises:
      ValueError: agents that cannot be spread equally over the devices there are.
    """
    if agents != config.agents or (config.runner == "vmap" and not launch.several(config)):
        return exchange.spread(agents, 1), exchange.vmap
    if launch.several(config):
        return exchange.spread(agents, jax.device_count()), exchange.shard_map
    fitting = max(d for d in range(1, min(agents, jax.device_count()) + 1) if agents % d == 0)
    return exchange.spread(agents, config.devices or fitting), exchange.RUNNERS[config.runner]
