"""Every method of continual_learning by its name, on a network with one head or with a head a task."""

from typing import Any

import jax
import numpy as np
import optax

from subspace_jax import nn
from subspace_jax.continual import projected, projection, protocol, space, trgp
from subspace_jax.continual.baselines import a_gem, er, ewc, hat, ogd, owm
from subspace_jax.core import capture

TOLD = "trgp", "hat", "space"  # a head a task whatever the benchmark


def methods(config: Any, x: np.ndarray, *, classes: int, told: bool) -> tuple[nn.Model, dict[str, protocol.Learner]]:
    """The network of those that are compared alike, and all methods; one object for all seeds: one compilation."""
    widths = {"widths": list(config.widths)} if config.widths else {}
    plain = {"use_bias": False, "init": "he"} | widths
    single = nn.build(config.model, classes=classes, **plain)
    heads = nn.multi_head(nn.build(config.model, classes=0, **plain), tasks=config.tasks, classes=classes)
    made = on(config, heads if told else single, x, told=told)
    made |= {name: method for name, method in on(config, heads, x, told=True).items() if name in TOLD}
    owning = nn.multi_head(nn.build(config.model, classes=0, init="he", **widths), tasks=config.tasks, classes=classes)
    made["space"] = space.space(  # its filters own their biases
        owning, optax.sgd(config.space_lr, momentum=0.9), layers(owning, x), tasks=config.tasks,
        v=config.space_variance, steps=config.space_steps, batch=config.space_batch,
    )  # fmt: skip
    return heads if told else single, made


def layers(model: nn.Model, x: np.ndarray) -> capture.Layers:
    """The table of a network, from shapes alone."""
    return capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x[:1]), x[:1])


def on(config: Any, model: nn.Model, x: np.ndarray, *, told: bool) -> dict[str, protocol.Learner]:
    """The methods on one network."""
    table = layers(model, x)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=config.lr)
    heads = ("heads",) if told else ()
    full = sum(layer.d_in**2 for path, layer in table.items() if not path.startswith("heads"))
    capacity = config.buffer or max(1, full // (x[0].size + 2))

    if len(config.energy) not in (1, len(table)) or not all(0 <= share <= 1 for share in config.energy):
        raise ValueError(f"--energy is a share in [0, 1], or one for each of {', '.join(table)}; got {config.energy}.")
    first = dict(zip(table, config.energy * (len(table) if len(config.energy) == 1 else 1), strict=True))

    def energy(t: int) -> dict[str, float]:
        grown = {path: min(1.0, share + config.energy_growth * t) for path, share in first.items()}
        return {path: share for path, share in grown.items() if not projection.under(path, heads)}

    bases = {"energy": energy, "samples": config.basis_samples, "heads": heads}
    made = {
        "finetune": protocol.learner(model, tx, told=told),
        "gpm": projected.gpm_learner(model, tx, table, told=told, **bases),
        "gpm_reference": projected.gpm_learner(model, tx, table, rule="reference", told=told, **bases),
        "sgp": projected.sgp_learner(model, tx, table, a=config.scale, told=told, **bases),
        "ewc": ewc.ewc(model, tx, strength=config.ewc_strength, samples=config.basis_samples, told=told),
        "a_gem": a_gem.a_gem(model, tx, capacity=capacity, told=told),
        "er": er.er(model, tx, capacity=capacity, told=told),
        "owm": owm.owm(
            model, optax.inject_hyperparams(optax.sgd)(learning_rate=config.owm_lr), table, heads=heads, told=told
        ),
        "ogd": ogd.ogd(model, tx, tasks=config.tasks, samples=config.ogd_samples, told=told),
    }
    if told:
        own = len(x) // (config.tasks if config.benchmark in ("split", "superclass") else 1)
        period = max(1, own // config.batch)
        made["trgp"] = trgp.trgp_learner(model, tx, table, tasks=config.tasks, **bases)
        made["hat"] = hat.hat(model, tx, table, tasks=config.tasks, period=period, sparsity=config.hat_sparsity)
    return made
