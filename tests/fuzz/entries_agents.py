"""Valid calls of compression, continual learning, decentralized and federated training."""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.compression import baselines, eigenpairs, hybrid_net, pca_design, utilized_rank
from subspace_jax.continual import baselines as continual
from subspace_jax.continual import gpm, projected, projection, protocol, sgp, tasks, trgp, widths
from subspace_jax.core import moments, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import gossip, labelling, methods, soft_labels, state
from subspace_jax.federated import fedavg, inversion, matching, tofu
from tests.fuzz.mutations import Call, Own, call, unread
from tests.fuzz.values import (
    GRAM,
    IMAGES,
    JX,
    KERNEL,
    KEY,
    LOGITS,
    MODEL,
    PARAMS,
    SCORES,
    SEEN,
    SGD,
    SPACE,
    TABLE,
    Y,
    fn,
    loss,
)

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def soft_loss(params, x, y):
    return (fn(params, jnp.tanh(x)) * jnp.reshape(y, (len(x), -1))).sum(1)


def calls() -> list[Call]:
    return [*_compression(), *_continual(), *_agents(), *_federated()]


def _compression() -> list[Call]:
    seen = {"w": SEEN["w"]}
    outputs = utilized_rank.utilization(TABLE, PARAMS, seen)
    spectra = eigenpairs.spectra(TABLE, PARAMS, seen)["w"]
    response = moments.from_rows(jnp.asarray(RNG.normal(size=(600, 3)), jnp.float32))
    two = [pca_design.spectrum(path, response, images=600) for path in ("a", "b")]
    return [
        call(baselines.plain_svd, TABLE, PARAMS, ranks={"w": 1}),
        call(baselines.input_only, TABLE, PARAMS, seen, ranks={"w": 1}),
        call(baselines.output_only, TABLE, PARAMS, seen, ranks={"w": 1}),
        call(baselines.whitened_svd, TABLE, PARAMS, seen, ranks={"w": 1}),
        call(baselines.random_subspaces, KEY, TABLE, PARAMS, ranks={"w": 1}),
        call(baselines.magnitude_pruning, TABLE, PARAMS, ranks={"w": 1}),
        call(eigenpairs.spectra, TABLE, PARAMS, seen),
        call(eigenpairs.rank_at, Own(spectra.inputs), 0.9),
        call(eigenpairs.leading, Own(spectra.inputs), 1),
        call(eigenpairs.effective_rank, np.array([2.0, 1.0])),
        call(utilized_rank.utilization, TABLE, PARAMS, seen, energy=0.9),
        call(utilized_rank.mean_utilization, Own(outputs)),
        call(utilized_rank.project, TABLE, PARAMS, seen, energy=0.9),
        call(utilized_rank.factorise, TABLE, PARAMS, seen, energy=0.9, multiple=1),
        call(utilized_rank.ranks, Own(outputs), multiple=1),
        call(utilized_rank.parameters_ratio, TABLE, {"w": 1}),
        call(utilized_rank.search_energy, TABLE, PARAMS, seen, lambda p: 0.5, energies=(0.99, 0.9), max_drop=0.1),
        call(pca_design.spectrum, Own("a"), response, images=600),
        call(pca_design.propose, Own(two), tau=0.9, slack=0.05, min_width=1, multiple_of=1),
        call(pca_design.depth_kept, [3, 4, 4], slack=0.05),
        call(pca_design.uniform_widths, [4, 8], lambda w: sum(w), target=6.0),
        call(hybrid_net.significant_counts, Own(two), tau=0.9),
        call(hybrid_net.significance, {"conv1": 3, "conv2": 8}, delta=2),
        call(hybrid_net.bit_plan, {"conv1": 3, "conv2": 8}, delta=2, bits=4),
        call(hybrid_net.layer_costs, (8, 8, 1), widths=(4, 8), strides=(1, 1), classes=2),
    ]


def _continual() -> list[Call]:
    bases = gpm.init(TABLE)
    images = tasks.Task(IMAGES, Y, IMAGES, Y)
    return [
        call(continual.a_gem.a_gem_learner, MODEL, SGD, capacity=4),
        call(continual.a_gem.project, PARAMS, PARAMS, active=jnp.bool_(True)),
        call(continual.er.er_learner, MODEL, SGD, capacity=4),
        call(continual.er.draw, KEY, Own({"x": JX, "y": Y, "t": Y, "seen": 4}), 2),
        call(continual.ewc.ewc_learner, MODEL, SGD, strength=1.0, samples=3),
        call(continual.hat.hat_learner, MODEL, SGD, TABLE, tasks=2, period=3, sparsity=0.5, heads=()),
        call(continual.ogd.ogd_learner, MODEL, SGD, tasks=2, samples=3),
        call(continual.owm.owm_learner, MODEL, SGD, TABLE, alpha=1.0),
        call(gpm.gpm, TABLE),
        call(gpm.init, TABLE),
        unread(call(gpm.update, Own(bases), SEEN, energy=0.9), (1, 1)),
        unread(call(gpm.grow, Own(bases), SEEN, energy=0.9), (1, 1)),
        call(projected.gpm_learner, MODEL, SGD, TABLE, energy=0.9, samples=3),
        call(projected.sgp_learner, MODEL, SGD, TABLE, energy=0.9, a=10.0, samples=3),
        call(projection.inside, SPACE, KERNEL),
        call(protocol.measures, np.array([[0.5, 0.5], [0.9, 0.5], [0.8, 0.9]])),
        call(protocol.learner, MODEL, SGD),
        call(sgp.sgp, TABLE),
        unread(call(sgp.update, Own(sgp.sgp(TABLE).init(PARAMS)), SEEN, energy=0.9, a=10.0), (1, 1)),
        call(tasks.permuted, KEY, images, tasks=2),
        call(tasks.rotated, images, tasks=2, degrees=90.0),
        call(tasks.split, images, groups=[[0], [1]]),
        call(tasks.check_tasks, [images], classes=2),
        call(trgp.init, TABLE, tasks=2),
        call(trgp.trgp_learner, MODEL, SGD, TABLE, tasks=2, energy=Own(lambda t: 0.9), samples=3, heads=()),
        call(widths.pca_count, GRAM / 6, v=0.9),
        call(widths.residual_count, GRAM / 6, 1, v=0.9),
        call(widths.check_share, 0.9),
        call(protocol.own_head, jnp.ones((6, 2, 3)), 0),
    ]


def _agents() -> list[Call]:
    comm, W = Comm(4), topology.uniform(topology.ring(4))
    logits = jnp.asarray(LOGITS)
    made = [
        call(methods.build, name, loss_of_agents, comm=comm, weights=W, lr=0.1)
        for name in ("d_psgd", "cga", "choco_sgd", "qgm", "push_sum", "low_precision")
    ]
    return [
        *made,
        call(methods.find, "qgm"),
        call(methods.settings, "qgm"),
        call(gossip.mixing, comm, W),
        call(gossip.toward, PARAMS, PARAMS, 0.5),
        call(
            methods.build,
            "choco_sgd",
            loss_of_agents,
            comm=comm,
            weights=W,
            lr=0.1,
            gamma=0.1,
            momentum=0.9,
            weight_decay=1e-4,
        ),
        call(methods.build, "cga", loss_of_agents, comm=comm, weights=W, lr=0.1, margin=0.5),
        call(methods.build, "qgm", loss_of_agents, comm=comm, weights=W, lr=0.1, mu=0.9, beta=0.9),
        call(methods.build, "ngc_alpha_0.5", loss_of_agents, comm=comm, weights=W, lr=0.1),
        call(labelling.cutoff, "youden", SCORES, SCORES - 1),
        call(soft_labels.encode, jax.nn.softmax(logits), jnp.ones(6, bool)),
        call(state.cosine, JX, JX),
        call(state.check_share, Own("gamma"), 0.5),
        call(state.optimizer, 0.1, momentum=0.9, weight_decay=1e-4),
    ]


def loss_of_agents(params, batch_stats, batch, key):
    return jnp.sum(params["w"]), batch_stats


def _federated() -> list[Call]:
    small = jnp.asarray(RNG.random((2, 8, 8, 1)), jnp.float32)
    comm = Comm(2)
    return [
        call(fedavg.fedavg, loss, comm=comm, lr=0.1, server_lr=1.0),
        call(fedavg.draw, KEY, 6, steps=2, batch=3),
        call(fedavg.distance, PARAMS, {"w": KERNEL + 1}),
        call(inversion.analytic, KERNEL, KERNEL[0]),
        call(inversion.guess_random, KEY, IMAGES, count=2),
        call(inversion.total_variation, jnp.asarray(IMAGES)),
        call(matching.best_match, small, small),
        call(matching.mse, small, small),
        call(matching.ssim, small, small),
        call(inversion.dlg, KEY, soft_loss, PARAMS, PARAMS, images=1, shape=(3,), classes=2, steps=1),
        call(
            inversion.inverting_gradients,
            KEY,
            soft_loss,
            PARAMS,
            PARAMS,
            Y[:1],
            shape=(3,),
            steps=2,
            restarts=1,
            tv=0.0,
            lr=0.1,
        ),
        call(
            tofu.encode,
            KEY,
            soft_loss,
            PARAMS,
            PARAMS,
            proxies=2,
            shape=(3,),
            classes=2,
            steps=2,
            lr=0.05,
            init_std=0.5,
        ),
        call(tofu.tofu, soft_loss, comm=comm, lr=0.1, encode_lr=0.05, server_lr=1.0, proxies=2, shape=(3,), classes=2),
    ]
