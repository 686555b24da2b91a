"""How agents communicate, along a permutation or by a mean, and the runners that place them on devices.

A per-agent function refers to its own agent and to `Comm`, never to devices. `vmap` runs all agents on one device,
`pmap` one agent per device, `shard_map` equally many agents per device, also over the devices of several processes. All
give the same numbers, up to the rounding of batched products.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import meshes
from subspace_jax.core.compress import nbytes
from subspace_jax.typing import Array, Int, PyTree

AGENTS = "agents"  # the axis of all agents, where a device has one of them or all
DEVICE, LOCAL = "dev", "loc"  # the two axes where a device has a block of agents: agent = dev * block + loc


@dataclasses.dataclass(frozen=True)
class Comm:
    """Communication between one agent and the others; the same program runs on any placement on devices.

    Attributes:
      agents: how many there are.
      devices: over how many devices they are spread, equally many on each; 1 for `vmap`.
    """

    agents: int
    devices: int = 1

    @property
    def block(self) -> int:
        """Agents per device."""
        return self.agents // self.devices

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the mapped axes that number the agents."""
        return (AGENTS,) if self.block in (1, self.agents) else (DEVICE, LOCAL)

    def index(self) -> Int[Array, ""]:
        """The number of this agent."""
        if self.axes == (AGENTS,):
            return jax.lax.axis_index(AGENTS)
        return jax.lax.axis_index(DEVICE) * self.block + jax.lax.axis_index(LOCAL)

    def permute(self, tree: PyTree, source: Sequence[int]) -> PyTree:
        """The tree of agent source[i], at agent i; `source` is a permutation of all agents.

        Agents that share a device exchange in its memory; only rows that another device needs are sent to it. Between
        devices all arrays of one type travel as one message, since each message waits for the one before.
        """
        if self.axes == (AGENTS,):
            pairs = [(sender, receiver) for receiver, sender in enumerate(source)]
            move = lambda leaf: jax.lax.ppermute(leaf, AGENTS, pairs)  # noqa: E731
        else:
            move = _blocks(self, tuple(source))
        return jax.tree.map(move, tree) if self.devices == 1 else _packed(move, tree)

    def mean(self, tree: PyTree) -> PyTree:
        """The mean over all agents, at every agent."""
        return jax.lax.pmean(tree, self.axes)

    def bytes(self, tree: PyTree, source: Sequence[int]) -> Array:
        """Bytes that this agent sends in `permute(tree, source)`, uint32: those of the whole tree, 0 to itself."""
        sends = np.asarray(source) != np.arange(self.agents)
        return jnp.where(jnp.asarray(sends)[self.index()], np.uint32(nbytes(tree)), np.uint32(0))


def _packed(move: Callable[[Array], Array], tree: PyTree) -> PyTree:
    """`move` of each array of a tree, called once for all arrays of one type, end to end."""
    leaves, structure = jax.tree.flatten(tree)
    kinds: dict[Any, list[int]] = {}
    for k, leaf in enumerate(leaves):
        kinds.setdefault(leaf.dtype, []).append(k)
    for places in kinds.values():
        own = [leaves[k] for k in places]
        ends = np.cumsum([leaf.size for leaf in own])[:-1]
        moved = jnp.split(move(jnp.concatenate([leaf.ravel() for leaf in own])), ends)
        for k, leaf, part in zip(places, own, moved, strict=True):
            leaves[k] = part.reshape(leaf.shape)
    return jax.tree.unflatten(structure, leaves)


def _blocks(comm: Comm, source: tuple[int, ...]) -> Callable[[Array], Array]:
    """`permute` of an array where a device has a block of agents: one transfer of rows per distance of devices."""
    sender, row = np.divmod(np.array(source), comm.block)
    receiver = np.arange(comm.agents) // comm.block
    distance = (sender - receiver) % comm.devices
    routes, pick, width = [], np.zeros(comm.agents, int), 0
    for far in np.unique(distance):
        wanted = [np.unique(row[(distance == far) & (receiver == d)]) for d in range(comm.devices)]
        rows = np.zeros((comm.devices, max(map(len, wanted))), int)  # per sending device, padded with row 0
        for d, needed in enumerate(wanted):
            rows[(d + far) % comm.devices, : len(needed)] = needed
        for i in np.flatnonzero(distance == far):
            pick[i] = width + int(np.searchsorted(wanted[receiver[i]], row[i]))
        pairs = [((d + far) % comm.devices, d) for d, needed in enumerate(wanted) if len(needed)]
        routes.append((far, rows, pairs))
        width += rows.shape[1]
    here, place = jax.lax.axis_index(DEVICE), jnp.asarray(pick)[comm.index()]

    def exchange(leaf):
        block = jax.lax.all_gather(leaf, LOCAL)
        found = []
        for far, rows, pairs in routes:
            going = block[jnp.asarray(rows)[here]]
            found.append(jax.lax.ppermute(going, DEVICE, pairs) if far else going)
        return jnp.concatenate(found)[place]

    return exchange


def vmap(fn: Callable, comm: Comm, *, shared: Sequence[int] = ()) -> Callable:
    """A per-agent function over stacked arguments (agents, ...), all agents on one device.

    Args:
      fn: fn(*arguments of one agent) -> pytree, exchanging through `comm`.
      comm: how many agents.
      shared: positions of arguments that are the same for all agents and have no agent axis.

    Raises:
      ValueError: agents that are spread over several devices.
    """
    if comm.devices != 1:
        raise ValueError(f"vmap runs all agents on one device; got {comm.devices} devices: use shard_map.")
    return lambda *args: jax.vmap(fn, _axes(len(args), shared), axis_name=AGENTS)(*args)


def pmap(fn: Callable, comm: Comm, *, shared: Sequence[int] = ()) -> Callable:
    """As `vmap` with one agent per device; it needs no `jit`.

    Raises:
      ValueError: `comm` has not one device per agent, or there are more agents than local devices.
    """
    if comm.block != 1 or comm.agents > jax.local_device_count():
        raise ValueError(
            f"pmap runs one agent a device; got {comm.agents} agents on {comm.devices} of "
            f"{jax.local_device_count()} devices: use shard_map, which takes several agents a device."
        )

    @lru_cache
    def compiled(count):
        return jax.pmap(fn, AGENTS, in_axes=_axes(count, shared))

    return lambda *args: compiled(len(args))(*args)


def shard_map(fn: Callable, comm: Comm, *, shared: Sequence[int] = ()) -> Callable:
    """As `vmap` with the agents spread over `comm.devices` devices, of one process or of several; wrap it in `jit`.

    Inside `jax.set_mesh` a program under `jit` runs on all devices of that mesh, so that `comm` spreads over as many;
    outside of `jit` over any number.
    """
    over, copied = PartitionSpec(_mesh_axis(comm)), PartitionSpec()

    def call(*args):
        specs = tuple(copied if k in shared else over for k in range(len(args)))
        axes = _axes(len(args), shared)

        def block(*parts):
            if comm.axes == (AGENTS,) and comm.block == 1:
                alone = [part if axis is None else _first(part) for part, axis in zip(parts, axes, strict=True)]
                return jax.tree.map(lambda leaf: leaf[None], fn(*alone))
            return jax.vmap(fn, axes, axis_name=comm.axes[-1])(*parts)

        args, own = meshes.moved(args), mesh(comm)
        with meshes.entered(own, args):
            return jax.shard_map(block, mesh=own, in_specs=specs, out_specs=over, check_vma=False)(*args)

    return call


RUNNERS = {"vmap": vmap, "pmap": pmap, "shard_map": shard_map}


def spread(agents: int, devices: int) -> Comm:
    """The Comm of agents over devices.

    Raises:
      ValueError: devices that do not divide the agents, or more than there are.
    """
    if agents < 1 or agents % devices:
        fitting = ", ".join(str(d) for d in range(1, agents + 1) if agents % d == 0)
        raise ValueError(
            f"{agents} agents cannot be spread equally over {devices} devices: take {fitting} of them, "
            f"or a multiple of {devices} agents."
        )
    if devices > jax.device_count():
        raise ValueError(f"{devices} devices were asked for; there are {jax.device_count()}.")
    return Comm(agents, devices)


def mesh(comm: Comm) -> Mesh:
    """The devices that the agents are spread over: the first ones in `jax.devices()`, which lists all processes'."""
    return Mesh(np.array(jax.devices()[: comm.devices]), (_mesh_axis(comm),))


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One tree of NumPy arrays (agents, ...) from one tree per agent.

    Raises:
      ValueError: no agent; an agent whose tree has another structure, shape or dtype than that of agent 0.
    """
    if not trees:
        raise ValueError("there is no agent to stack; give one tree an agent.")
    first, *rest = (jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree) for tree in trees)
    for agent, other in enumerate(rest, start=1):
        if other != first:
            raise ValueError(f"agent {agent} has another tree than agent 0: {other} instead of {first}.")
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def place(tree: PyTree, comm: Comm) -> PyTree:
    """Move stacked arrays (agents, ...), which every process holds in full, to the devices of their agents."""
    return _put(tree, comm, PartitionSpec(_mesh_axis(comm)))


def copies(tree: PyTree, comm: Comm) -> PyTree:
    """Move arrays that all agents share, which every process holds in full, to each of their devices."""
    return _put(tree, comm, PartitionSpec())


def fetch(tree: PyTree) -> PyTree:
    """NumPy arrays of all agents, on every process."""

    def gather(leaf):
        whole = leaf.is_fully_addressable
        return jax.device_get(leaf) if whole else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


def _put(tree: PyTree, comm: Comm, spec: PartitionSpec) -> PyTree:
    if comm.devices == 1:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh(comm), spec)

    def put(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf  # it is on the devices of all processes already
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: leaf[rows])

    return jax.tree.map(put, tree)


def _axes(count: int, shared: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(None if k in shared else 0 for k in range(count))


def _first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _mesh_axis(comm: Comm) -> str:
    return AGENTS if comm.block == 1 else DEVICE
