"""pytorch-ood as a peer of `benchmarks.ood`: its scores of the same logits and features, where it can be imported."""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_ood  # type: ignore  # noqa: F401
import torch  # type: ignore
from pytorch_ood import detector  # type: ignore

VERSIONS = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-ood")}


def calls(
    train: tuple[np.ndarray, np.ndarray], label: np.ndarray, test: tuple[np.ndarray, np.ndarray], *, k: int
) -> dict[str, Callable[[], np.ndarray]]:
    """By name of our detectors, a call that scores test (logits, features); higher = unknown, as the peer has it."""
    logits, features = (torch.tensor(part) for part in test)
    rows, labels = torch.tensor(train[1]), torch.tensor(label).long()
    unit = torch.nn.functional.normalize
    made: dict[str, Callable] = {
        "msp": lambda: lambda: detector.MaxSoftmax.score(logits),
        "energy": lambda: lambda: detector.EnergyBased.score(logits),
        "gen": lambda: lambda: detector.GEN.score(logits),
        "mahalanobis": lambda: asked(detector.Mahalanobis(None).fit_features(rows, labels), features),
        "knn": lambda: asked(detector.KNN(None, k=k).fit_features(unit(rows), labels), unit(features)),
    }
    found: dict[str, Callable[[], np.ndarray]] = {}
    for name, make in made.items():
        try:
            call = make()
            call()
        except Exception as error:  # another version has another interface
            print(f"pytorch-ood {VERSIONS['pytorch-ood']}: no row for {name} ({error})", flush=True)
            continue
        found[name] = functools.partial(to_numpy, call)
    return found


def to_numpy(call: Callable) -> np.ndarray:
    """What a call gives, on the host."""
    return np.asarray(call())


def asked(fitted: Any, features: torch.Tensor) -> Callable:
    """A call that scores features by a fitted peer."""
    return lambda: fitted.predict_features(features)
