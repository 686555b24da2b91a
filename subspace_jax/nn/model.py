"""The interface of methods to a network: four pure functions, whichever library it comes from.

Variables are {"params": nested dict, "batch_stats": nested dict}, both always there, {} where a network keeps no
statistics. A network that returns a dict names its own stages, "logits" among them; an array is the logits.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

# Argument names that select training mode, with the value that means training.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


class Model(NamedTuple):
    """A network as four pure functions; each works under jit, grad and vmap over stacked variables.

    init: (key, x) -> variables; `jax.eval_shape(model.init, key, x)` gives the shapes alone.
    apply: (variables, x) -> logits (batch, classes), at inference: running statistics, no dropout.
    train_apply: (variables, x, key) -> (logits, new batch_stats), with batch statistics and dropout from `key`.
    features: (variables, x) -> stages at inference, an OrderedDict in the order of execution (which `jit` keeps). The
      networks of `build` end with "penultimate" (the input of the head) and "logits".
    """

    init: Callable
    apply: Callable
    train_apply: Callable
    features: Callable


def from_linen(module: nn.Module) -> Model:
    """A Linen module as a Model.

    An argument of its `__call__` that selects training mode (`train`, `deterministic`, ... see MODES) is set; none is
    required. Every random stream, "dropout" or other, starts from the key of `train_apply`. Where the module returns an
    array, `features` has the output of each submodule by path ("Dense_0"; "Dense_0/1" for its second call) and what
    the module sows.

    Raises:
      ValueError: at `init`, when the module keeps variables other than params and batch_stats.
    """

    def run(variables, x, train, **options):
        return module.apply(variables, x, **_mode(module, train), **options)

    def init(key, x):
        variables = module.init(key, x, **_mode(module, False))
        _refuse(set(variables) - {"params", "batch_stats"})
        return {"params": variables.get("params", {}), "batch_stats": variables.get("batch_stats", {})}

    def apply(variables, x):
        return _logits(run(variables, x, False))

    def train_apply(variables, x, key):
        # Linen draws from "params" for each stream that has no key of its own, so one key serves all.
        out, new = run(variables, x, True, rngs={"params": key}, mutable=["batch_stats"])
        return _logits(out), new.get("batch_stats", {})

    def features(variables, x):
        out, new = run(variables, x, False, capture_intermediates=True, mutable=["intermediates"])
        return _stages(out, _captured(new.get("intermediates", {})))

    return Model(init, apply, train_apply, features)


def from_nnx(create: Callable[..., Any]) -> Model:
    """The nnx module that `create(rngs)` makes, as a Model.

    Variables are plain nested dicts: the leaf `module.layers[0].kernel` is "layers/0/kernel"; plain arrays are
    constants. The module is put into train and eval mode as nnx does it, and by an argument of its `__call__` as in
    `from_linen`; a `__call__` that takes `rngs` gets them. `features` has "logits" alone unless it returns a dict.

    Raises:
      ValueError: when the module keeps variables other than Param, BatchStat and random streams.
    """
    from flax import nnx  # a sixth of this package's import time, and few need it

    def kinds(module):
        states = nnx.split_state(nnx.state(module), nnx.Param, nnx.BatchStat, nnx.RngState, nnx.Variable, ...)
        return [_flat(nnx.to_pure_dict(state)) for state in states]

    def put(leaf, array):
        return leaf.replace(array) if isinstance(leaf, nnx.Variable) else array

    module = create(nnx.Rngs(0))
    _, _, streams, others, constants = kinds(module)
    _refuse(others)
    layout = nnx.to_flat_state(jax.eval_shape(lambda: nnx.state(module)))
    graphs = {}
    for train, set_mode in ((True, module.train), (False, module.eval)):
        set_mode()
        graphs[train] = nnx.graphdef(module)

    def run(variables, x, train, key):
        arrays = constants | _reseed(streams, key) | _flat(variables["params"]) | _flat(variables["batch_stats"])
        state = nnx.from_flat_state((path, put(leaf, arrays["/".join(map(str, path))])) for path, leaf in layout)
        module = nnx.merge(graphs[train], state)
        options = {"rngs": nnx.Rngs(key)} if "rngs" in inspect.signature(module.__call__).parameters else {}
        return module(x, **_mode(module, train), **options), module

    def init(key, x):
        del x  # nnx modules are told their input sizes when they are created
        params, stats, *_ = kinds(create(nnx.Rngs(key)))
        return {"params": unflatten_dict(params, sep="/"), "batch_stats": unflatten_dict(stats, sep="/")}

    def inference(variables, x):
        return run(variables, x, False, jax.random.key(0))[0]

    def train_apply(variables, x, key):
        out, module = run(variables, x, True, key)
        return _logits(out), unflatten_dict(kinds(module)[1], sep="/")

    return Model(init, lambda v, x: _logits(inference(v, x)), train_apply, lambda v, x: _stages(inference(v, x)))


def from_function(init: Callable, apply: Callable) -> Model:
    """Plain functions `init(key, x) -> params` and `apply(params, x) -> logits` as a Model without statistics."""

    def inference(variables, x):
        return apply(variables["params"], x)

    return Model(
        lambda key, x: {"params": init(key, x), "batch_stats": {}},
        lambda variables, x: _logits(inference(variables, x)),
        lambda variables, x, key: (_logits(inference(variables, x)), {}),
        lambda variables, x: _stages(inference(variables, x)),
    )


def _mode(module, train: bool) -> dict[str, Any]:
    """The keyword of a module's call that selects training mode, if it takes one."""
    takes = inspect.signature(module.__call__).parameters
    return {name: train is says_train for name, says_train in MODES.items() if name in takes}


def _refuse(others) -> None:
    """State that neither training nor a checkpoint would carry is an error, not a surprise."""
    if others:
        names = ", ".join(sorted(others))
        raise ValueError(f"a Model has params and batch_stats; this module also keeps {names}: make it one of the two.")


def _logits(out):
    return _stages(out)["logits"]


def _stages(out, captured=()) -> OrderedDict:
    """The stages a network names itself, or those that were captured around its logits."""
    if not isinstance(out, dict):
        return OrderedDict(captured, logits=out)
    if "logits" not in out:
        raise ValueError(f'a network that returns a dict must name "logits" in it; this one names {", ".join(out)}.')
    return OrderedDict(out)


def _captured(intermediates) -> dict[str, jax.Array]:
    """Linen's captured outputs by path; its leaves are tuples with one entry a call."""
    stages = {}
    for path, calls in flatten_dict(intermediates).items():
        name = "/".join(part for part in path if part != "__call__")
        arrays = [out for out in jax.tree.leaves(calls) if name]  # the module's own output has no name: the logits
        stages |= {name if i == 0 else f"{name}/{i}": out for i, out in enumerate(arrays)}
    return stages


def _flat(tree) -> dict[str, Any]:
    return {"/".join(map(str, path)): leaf for path, leaf in flatten_dict(tree).items()}


def _reseed(streams, key) -> dict[str, jax.Array]:
    """All random streams of an nnx module anew: their keys from `key`, their counts from zero."""
    fresh = {}
    for i, (path, old) in enumerate(streams.items()):
        is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        fresh[path] = jax.random.split(jax.random.fold_in(key, i), old.shape) if is_key else jnp.zeros_like(old)
    return fresh
