"""One seed: the classifier, its chips, how accurate each is, what the network costs in the memory and beside it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from subspace_jax import nn, training
from subspace_jax.core import capture
from subspace_jax.hardware import circuit, products, sram, system
from subspace_jax.hardware.circuit import CIRCUIT, Circuit

if TYPE_CHECKING:
    from experiments.in_memory.experiment import Config

CHIP_KEY, NOISE_KEY = 10, 11  # folded into the seed's key
STRESS = 3.0  # the deviation of app_sigma_3
RATIOS = "delay_ratio", "energy_ratio", "edp_ratio"
CALL = 512  # images of a batch of the quantised network
CIRCUIT_CALL = 100  # of the circuit, which keeps a sum of each group
FITTED = 200  # training images from which ranges, gains and offsets of the circuit are taken
Arrays = dict[str, np.ndarray]


def design(config: Config) -> sram.Design:
    """The array of the flags."""
    return sram.Design(config.bits, config.adc_bits, config.rows, config.sigma)


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> Arrays:
    """All arrays of one seed, read back where they are there."""
    return runner.stage(config, f"seed{seed}", functools.partial(computed, config, shared, seed))


def computed(config: Config, shared: classifier.Setup, seed: int) -> dict[str, Any]:
    """Train or load the classifier, calibrate, run the chips of every design."""
    task = classifier.task(config, classifier.own(config, shared, seed), seed)
    net = classifier.trained(config, shared, task, seed)
    apply, variables = net.model.apply, net.variables
    calibration = sram.calibrate(apply, variables, task.x[: config.calibration], bits=config.bits)
    key = jax.random.fold_in(jax.random.key(seed), CHIP_KEY)

    def chips(own: sram.Design) -> np.ndarray:
        return sram.over_chips(
            key, apply, variables, calibration, task.test_x, task.test_label, chips=config.chips, design=own
        )

    plain = design(config)
    found: dict[str, Any] = {"accuracy/float": float(training.evaluate(apply, variables, task.test_x, task.test_label))}
    found["accuracy/quantized"] = quantized(apply, variables, calibration, task, plain)
    for name, own in (("app", plain), ("app_sigma_3", plain._replace(sigma=STRESS))):
        found |= {f"chips/{name}": (each := chips(own)), f"accuracy/{name}": each.mean()}
        found |= {f"chip_std/{name}": each.std(ddof=1) if config.chips > 1 else 0.0, f"chip_min/{name}": each.min()}
    found |= {f"sigma/{sigma:g}": chips(plain._replace(sigma=sigma)).mean() for sigma in config.swept_sigmas}
    found |= {f"bits/{bits}": chips(plain._replace(adc_bits=bits)).mean() for bits in config.swept_bits}
    if config.level == "circuit":
        found |= simulated(config, net, calibration, task, seed)
    return found | costs(config, net, task)


def circuits(config: Config) -> dict[str, Circuit]:
    """The circuits by name; the noise of cells is a draw on the calibrated one."""
    rank = min(CIRCUIT.rank, 2**config.bits)
    plain = Circuit(config.bits, config.adc_bits, config.rows, config.table, rank=rank)
    return {
        "no_adc": plain._replace(adc_bits=None),
        "ideal_table": plain._replace(adc_bits=None, table="ideal"),
        "full_range": plain._replace(range="full"),
        "calibrated": plain,
        "6_bits": plain._replace(adc_bits=6),
        **{f"full_range/{bits}": plain._replace(adc_bits=bits, range="full") for bits in config.swept_bits},
        **{f"calibrated/{bits}": plain._replace(adc_bits=bits) for bits in config.swept_bits},
    }


def simulated(
    config: Config, net: classifier.Trained, calibration: sram.Calibration, task: classifier.Task, seed: int
) -> dict[str, Any]:
    """Accuracy by each circuit, and the range of the layers' sums (volt)."""
    apply, variables = net.model.apply, net.variables
    x, label = task.test_x[: config.circuit_images], task.test_label[: config.circuit_images]
    noise, found = jax.random.fold_in(jax.random.key(seed), NOISE_KEY), {}

    def accuracy(own: Circuit, fits: Any, key: Any = None) -> float:
        right = 0
        for start in range(0, len(x), CIRCUIT_CALL):
            part = slice(start, start + CIRCUIT_CALL)
            drawn = None if key is None else jax.random.fold_in(key, start)
            logits = circuit.run_circuit(apply, variables, calibration, fits, x[part], circuit=own, key=drawn)
            right += int((np.asarray(logits).argmax(1) == label[part]).sum())
        return right / len(x)

    for name, own in circuits(config).items():
        fits = circuit.fit(apply, variables, calibration, task.x[: min(FITTED, config.calibration)], circuit=own)
        kind = "swept" if "/" in name else "accuracy"
        found[f"{kind}/circuit_{name}"] = accuracy(own, fits)
        if name == "calibrated":
            found["in_array"] = np.array(list(calibration.ranges))
            found["sums"] = np.array([(fits[path].low, fits[path].high) for path in calibration.ranges])
            if config.bits == products.BITS:
                found["accuracy/circuit_noise"] = accuracy(own, fits, noise)
    return found


def quantized(
    apply: Any, variables: Any, calibration: sram.Calibration, task: classifier.Task, own: sram.Design
) -> float:
    """Accuracy in few bits, without a converter."""
    right = 0
    for start in range(0, len(task.test_x), CALL):
        logits = sram.run_chip(apply, variables, calibration, task.test_x[start : start + CALL], design=own)
        right += int((np.asarray(logits).argmax(1) == task.test_label[start : start + CALL]).sum())
    return right / len(task.test_x)


def costs(config: Config, net: classifier.Trained, task: classifier.Task) -> dict[str, Any]:
    """Ratios of LeNet-5 on 28x28 images and of this network; delay (ns) and energy (pJ) of each of its layers."""
    lenet, image = nn.build("lenet5"), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    lenet5 = capture.layers(lenet.apply, jax.eval_shape(lenet.init, jax.random.key(0), image), image)
    own = capture.layers(net.model.apply, net.variables, jnp.asarray(task.test_x[:1]))
    systems = {name: system.compare(table, rows=rows)
               for name, table, rows in (("lenet5", lenet5, system.ROWS), ("network", own, config.rows))}  # fmt: skip
    found: dict[str, Any] = {
        f"system/{name}/{ratio}": getattr(each, ratio) for name, each in systems.items() for ratio in RATIOS
    }
    layers = systems["network"].layers
    return found | {"layers": np.array(list(layers)), "costs": np.array(list(layers.values()))}
