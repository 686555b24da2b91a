"""The pruned networks by name: with which penalty each is trained on, how it is cut; the programs for all of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import classifier
from subspace_jax import data, training, trees
from subspace_jax.core import capture, costs, losses
from subspace_jax.hardware import adc_pruning, snapping
from subspace_jax.hardware.adc_pruning import Kernels, Kind, check_rows
from subspace_jax.hardware.snapping import Pruned
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.adc_pruning.experiment import Config

METHODS = "lbl", "snap", "no_regularizer", "ungated", "gated", "group_lasso", "s_dub"


class Case(NamedTuple):
    """One pruned network.

    Attributes:
      name: by which its figures go.
      kind: of the penalty; None: the network is cut as it is.
      strength: of the penalty.
      cut: "magnitude", "snap" or "whole_tiles".
      converted: whether it is run through its converters.
      before: how it is pruned first.
    """

    name: str
    kind: Kind | None
    strength: float
    cut: str = "snap"
    converted: bool = False
    before: Case | None = None


def cases(config: Config) -> list[Case]:
    """All of them, in the order of METHODS."""
    tiles = Case("tiles", "group_lasso", config.lasso, "whole_tiles")
    known = {
        "lbl": [Case("lbl", None, 0.0, "magnitude", True)],
        "snap": [Case("snap", None, 0.0)],
        "no_regularizer": [Case("no_regularizer", "gated", 0.0)],
        "ungated": [Case("ungated", "ungated", config.variance)],
        "gated": [Case(f"gated_{strength:g}", "gated", strength, converted=True) for strength in config.variances],
        "group_lasso": [Case("group_lasso", "group_lasso", config.lasso)],
        "s_dub": [Case("s_dub", "gated", config.variance, converted=True, before=tiles)],
    }
    return [case for name in METHODS if name in config.methods for case in known[name]]


def cut(config: Config, case: Case, kernels: Kernels, percentiles: Mapping[str, float]) -> Pruned:
    """The kernels of a case with its zeros."""
    given = [percentiles[path] for path in kernels]
    if case.cut == "magnitude":
        return snapping.magnitude(kernels, config.rows, percentiles=given)
    rule = snapping.snap if case.cut == "snap" else snapping.whole_tiles
    if config.snap == "tol":
        return rule(kernels, config.rows, tolerance=config.tolerance)
    return rule(kernels, config.rows, percentiles=given)


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    check_rows(config.rows)
    if unknown := [name for name in config.methods if name not in METHODS]:
        raise ValueError(f"--methods are {', '.join(METHODS)}; got {unknown[0]!r}.")
    strengths: dict[str, Any] = {"variances": config.variances, "variance": [config.variance], "lasso": [config.lasso]}
    for name, values in strengths.items():
        if bad := [value for value in values if not 0 <= value < np.inf]:
            raise ValueError(f"--{name} is a strength, at least 0 and finite; got {bad[0]}.")
    if bad := [bits for bits in config.clip_bits if bits not in range(1, config.rows.bit_length() + 1)]:
        raise ValueError(
            f"--clip-bits of {config.rows} rows are in [1, {config.rows.bit_length()}], which is exact; got {bad[0]}."
        )
    if min(config.prune_epochs, config.calibration, config.adc_images or 1) < 1 or config.finetune_epochs < 0:
        raise ValueError(
            "--prune-epochs, --calibration and --adc-images are at least 1, --finetune-epochs at least 0; got "
            f"{config.prune_epochs}, {config.calibration}, {config.adc_images} and {config.finetune_epochs}."
        )
    if not 0 < config.max_drop < 1:
        raise ValueError(f"--max-drop is in (0, 1); got {config.max_drop}.")


def check_layers(config: Config, layers: capture.Layers) -> None:
    """Refuse percentiles that are not those of this network.

    Raises:
      ValueError: as `snapping.thresholds`.
    """
    if config.percentiles:
        snapping.thresholds(dict.fromkeys(layers, np.zeros(1, np.float32)), percentiles=config.percentiles)


def clipped(config: Config) -> dict[int, float]:
    """{bits: what converters of so few bits save}."""
    full = costs.conversion_energy(config.rows.bit_length() - 1, config.adc_model)
    return {bits: float(full / costs.conversion_energy(bits, config.adc_model)) for bits in config.clip_bits}


class Bench(NamedTuple):
    """What all seeds share: the layers in crossbars, and programs that are compiled once.

    Attributes:
      layers: of the network.
      penalty: variables -> the variance penalty.
      steps: {kind of penalty: a step down the loss with it}.
      prune: the optimiser of these steps.
      finetune: the optimiser after pruning.
    """

    layers: capture.Layers
    penalty: Callable
    steps: dict[str, Callable]
    prune: optax.GradientTransformation
    finetune: optax.GradientTransformation


def bench(config: Config, shared: classifier.Setup) -> Bench:
    """Find the layers and build the steps.

    Raises:
      ValueError: a network without convolutions; percentiles of another one.
    """
    model = shared.network
    image = jax.ShapeDtypeStruct((1, *data.inputs(shared.columns).shape[1:]), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    layers = adc_pruning.mapped(model.apply, variables, image, rows=config.rows, dense=config.include_dense)
    check_layers(config, layers)
    paths, per_epoch = tuple(own.leaf for own in layers.values()), len(shared.columns["label"]) // config.batch
    recipe = dataclasses.replace(
        shared.recipe, optimizer="sgd", lr=config.prune_lr, weight_decay=config.prune_decay, epochs=config.prune_epochs
    )
    prune = optax.chain(training.optimizer(recipe, config.prune_epochs * per_epoch), adc_pruning.masked(paths))
    falls = optax.piecewise_constant_schedule(
        config.finetune_lr, {epoch * per_epoch: 0.1 for epoch in config.finetune_drops}
    )
    finetune = optax.chain(
        optax.sgd(falls),
        optax.masked(optax.set_to_zero(), functools.partial(outside, paths)),
        adc_pruning.masked(paths),
    )

    def penalty(variables: Variables) -> Any:
        return adc_pruning.variance_penalty(adc_pruning.kernels(layers, variables), config.rows, padded=True)

    def step_of(kind: Kind) -> Callable:
        objective = adc_pruning.objective(model.train_apply, layers, config.rows, kind=kind)
        return step(objective, penalty, prune, shared.prepare)

    kinds: list[Kind] = ["gated", "ungated", "group_lasso"]
    return Bench(layers, jax.jit(penalty), {kind: step_of(kind) for kind in kinds}, prune, finetune)


def outside(paths: tuple[str, ...], params: Any) -> Any:
    """True for the leaves that are not in the modules of these kernels."""
    own = {path.rpartition("/")[0] for path in paths}
    return trees.map_with_path(lambda path, leaf: path.rpartition("/")[0] not in own, params)


def step(objective: Callable, penalty: Callable, tx: optax.GradientTransformation, prepare: Callable) -> Callable:
    """One step of `training.repeat`, which keeps the penalty at the last step of each epoch."""

    def descend(carry, batches, constants, key):
        params, batch_stats, opt_state, count, watched = carry
        now = penalty({"params": params, "batch_stats": batch_stats})
        watched = watched.at[count // constants["per_epoch"]].set(now)
        ((x, y),) = batches
        batches = ((prepare(jax.random.fold_in(key, 0), x), y),)
        grads, batch_stats = jax.grad(objective, has_aux=True)(params, batch_stats, batches, constants, key)
        updates, opt_state = tx.update(losses.uphill(grads), opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state, count + 1, watched

    return descend
