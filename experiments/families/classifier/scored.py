"""Score the training samples while a network trains: hooks whose accumulators are saved with the run."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.families.classifier import data
from experiments.harness import timing
from subspace_jax import checkpoint, nn, training
from subspace_jax.memorization import dynamics, epoch_average, scores

observe = jax.jit(dynamics.update)


def score_hook(
    name: str, network: nn.Model, task: data.Task, seed: int, *, epochs: int, every: int, step: float, probes: int,
    precision: str = "highest", batch: int = 512, samples: int | None = None,
) -> training.Hook:  # fmt: skip
    """The mean of a score over every so many epochs, its values in each of them, and the seconds of each pass."""
    key = jax.random.fold_in(jax.random.key(seed), data.SCORE_KEY)
    fn = scores.scorer(name, network.apply, step=step, probes=probes, precision=precision)
    arrays = tuple(part[:samples] for part in (task.x, task.label))
    count, passes = len(arrays[0]), max(1, epochs // every)

    def update(carry, state, epoch):
        values, took = timing.timed(lambda: training.score_dataset(
            jax.random.fold_in(key, epoch), fn, training.variables(state), arrays, index=task.index[:count],
            batch=batch, label=name,
        ))  # fmt: skip
        values = scores.refuse_nan(values, name=name, epoch=epoch + 1)
        seconds = carry["seconds"].at[carry["average"].count].set(took)
        return {"average": epoch_average.update(carry["average"], values), "seconds": seconds}

    carry = {"average": epoch_average.init(count, history=passes), "seconds": jnp.full(passes, jnp.nan)}
    return training.Hook(carry, update, every)


def dynamics_hook(network: nn.Model, task: data.Task, epochs: int) -> training.Hook:
    """Loss, margin, learning time and forgetting, from one forward pass after every epoch."""

    def update(carry, state, epoch):
        started = time.perf_counter()
        logits = training.predict(network.apply, training.variables(state), task.x)
        new = jax.block_until_ready(observe(carry["dynamics"], logits, jnp.asarray(task.label)))
        return {"dynamics": new, "seconds": carry["seconds"].at[epoch].set(time.perf_counter() - started)}

    return training.Hook({"dynamics": dynamics.init(len(task.x)), "seconds": jnp.full(epochs, jnp.nan)}, update)


def clocked(epoch_fn: Callable, epochs: int) -> tuple[Callable, training.Hook]:
    """The same function, and a hook that keeps how long its latest call took."""
    latest = [0.0]

    def clock(*arguments: Any) -> Any:
        result, latest[0] = timing.timed(lambda: epoch_fn(*arguments))
        return result

    def update(carry, state, epoch):
        return {"seconds": carry["seconds"].at[epoch].set(latest[0])}

    return clock, training.Hook({"seconds": jnp.full(epochs, jnp.nan)}, update)


def visit_checkpoints(
    config: data.Config, hooks: dict[str, training.Hook], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the hooks on the saved networks instead of training one: (last variables, carries)."""
    carries, variables = training.initial_carries(hooks, config.epochs), {}
    kept = checkpoint.epochs(config.checkpoint, seed=seed) if config.epoch is None else [config.epoch]
    for number, epoch in enumerate(kept):
        _, variables, _ = checkpoint.load_model(config.checkpoint, seed=seed, epoch=epoch)
        state = training.TrainState(jnp.int32(0), **variables, opt_state=None, key=jax.random.key(seed))
        carries |= {name: hook.update(carries[name], state, number) for name, hook in hooks.items()}
    return variables, carries
