"""One run of low_precision: float and few bits by the same exchange, every skew, every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from experiments.families import agents
from experiments.harness import flags
from subspace_jax import data, nn, trees
from subspace_jax.core import capture, compress, costs
from subspace_jax.core.compress import Compressor
from subspace_jax.decentralized import codes
from subspace_jax.decentralized.low_precision import Method, low_precision
from subspace_jax.decentralized.state import classification
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.low_precision.experiment import Config

CODES_KEY = 2  # folded into the seed's key
Arrays = dict[str, np.ndarray]


class Variant(NamedTuple):
    """How one network computes and what it sends."""

    bits: int | None
    compressor: Compressor
    method: Method
    gamma: float


class Setup(NamedTuple):
    """What all seeds and trials share."""

    data: agents.Data
    models: dict[int | None, nn.Model]  # by bits
    twin: nn.Model  # the one in few bits, computed in float
    methods: dict[tuple[str, int], Algorithm]  # by variant and agents: compiled once for all skews and seeds


def variants(config: Config) -> dict[str, Variant]:
    """Every variant by its name in the figures."""
    bits, few, kept = config.bits, f"int{config.bits}", config.sparsity
    found = {
        "float": Variant(None, compress.identity(), "none", 1.0),
        few: Variant(bits, compress.k_bit(bits), "none", 1.0),
    }
    for method in ("deep_squeeze", "choco"):
        if config.method in (method, "all"):
            found[f"float_{method}"] = Variant(None, compress.top_k(kept), method, config.gamma)
            found[f"{few}_{method}"] = Variant(bits, compress.top_k(kept, bits=bits), method, config.gamma)
    if config.beside:
        found["messages_" + few] = Variant(None, compress.k_bit(bits), "none", 1.0)
    if config.beside and bits > 1:  # one bit has no room for a sign and a level
        found["messages_qsgd"] = Variant(None, compress.qsgd(bits), "none", 1.0)
    return found


def trials(config: Config) -> list[agents.Trial]:
    """Every variant at every skew; then float and few bits on all data in one place."""

    def trial(name: str, variant: str, skew: float, count: int) -> agents.Trial:
        return agents.Trial(name, variant, {}, config.steps, "label_sorted", count, skew)

    listed = [
        trial(f"{name}_skew_{skew:g}", name, skew, config.agents) for skew in config.skew for name in variants(config)
    ]
    if config.beside:
        listed += [trial(f"{name}_centralized", name, 0.0, 1) for name in ("float", f"int{config.bits}")]
    return listed


def setup(config: Config, listed: list[agents.Trial]) -> Setup:
    """Load the data and build every network and method, which refuses bad flags before anything runs."""
    if config.every < 1 or config.steps % config.every or config.rounds < 0:
        raise ValueError(
            f"--every must divide --steps, and --rounds be at least 0; got {config.every}, {config.steps} and "
            f"{config.rounds}."
        )
    if not config.skew:
        raise ValueError("--skew takes at least one share; 0 shuffles all samples, 1 sorts all.")
    found = agents.load(config)
    for trial in listed:
        agents.spread(found, config.seed, trial)
    norm = "range_evonorm" if config.norm == "evonorm" else config.norm
    few = build(config, found.classes, norm, config.bits)
    models = {None: build(config, found.classes, config.norm), config.bits: few}
    methods = {
        (trial.method, trial.agents): algorithm(config, variants(config)[trial.method], models, trial.agents)
        for trial in listed
    }
    return Setup(found, models, build(config, found.classes, norm), methods)


def build(config: Config, classes: int, norm: str, bits: int | None = None) -> nn.Model:
    """The network in float or in few bits: the same parameters, the same initial weights."""
    if norm == "batch":
        raise ValueError("--norm batch keeps statistics that no step in few bits rounds; use evonorm, group or none.")
    own = {"norm": norm, "init": config.init, "bits": bits}
    own |= {"widths": list(config.widths)} if config.widths else {}
    own |= {"stochastic_act": config.stochastic_act} if bits else {}
    return nn.build(config.model, classes=classes, **own | flags.network_arguments(config))


def algorithm(config: Config, variant: Variant, models: dict[int | None, nn.Model], count: int) -> Algorithm:
    """The method of a variant for so many agents."""
    lr = agents.rate(config.lr, config.steps, config.decay, warmup=config.warmup, rounds=config.rounds)
    return low_precision(
        classification(models[variant.bits].train_apply), comm=agents.exchange_of(config, count)[0],
        weights=agents.graph(config, count), lr=lr, gamma=variant.gamma, momentum=config.momentum,
        weight_decay=config.weight_decay, compressor=variant.compressor, method=variant.method, loop=config.loop,
    )  # fmt: skip


def course(config: Config, shared: Setup, trial: agents.Trial) -> list[Arrays]:
    """What every seed of a trial left; of few bits at every agent also how its codes are used."""
    few = trial.method == f"int{config.bits}" and trial.agents > 1

    def finish(seed: int, history: Arrays) -> Arrays:
        history = history | {"passes": history["step"]}
        return history | (use_of_codes(config, shared, trial, seed, history) if few else {})

    model, method = shared.models[variants(config)[trial.method].bits], shared.methods[trial.method, trial.agents]
    return agents.course(config, shared.data, trial, model, method, rounds=config.rounds, finish=finish)


def use_of_codes(config: Config, shared: Setup, trial: agents.Trial, seed: int, history: Arrays) -> Arrays:
    """How often each code occurs, "codes/<kind>/<layer>" (agents, codes), and what clips, "clipped/..." (agents,).

    On a batch of every agent's own samples, by its model after the last step.
    """
    key, parts = jax.random.fold_in(jax.random.key(seed), CODES_KEY), agents.spread(shared.data, seed, trial)
    rows = parts[:, np.asarray(jax.random.permutation(key, parts.shape[1])[: config.batch])]
    image, label = (shared.data.columns[name][rows] for name in ("x", "label"))
    x, shapes = data.scale(image, shared.data.scaling), jax.eval_shape(shared.twin.init, key, shared.data.test[0][:1])
    found = []
    for agent in range(trial.agents):
        params = trees.map_with_path(lambda path, _, i=agent: history[f"final/params/{path}"][i], shapes["params"])
        own = jax.random.fold_in(key, agent)
        found.append(codes.usage(own, shared.twin, params, x[agent], label[agent], bits=config.bits))
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return {
        f"{name}/{kind}/{path.removesuffix('/kernel')}": values
        for kind, layers in whole.items()
        for path, used in layers.items()
        for name, values in (("codes", used.share), ("clipped", used.clipped))
    }


def code_figures(arrays: Arrays, suffix: str) -> dict[str, float]:
    """Share clipped, share of the codes in use and entropy in bits, of every layer, mean over the agents."""
    found = {}
    for name, shares in arrays.items():
        which, _, layer = name.partition("/")
        if which == "clipped":
            found[f"clipped_{layer}_{suffix}"] = shares.mean()
        elif which == "codes":
            entropy = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=1)
            found[f"codes_used_{layer}_{suffix}"] = (shares > 0).mean()
            found[f"code_entropy_{layer}_{suffix}"] = entropy.mean()
    return {name: float(value) for name, value in found.items()}


def cost(model: nn.Model, x: np.ndarray, batch: int) -> dict[str, float]:
    """Modelled, not measured, energy of the matrix products of one step, from their multiply-accumulates (MACs).

    Counted: forward, gradient of the inputs (not in the first layer) and gradient of the weights, which in a bifurcated
    layer takes the float cotangent; all_products counts that one in 8 bits too.
    """
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    step = costs.step_macs(capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), one), one))
    through, kernels = batch * (step.outputs + step.inputs), batch * step.kernels
    picojoule = {
        "float": costs.picojoule(through + kernels),
        "int8": costs.picojoule(through, "int8") + costs.picojoule(kernels),
        "int8_all_products": costs.picojoule(through + kernels, "int8"),
    }
    found = {"macs_per_step": float(through + kernels)}
    found |= {f"microjoule_per_step/{name}": value / 1e6 for name, value in picojoule.items()}
    few = ("int8", "int8_all_products")
    return found | {f"energy_ratio/{name}": picojoule["float"] / picojoule[name] for name in few}


def figures_of(config: Config, listed: list[agents.Trial], found: dict[str, Arrays]) -> dict[str, float]:
    """The figures of one seed: of the steps, after the rounds, of messages and codes."""
    figures = agents.report.figures(listed, {name: before(config.steps, arrays) for name, arrays in found.items()})
    for name, arrays in found.items():
        figures |= {
            f"accuracy_mean_rounds/{name}": float(arrays["accuracy"][-1].mean()),
            f"accuracy_consensus_rounds/{name}": float(arrays["consensus"][-1]),
        }
    at, sent = f"_skew_{config.skew[0]:g}", "bytes_model_per_step/"
    for name in variants(config):
        if name != "float":
            figures[f"bytes_ratio/{name}"] = figures[f"{sent}float{at}"] / figures[f"{sent}{name}{at}"]
    for skew in config.skew:
        figures |= code_figures(found[f"int{config.bits}_skew_{skew:g}"], f"skew_{skew:g}")
    return figures


def before(steps: int, arrays: Arrays) -> Arrays:
    """The evaluations of the steps, without those of the rounds."""
    kept = arrays["step"] <= steps
    return {name: a[kept] if "/" not in name and a.ndim else a for name, a in arrays.items()}
