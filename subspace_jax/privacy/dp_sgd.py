"""DP-SGD: training after which nobody can tell whether a sample was there (Abadi et al. 2016, arXiv 1607.00133).

Per step: draw a Poisson batch, clip each sample's gradient to the norm C, sum, add noise N(0, (sigma C)^2) to every
entry, divide by the EXPECTED batch B, hand it to any optimiser.

Guarantees
  - (epsilon, delta)-differential privacy of all parameters after all steps together, for data sets that differ by one
    sample added or removed; `accounting` says epsilon.
  - It holds for what `fit` does: Poisson sampling with q = B / samples; a sum that is clipped over all parameters
    together; noise once a step, independent between steps and entries; B, not the number drawn, as divisor.
  - What follows the noise costs nothing: momentum, Adam, schedules, averages of weights, weight decay.
  - No set is cut: one larger than max_batch is an error, so that nothing was truncated in silence.
  - The key is a secret: whoever knows it takes the noise off again. For a network that is released, draw it by
    jax.random.wrap_key_data(np.frombuffer(os.urandom(8), np.uint32)), and hand out the variables alone: the `state` of
    a checkpoint holds the key.
  - Not covered: metrics (loss, norms, clip fraction, batch sizes), the choice of hyper-parameters by looking at
    results, means and deviations of the data with which inputs are scaled, test figures of the same people.
  - Floating point: noise and sums are float32 (float64 under x64). Attacks on the rounding of Gaussian samples, the
    pseudo-random numbers of JAX and NumPy and a last-digit excess of a clipped norm (1e-6) are out of scope.

Edge cases
  | case | what happens |
  |---|---|
  | a step without samples | pure noise, no NaN |
  | NaN or infinity in a gradient | the entries count as 0, the rest is clipped |
  | a zero gradient | stays zero |
  | clip = inf | needs sigma = 0; ordinary training on Poisson batches, epsilon infinite |
  | sigma = 0 | clipping alone, no noise whatever clip is, epsilon infinite |
  | resumed with another sigma, q or clip | both segments are accounted |
  | resumed after a kill | bit for bit the same run, accounted once |
  | BatchNorm | refused, naming the layers |
"""

import contextlib
import pathlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import checkpoint, trees
from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.privacy import accounting, reports
from subspace_jax.privacy.accounting import Accountant, Segment
from subspace_jax.privacy.clipping import ClipMetrics, check_network, clipped_sum, of_params
from subspace_jax.privacy.noise import check_noise, gaussian_noise
from subspace_jax.privacy.reports import PrivacyReport
from subspace_jax.privacy.sampling import poisson_sets
from subspace_jax.training import TrainState
from subspace_jax.training.fit import likes_scan
from subspace_jax.training.progress import track
from subspace_jax.typing import Array, Key, LossFn, PyTree, Variables

NOISE_KEY, SAMPLE_KEY = range(2)  # folded into the key of a run


class Fitted(NamedTuple):
    """A trained network, what it cost, and one entry a step of every metric (NOT private)."""

    variables: Variables
    report: PrivacyReport
    history: dict[str, np.ndarray]


def fit(
    key: Key[Array, ""],
    loss: LossFn,
    tx: optax.GradientTransformation,
    variables: Variables,
    data: tuple[Any, Any],
    *,
    sigma: float,
    clip: float = 1.0,
    batch: float | int,
    steps: int,
    delta: float,
    accountant: Accountant = "pld",
    max_epsilon: float | None = None,
    microbatch: int | None = None,
    max_batch: int | None = None,
    directory: str | pathlib.Path | None = None,
    config: dict[str, Any] | None = None,
    every: int = 50,
    label: str = "private training",
) -> Fitted:
    """Train with DP-SGD, saved as it goes, and say what it cost.

    With a `directory` an interrupted run, called again with the same arguments, ends with the same numbers. Called with
    more steps or another sigma, batch or clip it goes on from its last checkpoint, and all segments are accounted.

    Args:
      key: of the batches and the noise; never released.
      loss: (variables, x, y) -> one loss a sample, such as `losses.cross_entropy(model.apply)`; in inference mode.
      tx: what follows the noise, any optax chain; the same object for all runs that should share a program.
      variables: {"params": ..., "batch_stats": {}} to start from, not learned from the data.
      data: (x, y), each an array or a tree of arrays.
      sigma: noise multiplier, from `accounting.noise_multiplier_for`; 0 for none.
      clip: norm to which every sample's gradient is clipped.
      batch: EXPECTED samples per step, at most all; q = batch / samples.
      steps: in all, those before a resumption included.
      delta: chance of no guarantee; below 1 / samples.
      accountant: "pld" or "rdp".
      max_epsilon: stop before the step that would spend more.
      microbatch: see `clipping.clipped_sum`.
      max_batch: see `sampling.poisson_sets`.
      directory: of the checkpoints; nothing is saved when None.
      config: what the checkpoint says of the network; "privacy" is added, the report.
      every: steps between two checkpoints and two looks at the progress bar.
      label: name beside the progress bar.

    Raises:
      ValueError: BatchNorm; numbers outside their ranges; data that are not finite; a budget that allows no step; no
        dp-accounting.
    """
    key = as_key(key)
    check_network(variables)
    samples = _check_run(data, batch=batch, steps=steps, every=every)
    check_noise(sigma, clip)
    reports.check_delta(delta, samples)
    spend = partial(accounting.total, delta=delta, accountant=accountant)
    now = Segment(batch / samples, float(sigma), steps, float(clip))
    _check_step(loss, variables["params"], data, now, spend, max_epsilon, microbatch)
    numbers = {"sigma": float(sigma), "clip": float(clip), "expected_batch": float(batch)}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(checkpoint.manager(directory)) if directory else None
        state, history, spent = _resumed(folder, _fresh(key, tx, variables["params"], numbers))
        done = int(state.step)
        more = _allowed(max_epsilon, spent, now._replace(steps=max(0, steps - done)), delta, accountant)
        sets = _sets(state.key, samples, now.q, steps, done, more, max_batch)
        program = _program(of_params(loss), tx, microbatch, likes_scan(state.params))
        data, stops = jax.device_put(data), [*range(done + every, done + more, every), done + more] if more else []
        cost = [spend(spent)]
        say = {"label": lambda: f"{label}, epsilon {cost[-1]:.3g}", "samples": int(batch * more) // max(1, len(stops))}
        for stop in track(stops, total=len(stops), **say):
            state, metrics = program(state, *data, *(rows[done:stop] for rows in sets), numbers)
            history = jax.tree.map(lambda a, b: np.concatenate([a, b]), history, metrics._asdict())
            spent, done = reports.merged((*spent, now._replace(steps=stop - done))), stop
            cost.append(spend(spent))
            if folder:
                said = reports.to_json(PrivacyReport(cost[-1], delta, spent, accountant))
                checkpoint.save(folder, done, state, config=(config or {}) | {"privacy": said}, carries=history)
    found = reports.report(spent, delta=delta, accountant=accountant)
    return Fitted({"params": state.params, "batch_stats": {}}, found, history)


def _fresh(key: Key[Array, ""], tx: optax.GradientTransformation, params: PyTree, numbers: dict[str, float]):
    noise = gaussian_noise(jax.random.fold_in(key, NOISE_KEY), **numbers)
    return TrainState(jnp.int32(0), params, {}, (noise.init(params), tx.init(params)), key)


def _resumed(folder: Any, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray], tuple[Segment, ...]]:
    """State, history and segments as the last checkpoint has them, or of a run that begins."""
    saved = checkpoint.latest_config(folder) if folder else None
    if saved is None:
        return state, {name: np.zeros(0) for name in ClipMetrics._fields}, ()
    if "privacy" not in saved:
        raise ValueError(f"{folder.directory} holds a run without a privacy report: nothing is guaranteed of it.")
    spent = reports.from_json(saved["privacy"]).segments
    blank = {name: np.zeros(sum(segment.steps for segment in spent)) for name in ClipMetrics._fields}
    _, state, history = checkpoint.restore(folder, state, blank) or (0, state, blank)
    return state, {name: np.asarray(values) for name, values in history.items()}, spent


def _allowed(budget: float | None, spent: tuple[Segment, ...], more: Segment, delta: float, accountant: Any) -> int:
    """Of the steps to come, those within the budget."""
    if budget is None or not more.steps:
        return more.steps
    return accounting.steps_within(budget, spent, more, delta=delta, accountant=accountant)


def _sets(key: Key[Array, ""], samples: int, q: float, steps: int, done: int, more: int, max_batch: int | None):
    """The batches by number of the step; of one width for all steps, and so one program for what is resumed too."""
    if not more:
        return np.zeros((0, 1), np.int32), np.zeros((0, 1), bool)
    return poisson_sets(jax.random.fold_in(key, SAMPLE_KEY), samples, q=q, steps=steps, max_batch=max_batch)


@lru_cache(maxsize=64)  # the same network, optimiser and micro-batch are compiled once, for all noises and seeds
def _program(loss: Callable, tx: optax.GradientTransformation, microbatch: int | None, scan: bool) -> Callable:
    """(state, x, y, index, is_padding, numbers) -> (state, metrics): the steps of several sets."""

    def step(state: TrainState, x, y, index, is_padding, numbers):
        x, y = jax.tree.map(lambda leaf: leaf[index], (x, y))
        total, metrics = clipped_sum(loss, state.params, x, y, is_padding, clip=numbers["clip"], microbatch=microbatch)
        noise, rest = state.opt_state
        released, noise = gaussian_noise(noise.key, **numbers).update(total, noise)
        updates, rest = tx.update(released, rest, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, {}, (noise, rest), state.key), metrics

    @jax.jit
    def scanned(state, x, y, index, is_padding, numbers):
        return jax.lax.scan(lambda s, row: step(s, x, y, *row, numbers), state, (index, is_padding))

    one = jax.jit(step)

    def looped(state, x, y, index, is_padding, numbers):
        rows = []
        for row in zip(index, is_padding, strict=True):
            state, metrics = one(state, x, y, *row, numbers)
            rows.append(metrics)
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    return scanned if scan else looped


def _check_run(data: tuple[Any, Any], *, batch: float | int, steps: int, every: int) -> int:
    """The number of samples."""
    leaves = trees.flatten(dict(zip("xy", data, strict=True)))
    checks.check_lengths(**leaves)
    checks.check_finite("x", data[0])
    samples = len(next(iter(leaves.values())))
    if not 0 < batch <= samples:
        raise ValueError(f"batch, the expected samples of a step, is in (0, {samples}], the data; got {batch}.")
    if steps < 1 or every < 1:
        raise ValueError(f"steps and every are at least 1; got {steps} and {every}.")
    return samples


def _check_step(
    loss: LossFn, params: PyTree, data: tuple[Any, Any], now: Segment, spend: Callable, budget: float | None,
    microbatch: int | None,
) -> None:  # fmt: skip
    """Refuse, before a folder is opened, a step that cannot be taken: by its loss, its numbers or its budget."""
    one = spend((now._replace(steps=1),))
    if budget is not None and 0 < budget < one:
        raise ValueError(
            f"the largest epsilon, {budget:g}, allows no step: the first spends {one:.4g}; raise it or sigma."
        )
    x, y = jax.tree.map(lambda leaf: leaf[:2], data)
    is_padding = np.zeros(len(jax.tree.leaves(x)[0]), bool)
    jax.eval_shape(_sum(of_params(loss), microbatch), params, x, y, is_padding, now.clip)


@lru_cache(maxsize=64)  # one function object, so that many runs of one network trace it once
def _sum(loss: Callable, microbatch: int | None) -> Callable:
    return lambda params, x, y, is_padding, clip: clipped_sum(
        loss, params, x, y, is_padding, clip=clip, microbatch=microbatch
    )
