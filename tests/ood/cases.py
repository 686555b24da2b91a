"""A small network's outputs, and every detector with its definition in float64 NumPy."""

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from subspace_jax.ood import ash, auxiliary_class, detectors, knn, mahalanobis, norm_scaling, odin, react, scores, vim

N, D, K = 60, 8, 4
SIZES = detectors.Sizes(classes=K, width=D, samples=N, inputs=D, forward=2 * D * K)


def draw(seed, n=N, scale=3.0):
    """Features after a ReLU, the logits of a random head on them, labels of all classes, the head."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    centres, kernel, bias = rng.normal(size=(K, D)), rng.normal(size=(D, K)) * scale, rng.normal(size=K)
    h = np.maximum(centres[labels] + rng.normal(size=(n, D)) + 0.5, 0).astype(np.float32)
    h[:, 0] += 0.1  # no row of zeros
    kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    outputs = detectors.Outputs((h @ kernel + bias).astype(np.float32), {"penultimate": h, "input": h})
    return outputs, labels, (kernel, bias)


def wide(outputs):
    return np.asarray(outputs.logits, np.float64), np.asarray(outputs.features["penultimate"], np.float64)


def odds(logits, axis=-1):
    """log(p / (1 - p)) + log(classes - 1) of the most likely class."""
    ordered = np.sort(logits, axis=axis)
    return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1) + np.log(logits.shape[1] - 1)


def gen(logits, gamma=0.1, top=100):
    ordered = np.sort(logits, axis=1)[:, ::-1]
    rest = np.array([[logsumexp(np.delete(row, k)) for k in range(len(row))] for row in ordered])
    whole = logsumexp(ordered, axis=1)[:, None]
    return -np.exp(gamma * (ordered + rest - 2 * whole))[:, :top].sum(axis=1)


def unit(h):
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def kth(train, test, k):
    return -np.sort(np.linalg.norm(unit(test)[:, None] - unit(train), axis=2), axis=1)[:, k - 1]


def squared(train, labels, test):
    means = np.array([train[labels == c].mean(axis=0) for c in range(K)])
    centred = train - means[labels]
    inverse = np.linalg.pinv(centred.T @ centred / len(train), rcond=1e-6, hermitian=True)
    gaps = test[:, None] - means
    return -np.einsum("nkd,de,nke->nk", gaps, inverse, gaps).min(axis=1)


def residual(train, logits, test, new, head, dim):
    kernel, bias = (part.astype(np.float64) for part in head)
    origin = np.linalg.lstsq(kernel.T, -bias, rcond=None)[0]
    null = np.linalg.svd(train - origin)[2][dim:]
    length = lambda h: np.linalg.norm((h - origin) @ null.T, axis=1)  # noqa: E731
    return logsumexp(new, axis=1) - logits.max(axis=1).mean() / length(train).mean() * length(test)


def clipped(train, test, head, share):
    return logsumexp(np.minimum(test, np.quantile(train, share)) @ head[0] + head[1], axis=1)


def shaped(test, head, kind, share):
    out = np.zeros_like(test)
    count = max(round((1 - share) * test.shape[1]), 1)
    for row, h in zip(out, test, strict=True):
        kept = np.argsort(-h, kind="stable")[:count]
        row[kept] = {"s": h[kept] * np.exp(h.sum() / h[kept].sum()), "b": h.sum() / count, "p": h[kept]}[kind]
    return logsumexp(out @ head[0] + head[1], axis=1)


def stepped(test, head, temperature=1000.0, step=0.0014, std=1.0):
    kernel, bias = (part.astype(np.float64) for part in head)
    z = test @ kernel + bias
    p = softmax(z / temperature, axis=1)
    gradient = (p - np.eye(K)[z.argmax(axis=1)]) @ kernel.T / temperature
    return odds(((test - step * np.sign(gradient) / std) @ kernel + bias) / temperature)


def own(logits, labels):
    """Own-class statistics over all samples, by class: mean, deviation, rms, quantiles."""
    values = [logits[labels == k, k] for k in range(K)]
    return np.array([(v.mean(), v.std(), np.sqrt((v**2).mean()), *np.quantile(v, [0.05, 0.95])) for v in values]).T


def rescaled(logits, labels, test, mode):
    mean, std, rms, low, high = own(logits, labels)
    return {"std": (test - mean) / std, "norm": test / rms, "minmax": (test - low) / (high - low)}[mode]


def scaled(mode, kind):
    final = {"msp": odds, "maxlogit": lambda z: z.max(axis=1), "energy": lambda z: logsumexp(z, axis=1)}[kind]
    return lambda z, h, y, new, test, head: final(rescaled(z, y, new, mode))


# name: (detector of a head, (train logits, train features, labels, logits, features, head) -> scores)
DETECTORS = {
    "msp": (lambda head: scores.msp(), lambda z, h, y, new, test, head: odds(new)),
    "msp hot": (lambda head: scores.msp(temperature=1000.0), lambda z, h, y, new, test, head: odds(new / 1000)),
    "maxlogit": (lambda head: scores.maxlogit(), lambda z, h, y, new, test, head: new.max(axis=1)),
    "energy": (lambda head: scores.energy(), lambda z, h, y, new, test, head: logsumexp(new, axis=1)),
    "entropy": (
        lambda head: scores.entropy(),
        lambda z, h, y, new, test, head: (softmax(new, axis=1) * log_softmax(new, axis=1)).sum(axis=1),
    ),
    "gen": (lambda head: scores.gen(), lambda z, h, y, new, test, head: gen(new)),
    "gen of 2": (lambda head: scores.gen(top=2), lambda z, h, y, new, test, head: gen(new, top=2)),
    "knn": (lambda head: knn.knn(k=3), lambda z, h, y, new, test, head: kth(h, test, 3)),
    "mahalanobis": (
        lambda head: mahalanobis.mahalanobis(), lambda z, h, y, new, test, head: squared(h, y, test),
    ),
    "vim": (lambda head: vim.vim(head), lambda z, h, y, new, test, head: residual(h, z, test, new, head, D // 2)),
    "react": (lambda head: react.react(head), lambda z, h, y, new, test, head: clipped(h, test, head, 0.9)),
    "odin": (
        lambda head: odin.odin(lambda x: x @ head[0] + head[1][None]),
        lambda z, h, y, new, test, head: stepped(test, head),
    ),
    "weight": (
        lambda head: norm_scaling.weight(head),
        lambda z, h, y, new, test, head: odds(new / np.linalg.norm(head[0].astype(float), axis=0)),
    ),
    "aux": (
        lambda head: auxiliary_class.aux(),
        lambda z, h, y, new, test, head: logsumexp(new[:, :-1], axis=1) - new[:, -1],
    ),
    "aux_max": (
        lambda head: auxiliary_class.aux_max(),
        lambda z, h, y, new, test, head: np.array(
            [r[:-1].max() - logsumexp(np.delete(r, r[:-1].argmax())) + np.log(len(r) - 1) for r in new]
        ),
    ),
} | {
    f"ash_{kind}": (
        lambda head, kind=kind: ash.ash(head, kind=kind, percentile=0.5),
        lambda z, h, y, new, test, head, kind=kind: shaped(test, head, kind, 0.5),
    )
    for kind in ash.KINDS
} | {
    f"{mode} {kind}": (
        lambda head, mode=mode, kind=kind: norm_scaling.norm_scaling(mode, kind=kind, correct_only=False),
        scaled(mode, kind),
    )
    for mode, kind in (("std", "msp"), ("norm", "energy"), ("minmax", "maxlogit"))
}  # fmt: skip


def pair(name, seed, scale=3.0):
    """(detector, its state, new outputs, the oracle's scores of them)."""
    outputs, labels, head = draw(seed, scale=scale)
    labels = np.minimum(labels, K - 2) if name.startswith("aux") else labels  # the last output is no class
    new, _, _ = draw(seed + 1)
    new = new.features["penultimate"]
    new = detectors.Outputs(new @ head[0] + head[1], {"penultimate": new, "input": new})
    make, oracle = DETECTORS[name]
    detector = make(head)
    state = detector.fit(outputs, labels)
    return detector, state, new, oracle(*wide(outputs), labels, *wide(new), head)
