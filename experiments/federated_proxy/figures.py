"""What one seed of federated_proxy came to, in plain numbers: "<kind>/<name>" from the arrays of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.federated_proxy import methods
from experiments.federated_proxy.protocol import SUFFIX, WEIGHTS, Arrays

if TYPE_CHECKING:
    from experiments.federated_proxy.experiment import Config

EARLY = 5  # the round at which trainings are compared before they end
HALF = 0.5  # structural similarity from which on an image often counts as rebuilt
Parts = dict[str, Arrays]  # arrays by part or training


def judge(config: Config, parts: Parts) -> dict[str, float]:
    """Every figure of one seed."""
    found: dict[str, float] = {}
    if "encoding" in parts:
        found |= {
            f"one_minus_cos/{weights}/{steps}/{n}": float(parts["encoding"][f"trace_{n}"][i, j, -1])
            for i, weights in enumerate(WEIGHTS)
            for j, steps in enumerate(config.updates)
            for n in config.proxies
        }
    if "inversion" in parts:
        found |= of_attacks(parts["inversion"])
    if "rounds" in config.parts:
        for run in methods.runs(config):
            found |= of_run(run, parts)
        if "fedavg_equal_bytes" in config.methods:
            found |= stopped(config, parts)
    return found


def of_run(run: methods.Run, parts: Parts) -> dict[str, float]:
    """Accuracy and traffic of a training; bytes are those of one client in a round, ratios over the whole training."""
    arrays, name = parts[f"{run.name}{run.suffix}"], run.name
    found = {f"accuracy{run.suffix}/{name}": float(arrays["accuracy"][-1])}
    if run.suffix:
        return found
    up, down = arrays["bytes_up"], arrays["bytes_down"]
    full = float(down.mean())  # the weights, as large as an update
    found |= {
        f"bytes_uplink/{name}": float(up.mean()), f"bytes_downlink/{name}": full,
        f"ratio_uplink/{name}": full / float(up.mean()), f"ratio_total/{name}": 2 * full / float((up + down).mean()),
        f"seconds_client/{name}": float(np.median(arrays["seconds"])), f"whole/{name}": float(arrays["whole"].mean()),
        f"cosine/{name}": float(arrays["cosine"].mean()),
    }  # fmt: skip
    if len(up) >= EARLY:
        found[f"accuracy_round_{EARLY}/{name}"] = float(arrays["accuracy"][EARLY - 1])
    return found


def stopped(config: Config, parts: Parts) -> dict[str, float]:
    """FedAvg after as many rounds as the bytes of a training with proxies pay for, rounded down."""
    found, arrays = {}, parts["fedavg"]
    accuracy = np.append(arrays["start"], arrays["accuracy"])
    for n in config.proxies if "tofu" in config.methods else ():
        paid = int(parts[f"tofu_{n}"]["bytes_up"].sum() / arrays["bytes_up"][0])
        name = f"fedavg_equal_bytes_{n}"
        found |= {f"accuracy/{name}": float(accuracy[min(paid, len(accuracy) - 1)]), f"rounds/{name}": float(paid)}
    return found


def of_attacks(arrays: Arrays) -> dict[str, float]:
    """Means over the private images, and errors as multiples of those of the guess."""
    found: dict[str, float] = {}
    for key, values in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "mse":
            found[key] = float(values.mean())
        if kind == "ssim":
            found |= {key: float(values.mean()), f"share_ssim_above_half/{name}": float((values > HALF).mean())}
    for key in [key for key in found if key.startswith("mse/") and key.count("/") == 3]:
        case = key.rpartition("/")[2].removesuffix(SUFFIX[1])
        found[f"mse_over_guess{key[3:]}"] = found[key] / found[f"mse/guess/{case}"]
    return found
