"""Valid calls of privacy: attacks, links, accounting, reports, statistics, zeroth-order queries."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.privacy import (
    accounting,
    audit,
    clipping,
    links,
    masks,
    membership,
    noise,
    reports,
    sampling,
    shadows,
    statistics,
    trends,
    zeroth_order,
)  # fmt: skip
from subspace_jax.privacy.attacks import curvature, fits, lira, rmia, thresholds
from tests.fuzz.mutations import Call, Own, blind, call
from tests.fuzz.values import JX, KERNEL, KEY, LOGITS, PARAMS, ROWS, SCORES, VARIABLES, Y3, X, Y, apply, loss

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def calls() -> list[Call]:
    target = RNG.normal(size=(2, 1, 6))
    models = RNG.normal(size=(8, 1, 6))
    keep = np.asarray(masks.shadow_masks(KEY, 8, 6))
    inside = models, keep
    positive = abs(target), abs(models), keep
    population = abs(RNG.normal(size=(2, 1, 5))), abs(RNG.normal(size=(8, 1, 5)))
    segments = (accounting.Segment(0.1, 1.0, 10, 1.0),)
    found = reports.report(segments, delta=1e-5, accountant="rdp")
    stats, of_shadows = (
        statistics.from_logits(LOGITS[None, None], Y3),
        statistics.from_logits(np.stack([LOGITS + k for k in RNG.normal(size=(8, 6, 3))])[:, None], Y3),
    )
    line = np.linspace(0, 1, 6)
    return [
        call(curvature.curvature_nll, *positive),
        call(curvature.curvature_lr, *positive),
        call(curvature.curvature_nll_as_released, *positive),
        call(fits.check_target, target),
        call(fits.check, target, *inside, inside=Own(1), outside=Own(1)),
        call(lira.lira_online, target, *inside),
        call(lira.lira_offline, target, *inside),
        call(lira.lira_fixed_variance, target, *inside),
        call(lira.lira_fixed_variance_reference, target, *inside),
        call(lira.lira_as_released, target, *inside),
        call(rmia.rmia, *positive, *population, gamma=1.0, a=0.3),
        call(thresholds.yeom, target),
        call(thresholds.mentr, target),
        call(thresholds.sablayrolles, target, *inside),
        call(thresholds.watson, target, *inside),
        call(thresholds.ye, target, *inside, alpha=0.1),
        call(membership.attack, "lira_online", Own(stats), Own(of_shadows), keep),
        call(accounting.epsilon, 0.1, 1.0, 10, 1e-5, "rdp"),
        call(accounting.total, Own(segments), delta=1e-5, accountant="rdp"),
        call(accounting.noise_multiplier_for, 1.0, q=0.1, steps=10, delta=1e-5, accountant="rdp", tolerance=1e-2),
        call(accounting.steps_within, 1.0, Own(segments), Own(segments[0]), delta=1e-5, accountant="rdp"),
        call(audit.epsilon_one_run, SCORES + 3, SCORES, delta=1e-5, significance=0.05),
        call(clipping.clipped_sum, clipping.of_params(loss), PARAMS, JX, jnp.asarray(Y), jnp.zeros(6, bool), clip=1.0),
        blind(call(clipping.check_network, VARIABLES)),
        call(clipping.global_norms, {"w": JX}),
        call(links.memorization_bound, line, delta=0.01),
        call(links.stability_bound, line, loss_limit=1.0),
        call(links.curvature_bound, line, samples=100, constant=1.0, loss_limit=1.0),
        call(links.memorization_from_curvature, line, constant=1.0, loss_limit=1.0),
        call(links.link1_constant, rho=1.0, alpha3=1.0, beta=0.1, gamma=0.1, bias=0.1, samples=100, loss_limit=1.0),
        call(links.link2_constant, rho=1.0, alpha3=1.0, gamma=0.1, bias=0.1, samples=100),
        call(links.check_losses, abs(SCORES) / 9, loss_limit=1.0),
        call(links.sampling_error, np.abs(np.sign(models[:, 0])), keep),
        call(links.violations, line, line + 0.1, line, significance=0.05),
        call(links.root_mean_square, line, line),
        call(masks.shadow_masks, KEY, 2, 6),
        call(masks.independent_masks, KEY, 2, 6),
        call(noise.gaussian_noise, KEY, sigma=1.0, clip=1.0, expected_batch=2.0),
        call(noise.check_noise, 1.0, 1.0),
        call(reports.report, Own(segments), delta=1e-5, accountant="rdp"),
        call(reports.check_delta, 1e-5, 100),
        call(reports.merged, Own(segments)),
        call(reports.to_json, Own(found)),
        call(sampling.poisson_sets, KEY, 6, q=0.5, steps=2, pad_to=4),
        call(shadows.ask, lambda x: (x @ KERNEL)[None], X, 1),
        call(statistics.from_logits, LOGITS[None, None], Y3),
        call(statistics.from_probabilities, ROWS[None, None], Y3),
        call(trends.bin_means, line, SCORES, np.array([0.0, 0.5, 1.0])),
        call(trends.fit_line, line, SCORES),
        call(trends.fit_subpopulation, line, line + 1, np.arange(2, 8)),
        call(trends.fit_saturation, line + 1, 1 - np.exp(-line - 1)),
        call(zeroth_order.zeroth_order, KEY, apply, VARIABLES, X, Y, probes=2, step=0.01),
        call(zeroth_order.black_box, KEY, lambda x, y: (x**3).sum(1), X, Y, probes=2, step=0.01),
    ]
