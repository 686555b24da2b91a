"""Save the complete state of a run asynchronously, and restore it bit for bit."""

import importlib.metadata
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from subspace_jax.checkpoint.folder import Manager, manager, whole
from subspace_jax.checkpoint.reading import check_arrays, check_kept, read
from subspace_jax.checkpoint.sums import with_sums
from subspace_jax.core import keys, processes
from subspace_jax.training import Hook, TrainState, fit, initial_carries, variables
from subspace_jax.typing import PyTree

NOTHING = -1  # epochs, where none was saved
LIBRARIES = ("subspace_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of the libraries a result depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found


def save(
    to: Manager,
    epoch: int,
    state: TrainState,
    *,
    config: dict[str, Any],
    carries: PyTree = None,
    metrics: dict[str, float] | None = None,
) -> None:
    """Write one checkpoint asynchronously; the previous one stays intact until this one is complete.

    Several processes must call this together; arrays that each holds in full are written by the first.

    Raises:
      ValueError: parameters, state or carries with leaves that are not arrays.
      NotSavedError: a full disk or a folder that cannot be written; possibly raised by a later call, since this one
        returns before everything is written.
    """
    trees = {"variables": _saved(variables(state)), "state": _saved(_rest(state, carries))}
    whole = with_sums(config | {"epoch": epoch, "versions": versions()}, trees)
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()} | {"config": ocp.args.JsonSave(whole)}
    to.save(epoch, args=ocp.args.Composite(**items), metrics=metrics, force=True)


def restore(
    source: Manager, state: TrainState, carries: PyTree = None, *, epoch: int | None = None
) -> tuple[int, TrainState, PyTree] | None:
    """(epochs done, state, carries) of the latest checkpoint, or None where there is none.

    Args:
      source: from `manager`.
      state: the initial state of the same run; only its shapes are used.
      carries: the carries of the same run before its first epoch; only their shapes are used.
      epoch: which checkpoint; the latest complete one when None.

    Raises:
      ValueError: an epoch that was not kept, damaged files, or a state of other shapes than the saved one.
    """
    source.wait_until_finished()  # what has just been saved counts
    directory = pathlib.Path(source.directory)
    if epoch is None:
        latest = processes.told(max(whole(directory), default=NOTHING))  # another process may not see it yet
        if latest == NOTHING:
            return None
        epoch = latest
    check_kept(directory, epoch)
    found = {
        item: jax.tree.map(_like, tree, read(source, epoch, item, _template(tree), way_out=_move_away))
        for item, tree in (("variables", variables(state)), ("state", _rest(state, carries)))
    }
    restored = TrainState(**found["variables"], **{k: found["state"][k] for k in ("step", "opt_state", "key")})
    return epoch, restored, found["state"]["carries"]


def latest_config(source: Manager) -> dict[str, Any] | None:
    """The config of the latest checkpoint, or None where there is none.

    Raises:
      ValueError: damaged files.
    """
    kept = whole(pathlib.Path(source.directory))
    return read(source, kept[-1], "config", None, way_out=_move_away) if kept else None


def _move_away(damaged: int, newest: int | None) -> str:
    start = "" if newest is not None else ", which starts this part anew"
    return f"move the folder {damaged} away and continue with --resume{start}"


def _rest(state: TrainState, carries: PyTree) -> dict[str, PyTree]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key, "carries": carries or {}}


def _like(wanted: Any, found: Any) -> Any:
    """What was read as the array or key it is to be: several processes read NumPy, and of keys the numbers alone."""
    if keys.is_key(wanted) and not keys.is_key(found):
        impl = jax.random.key_impl(wanted) if isinstance(wanted, jax.Array) else None
        return jax.random.wrap_key_data(jax.numpy.asarray(found), impl=impl)
    return jax.numpy.asarray(found) if isinstance(wanted, jax.Array) and isinstance(found, np.ndarray) else found


def _template(tree: PyTree) -> PyTree:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, _saved(tree))


def _saved(tree: PyTree) -> PyTree:
    check_arrays(tree, "parameters and state")
    return _on_host(tree)


def _on_host(tree: PyTree) -> PyTree:
    """With several processes, arrays that each has in full as NumPy (keys as key data): Orbax refuses local ones."""
    if jax.process_count() == 1:
        return tree

    def host(leaf):
        if not isinstance(leaf, jax.Array) or not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return leaf
        return keys.on_host(leaf)

    return jax.tree.map(host, tree)


def resumable_fit(
    directory: str | pathlib.Path,
    epoch_fn: Callable,
    state: TrainState,
    data: tuple[Any, Any],
    *,
    epochs: int,
    config: dict[str, Any],
    hooks: dict[str, Hook] | None = None,
    save_every: int = 10,
    keep_every: int | None = None,
    label: str = "training",
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, PyTree]]:
    """`training.fit` from the latest checkpoint in `directory`, saving every `save_every` epochs and the last.

    Killed at any moment and called again, it returns the same final state and carries, bit for bit on the same devices;
    it may go on over another `mesh`, see `fit`, or without one.
    Ctrl-C saves the last finished epoch (not with several processes, which save together).
    """
    start, carries = 0, None
    unsaved: list[tuple[int, TrainState, dict[str, PyTree]]] = []
    with manager(directory, keep_every=keep_every) as to:
        if found := restore(to, state, initial_carries(hooks or {}, epochs)):
            start, state, carries = found

        def after_epoch(done, state, carries):
            unsaved[:] = [(done, state, dict(carries))]
            if done % save_every == 0 or done == epochs:
                unsaved.clear()
                save(to, done, state, config=config, carries=carries)

        try:
            return fit(
                epoch_fn, state, data, epochs=epochs, start=start, hooks=hooks, carries=carries,
                after_epoch=after_epoch, label=label, mesh=mesh,
            )  # fmt: skip
        except KeyboardInterrupt:
            if unsaved and jax.process_count() == 1:
                done, state, carries = unsaved[0]
                save(to, done, state, config=config, carries=carries)
            raise
