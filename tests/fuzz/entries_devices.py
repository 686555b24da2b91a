"""Valid calls of hardware, spiking networks, robustness, attacks and parallel training."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import attacks, curvature, topology
from subspace_jax.hardware import adc_pruning, conversion, products, snapping, sram, system, waveform
from subspace_jax.parallel import asap
from subspace_jax.robustness import audit, latent, neighborhood, trend
from subspace_jax.spiking import encode, network, pruning, temporal_pruning, thresholds
from tests.fuzz.mutations import Call, Own, blind, call, unread
from tests.fuzz.values import (
    IMAGES,
    JX,
    KERNEL,
    KEY,
    KEYS,
    PARAMS,
    TABLE,
    VARIABLES,
    X,
    Y,
    apply,
    fn,
    linear,
    loss,
)

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def calls() -> list[Call]:
    return [*_hardware(), *_spiking(), *_robustness(), *_attacks(), *_parallel()]


def _hardware() -> list[Call]:
    kernel = {"w": RNG.normal(size=(8, 4)).astype(np.float32)}
    ranges = sram.calibrate(fn, PARAMS, X)
    return [
        call(adc_pruning.hoyer_sq, JX),
        call(adc_pruning.gate, JX),
        call(adc_pruning.variance_penalty, kernel, 4),
        call(adc_pruning.group_lasso, kernel, 4),
        call(adc_pruning.penalty_of, "gated"),
        call(adc_pruning.check_rows, 4),
        call(conversion.adc_bits, np.array([0, 1]), 4),
        call(conversion.adc_energy, {"w": np.array([0, 1])}, 4),
        call(conversion.improvement, {"w": np.array([0, 1])}, 4),
        call(conversion.adc_matmul, jnp.ones((2, 4)), jnp.ones((4, 4)), np.array([[3]]), rows=4),
        call(products.product_table, "mc_mean", 4),
        call(products.factors, products.product_table(), 2),
        call(snapping.levels, 4),
        call(snapping.bins, kernel["w"], 4),
        call(snapping.tile_sparsity, kernel["w"], 4),
        call(snapping.snap, kernel, 4, tolerance=0.1),
        call(snapping.magnitude, kernel, 4, percentiles=[50.0]),
        call(snapping.whole_tiles, kernel, 4, tolerance=0.1),
        call(snapping.thresholds, kernel, tolerance=0.1),
        call(sram.calibrate, fn, PARAMS, X, bits=4),
        call(sram.run_chip, fn, PARAMS, Own(ranges), X),
        call(sram.sample_chip, KEY, Own(ranges)),
        call(sram.over_chips, KEY, fn, PARAMS, Own(ranges), X, Y, chips=2),
        call(system.compare, TABLE, rows=4),
        call(waveform.word_line, 0.5),
        call(waveform.current, 5),
        call(waveform.bitline_waveform, 3, 5),
    ]


def _spiking() -> list[Call]:
    net = network.Spiking(
        {"w": jnp.ones((3, 3)), "v": jnp.ones((3, 2))},
        (network.Layer("w", True, 0), network.Layer("v", True, 0)),
        print,
    )
    spikes = jnp.abs(JX)[None].repeat(4, 0)
    return [
        call(encode.dct_matrix, 4),
        call(encode.zigzag, 4),
        call(encode.expand, jnp.asarray(IMAGES), block=2, stride=1),
        call(encode.dct_frames, jnp.asarray(IMAGES), block=2, stride=2, colour=False),
        call(encode.encoder_thresholds, jnp.asarray(IMAGES - 0.5), low=6.5, high=93.5),
        call(encode.poisson, KEY, jnp.asarray(IMAGES), jnp.arange(6), steps=2),
        call(encode.direct, jnp.asarray(IMAGES)),
        call(network.run, Own(net), (0.5,), spikes, leak=0.9),
        call(network.trace, Own(net), (0.5,), spikes, leak=0.9),
        call(network.check_steps, Own(net), 4, Own("spike_first")),
        call(thresholds.balance, Own(net), spikes, percentile=99.0, leak=0.9),
        call(pruning.accumulated_potential, Own(net), (0.5,), spikes, leak=0.9),
        call(pruning.quantise_weights, {"a": {"kernel": KERNEL}}, 4),
        call(pruning.select, Own(net.params), Own(net.layers), widths=(1,), kind="random", key=KEY),
        call(temporal_pruning.schedule, 8, 2, factor=0.5),
    ]


def _robustness() -> list[Call]:
    clean, attacked = np.ones((2, 6), bool), np.zeros((2, 2, 6), bool)
    counts = trend.transfer_counts(clean, attacked)[0]
    many = np.array([[[1, 2, 3], [0, 1, 2]], [[0, 1, 1], [2, 3, 4]]])
    fitted = trend.fit_strength([0.1, 0.2, 0.3], many)
    return [
        call(latent.mmd, JX, JX + 1, prior_std=1.0),
        call(latent.sliced_w2, KEY, JX, JX + 1, directions=2),
        call(latent.discriminator_loss, JX[:, 0], JX[:, 1]),
        call(latent.encoder_loss, JX[:, 0]),
        call(latent.check_prior, 1.0),
        call(latent.latent_report, KEY, X, Y, classes=2, prior_std=1.0, directions=2),
        call(neighborhood.initial_table, KEY, X, Y, X, entries=2),
        call(neighborhood.jacobian_bound, JX, JX, JX, neighbors=2, tau=1.0),
        call(neighborhood.neighbor_loss, KEY, JX, JX, neighbors=2, negatives=2),
        call(trend.transfer_counts, clean, attacked),
        call(trend.raw_ratio, counts),
        call(trend.share, counts),
        call(trend.fit_strength, [0.1, 0.2, 0.3], many),
        call(trend.transfer_metric, Own(fitted), 0.1),
        unread(call(trend.design_ensemble, np.eye(3), np.array([0.9, 0.9, 0.9]), size=2, delta=0.1), (0, 0)),
        call(trend.ensemble, [linear]),
        call(trend.vote, KEYS[:6], jnp.asarray(RNG.normal(size=(3, 6, 2)))),
        call(trend.ensemble_direction, JX[None], "agd"),
        call(trend.ensemble_attack, "agd", steps=2, step_size=0.1),
        call(trend.changeable, IMAGES, bits=2, eps=0.1),
        call(audit.battery, 3, steps=2, restarts=1, queries=2),
        call(audit.strengths, 0.1),
    ]


def _attacks() -> list[Call]:
    made = attacks.pgd(steps=2)
    keys = KEYS
    images, y = jnp.clip(jnp.abs(JX), 0, 1), jnp.asarray(Y)
    curved = loss, VARIABLES, JX, y
    return [
        call(attacks.pgd, steps=2, step_size=0.1, restarts=1),
        call(attacks.apgd, steps=10, restarts=1),
        call(attacks.cw_l2, steps=2, rounds=1, step_size=0.01, confidence=0.0, weight=1e-3),
        call(attacks.fgsm, norm="linf"),
        call(attacks.mi_fgsm, steps=2, momentum=1.0),
        call(attacks.noise, tries=1),
        call(attacks.square, queries=4, start=0.8),
        call(attacks.run, keys, made, linear_logits, images, y, eps=0.1),
        call(attacks.right, keys, linear_logits, images, y),
        call(curvature.check_settings, probes=2, step=1e-3),
        blind(call(curvature.check_inputs, JX, y)),
        call(curvature.exact, *curved),
        call(curvature.fd_norm, keys, *curved, probes=2, step=1e-2),
        call(curvature.fd_quad, keys, *curved, probes=2, step=1e-2),
        call(curvature.fd_sqnorm, keys, *curved, probes=2, step=1e-2),
        call(curvature.ggn_exact, apply, VARIABLES, JX),
        call(curvature.ggn_probe, keys, apply, VARIABLES, JX, probes=2),
        call(curvature.ggn_spectrum, apply, VARIABLES, JX),
        call(curvature.hutchinson, keys, *curved, probes=2),
        call(curvature.hv_norm, keys, *curved, probes=2),
        call(curvature.input_grad, *curved),
    ]


def linear_logits(x):
    return x @ KERNEL


def _parallel() -> list[Call]:
    W = topology.uniform(topology.ring(4))
    times = np.asarray(asap.lognormal_times(KEY, 3, 4, sigma=0.5))
    return [
        call(asap.barriers, times),
        call(asap.lognormal_times, KEY, 3, 4, sigma=0.5, straggler=2.0),
        call(asap.makespan, times, topology.ring(4)),
        call(asap.contraction, W),
        call(asap.reduce_cost, W, error=0.1),
        call(asap.notify_ack, depth=1),
        call(asap.ssp, staleness=1),
        call(asap.stochastic_reduce, np.ones((4, 3)), W, rounds=2),
    ]
