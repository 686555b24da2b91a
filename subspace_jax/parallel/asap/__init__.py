"""Data-parallel training with or without barriers: who waits for whom, and what it costs in time and in accuracy.

N workers hold a model each. In an iteration a worker computes u_i = step(i, t, x_i), sends u_i to the neighbours that
hear it and folds what it hears: x_i = sum_j w_ij u_j. A `Policy` says when it may send, read and go on. `Worker` is
the one program of all policies; `simulate` runs it by a simulated clock, `run_threads` and `run_processes` by the real
one. `check_trace` checks of any of these runs what its policy promises.

A model is a NumPy array; flatten a pytree by `jax.flatten_util.ravel_pytree`.

Kadav and Kruus, "ASAP: asynchronous approximate data-parallel computation", arXiv 1612.08608.
"""

from subspace_jax.parallel.asap.local import classifier, classifier_step, sgd_step
from subspace_jax.parallel.asap.mailboxes import Mailboxes
from subspace_jax.parallel.asap.policies import Plan, Policy, asynchronous, bsp, notify_ack, plan, ssp
from subspace_jax.parallel.asap.processes import run_processes
from subspace_jax.parallel.asap.recursion import barriers, lognormal_times, makespan
from subspace_jax.parallel.asap.reduction import contraction, reduce_cost, stochastic_reduce
from subspace_jax.parallel.asap.simulator import simulate
from subspace_jax.parallel.asap.threads import run_threads
from subspace_jax.parallel.asap.traces import Run, Trace, check_trace, staleness, when
from subspace_jax.parallel.asap.worker import Compute, Wait, Worker, synchronous

__all__ = [
    "Compute", "Mailboxes", "Plan", "Policy", "Run", "Trace", "Wait", "Worker", "asynchronous", "barriers", "bsp",
    "check_trace", "classifier", "classifier_step", "contraction", "lognormal_times", "makespan", "notify_ack", "plan",
    "reduce_cost", "run_processes", "run_threads", "sgd_step", "simulate", "ssp", "staleness", "stochastic_reduce",
    "synchronous", "when",
]  # fmt: skip
