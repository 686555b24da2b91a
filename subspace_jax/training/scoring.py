"""Score every sample of a data set, in batches over devices and processes; scores depend on neither, nor on order."""

import itertools
import pathlib
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import checks, closures, meshes, metrics, moments, processes
from subspace_jax.core.keys import as_key, sample_keys
from subspace_jax.training.partial import Partial, check_sum
from subspace_jax.training.progress import track
from subspace_jax.typing import ApplyFn, Array, Float, Key, PyTree, Variables

KERNEL = 64  # rows per call on a CPU, fixed because its matrix kernels, and so the last bits, depend on their number
INTERACTION = 1e-3  # relative change of one sample's score between two batches; rounding stays below 1e-5


@checks.on_host
def score_dataset(
    key: Key[Array, ""],
    fn: Callable,
    variables: Variables,
    arrays: tuple[Any, ...],
    *,
    index: Any | None = None,
    batch: int = 512,
    devices: list | None = None,
    label: str = "scoring",
    folder: str | pathlib.Path | None = None,
) -> PyTree:
    """Run fn(keys, variables, *arrays) over a whole data set and put the results together in order.

    Padding of the last batch is dropped, and every key is folded with the sample index, so that a score does not depend
    on `batch`, order, padding or devices, up to rounding. On one CPU device it is bit for bit the same for every
    `batch` of at least 64, because each call then scores 64 samples.

    Several processes share the batches, and each of them gets all results: every process must call this, with the same
    arguments, and reads only its own rows of the arrays. Inside a part that one process runs alone, give its `devices`.

    Args:
      key: base of the sample keys.
      fn: scores a batch: keys (b,), variables, arrays (b, ...) -> a pytree of arrays (b, ...). Each new
        function object is compiled again, as is one whose closure has changed: define it outside of loops.
      variables: what fn takes; copied to every device.
      arrays: host or device arrays, or pytrees of them, of equal length n, usually (x, y). What has a length and
        gives the rows of an index array will do, such as `numpy.memmap` or `data.mapped`: only a batch is read.
      index: sample indices (n,) that keys are folded with; 0..n-1 when None.
      batch: samples per call over all devices, rounded up to a multiple of their number; at most 64 per CPU device.
      devices: this process's own, on which it computes everything, without the others; when None all of all processes.
      label: name beside the progress bar.
      folder: where results are kept while they are made, so that a pass that was stopped goes on; fn and arrays are not
        compared.

    Returns:
      The pytree of fn with leading axis n, on the first device; inside `jax.set_mesh` on all devices of that mesh.

    Raises:
      ValueError: no samples, arrays of different lengths, batch < 1, a folder of another pass.
    """
    key, fn, arrays = as_key(key), closures.current(fn), meshes.moved(processes.here(arrays))
    lengths = [len(leaf) for leaf in jax.tree.leaves(arrays)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"arrays must have one length of at least 1; got {lengths}.")
    if batch < 1 or batch % 1:
        raise ValueError(f"batch, samples per call, must be at least 1; got {batch}: a whole number, 512 is usual.")
    count = lengths[0]
    index = np.arange(count) if index is None else np.asarray(index)
    mesh = Mesh(np.array(devices or jax.local_devices()), ("samples",))
    most = KERNEL * mesh.size
    # elsewhere than on a CPU two batches where possible: see the warning below
    least = 2 if devices else max(2, jax.process_count())
    batch = min(batch, most if mesh.devices.flat[0].platform == "cpu" else max(count // least + 1, most))
    batch = -(-batch // mesh.size) * mesh.size
    over = NamedSharding(mesh, PartitionSpec("samples"))
    variables = jax.device_put(processes.here(variables), NamedSharding(mesh, PartitionSpec()))
    saved = _partial(folder, fn, key, variables, arrays, index, batch) if folder else None

    numbers = np.arange(count // batch + 1) if devices else processes.part(count // batch + 1)
    starts = np.unique(numbers) * batch  # a share that is too short ends in rows that nobody reads

    def results() -> Iterator[PyTree]:
        for start in track(starts.tolist(), label=label, total=len(starts), samples=batch):
            if saved and start in saved.kept:
                yield saved.kept[start]
                continue
            rows = np.arange(start, start + batch) * (np.arange(start, start + batch) < count)  # padding is sample 0
            taken = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (index, *arrays))
            with meshes.within(mesh):
                part = _call(fn, mesh, key, variables, *jax.device_put(taken, over))
            yield part
            if saved:
                saved.put(start, part)

    try:
        whole = _joined(results(), len(numbers) * batch)
    finally:
        if saved:
            saved.write()
    if not devices:
        whole = jax.tree.map(processes.gathered, whole)
    _warn_if_samples_interact(*jax.tree.leaves(whole)[0][[0, count]])
    return jax.device_put(jax.tree.map(lambda leaf: leaf[:count], whole), meshes.home(mesh))


def _joined(results: Iterator[PyTree], rows: int) -> PyTree:
    """The results of all batches on the host; behind them those of sample 0, scored again as padding.

    Taken one by one: many small arrays on a device, each beside a freed batch, would scatter its memory.
    """
    whole, start = None, 0
    for part in _one_ahead(results):  # so the queue is short and the progress bar right
        found = jax.tree.map(np.asarray, part)
        if whole is None:
            whole = jax.tree.map(lambda leaf: np.empty((rows, *leaf.shape[1:]), leaf.dtype), found)
        size = len(jax.tree.leaves(found)[0])
        for to, values in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
            to[start : start + size] = values
        start += size
    return whole


def _one_ahead(results: Iterator[Any]) -> Iterator[Any]:
    """Each result when the next one has been asked for: the device computes one while the host takes the other."""
    for before, _ in itertools.pairwise(itertools.chain(results, (None,))):
        yield before


def _partial(
    folder: str | pathlib.Path, fn: Callable, key: Key[Array, ""], variables: Variables, arrays: Any, index: np.ndarray,
    batch: int,
) -> Partial:  # fmt: skip
    """What was kept of this pass; the arrays themselves are not read for it."""
    one = jax.tree.map(lambda leaf: leaf[np.zeros(1, int)], (index, *arrays))
    structure = jax.tree.structure(jax.eval_shape(lambda i, *a: fn(sample_keys(key, i), variables, *a), *one))
    sums = {"key": check_sum(key), "variables": check_sum(variables), "index": check_sum(index), "batch": batch}
    return Partial(folder, structure, sums)


def _warn_if_samples_interact(first: Any, again: Any) -> None:
    """Warn if sample 0, scored in the first and the last batch, has two scores: samples of a batch then interact."""
    before, after = moments.wide(first), moments.wide(again)
    change = np.abs(after - before).max(initial=0) / max(np.abs(before).max(initial=0), 1e-30)
    if change > INTERACTION:
        warnings.warn(
            f"the score of sample 0 changes by {change:.0%} with the batch it is in: samples interact (BatchNorm in "
            "train mode?), so the Hessian is not block diagonal; score in inference mode.",
            stacklevel=3,
        )


@partial(jax.jit, static_argnums=(0, 1))
def _call(fn: Callable, mesh: Mesh, key: Key[Array, ""], variables: Variables, index: Any, *arrays: Any) -> PyTree:
    def local(key, variables, index, *arrays):
        return fn(sample_keys(key, index), variables, *arrays)

    copied, over = PartitionSpec(), PartitionSpec("samples")
    specs = {"in_specs": (copied, copied, over, *(over for _ in arrays)), "out_specs": over}
    return jax.shard_map(local, mesh=mesh, check_vma=False, **specs)(key, variables, index, *arrays)


@checks.on_host
def predict(apply: ApplyFn, variables: Variables, x: Any, *, batch: int = 1024) -> Float[Array, "n ..."]:
    """The network's outputs on a whole data set, in inference mode: (n, classes) logits."""
    return score_dataset(jax.random.key(0), _forward(apply), variables, (x,), batch=batch, label="predicting")


@checks.on_host
def evaluate(apply: ApplyFn, variables: Variables, x: Any, y: Any, *, batch: int = 1024) -> Float[Array, ""]:
    """Accuracy on a whole data set, in inference mode."""
    return metrics.accuracy(predict(apply, variables, x, batch=batch), y)


@lru_cache(maxsize=64)  # one function object, and so one compilation, per network
def _forward(apply: ApplyFn) -> Callable:
    return lambda keys, variables, x: apply(variables, x)
