"""One seed of robust_layer: networks that differ in one layer, each audited with attacks that know its layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.robust_layer import methods
from subspace_jax import data, nn, training, trees
from subspace_jax.core import attacks
from subspace_jax.robustness import audit
from subspace_jax.robustness import neighborhood as tables

if TYPE_CHECKING:
    from experiments.robust_layer.experiment import Config

TABLE_KEY, TUNE_KEY = 13, 14  # beside those of the classifier family
GIVEN = "given"
REFERENCE = "dense"  # without a defence: on it the black box shows its power, and examples are made that carry over
Arrays = dict[str, np.ndarray]


def listed(config: Config) -> tuple[str, ...]:
    """The networks of a run, the reference first, the one of --checkpoint last."""
    others = (name for name in config.networks if name != REFERENCE)
    return (REFERENCE, *others, *((GIVEN,) if config.checkpoint else ()))


def trained(config: Config, shared: classifier.Setup, seed: int) -> Arrays:
    """Variables of every network by "<name>/<path>"."""
    task, of = classifier.task(config, shared, seed), methods.encoder(config, shared)
    key, found, warm = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY), {}, {}
    needed = {"adversarial"} if "npl_adversarial" in config.networks else set()
    for name in (n for n in methods.DENSE if n in {*config.networks, *needed}):
        bounded = methods.dense(of, config.width, shared.classes, name == "spectral")
        hard = training.adversarial(bounded, eps=config.eps)
        objective = hard if name == "adversarial" else None
        state, run, x = begun(config, shared, task, bounded, name, key, objective)
        for until, start in ((config.epochs, 0), (config.epochs + config.finetune_epochs, config.epochs)):
            label = f"seed {seed}, {name}"
            state, _ = training.fit(run, state, (x, task.label), epochs=until, start=start, label=label)
            warm.setdefault(name, training.variables(state))
        found[name] = training.variables(state)
    images = np.asarray(data.scale(task.image, classifier.pixels(shared.scaling)))
    found |= looked_up(config, shared, seed, warm, images, task.label)
    found = {name: one for name, one in found.items() if name in (*config.networks, "source")}
    return {f"{name}/{p}": np.asarray(leaf) for name, one in found.items() for p, leaf in trees.flatten(one).items()}


def begun(
    config: Config, shared: classifier.Setup, task: classifier.Task, model: Any, name: str, key: Any, objective: Any
) -> tuple:
    """A fresh state, the epoch function and the raw images."""
    steps = (config.epochs + config.finetune_epochs) * (len(task.image) // config.batch)
    tx = methods.optimizer(config, name, steps)
    prepare = training.prepare(classifier.pixels(shared.scaling), augment=config.augment)
    run = training.train_epoch(model, tx, batch=config.batch, prepare=prepare, objective=objective)
    blank = np.zeros((1, *task.image.shape[1:]), np.float32)
    return classifier.create(key, model, tx, blank), run, task.image


def looked_up(
    config: Config, shared: classifier.Setup, seed: int, warm: dict[str, Any], images: np.ndarray, label: np.ndarray
) -> dict[str, Any]:
    """The networks with a table of training samples, made from the warmed-up dense ones."""
    start, table = begun_table(config, shared, seed, warm["dense"], images, label)
    labels = jax.nn.one_hot(label[table.source], shared.classes)
    flat = jnp.asarray(images[table.source].reshape(len(table.source), -1))
    votes = {"encoder": start["params"]["encoder"], "embedding": labels}
    found = {
        "table": start, "soft_knn": {"params": votes, "batch_stats": start["batch_stats"]},
        "pixel_knn": {"params": {"embedding": labels}, "batch_stats": {"position": flat}},
    }  # fmt: skip
    for name in (n for n in methods.FINE_TUNED if n in config.networks):
        if name == "npl_adversarial":
            start, table = begun_table(config, shared, seed, warm["adversarial"], images, label)
        found[name] = fine_tuned(config, shared, seed, name, start, table.source, images, label)
    return found | {"source": {"image": images[table.source], "label": label[table.source]}}


def begun_table(
    config: Config, shared: classifier.Setup, seed: int, warm: Any, images: np.ndarray, label: np.ndarray
) -> tuple[Any, tables.Table]:
    """A dense network with a table in place of its embedding, and the table; its entries are the seed's draw."""
    h = features(methods.encoder(config, shared), warm, images)
    v = methods.affine(warm["params"]["embedding"], h)
    key = jax.random.fold_in(jax.random.key(seed), TABLE_KEY)
    table = tables.initial_table(key, h, label, v, entries=config.table_size)
    params = {"encoder": warm["params"]["encoder"], "embedding": table.embedding, "head": warm["params"]["head"]}
    stats = {"encoder": warm["batch_stats"]["encoder"], "position": table.position}
    return {"params": params, "batch_stats": stats}, table


def fine_tuned(
    config: Config, shared: classifier.Setup, seed: int, name: str, start: Any, source: np.ndarray, images: np.ndarray,
    label: np.ndarray,
) -> Any:  # fmt: skip
    """Train on through the layer; its positions are those of their images before each epoch and at the end."""
    of = methods.encoder(config, shared)
    weight = methods.NEIGHBOR_WEIGHT if name == "npl_neighbor" else config.neighbor_weight
    objective = methods.through_layer(
        of, neighbors=config.neighbors, weighting=config.weighting, weight=weight, average=config.refresh == "average"
    )
    steps = config.finetune_epochs * (len(label) // config.batch)
    tx = training.optimizer(methods.recipe(config, rate=0.5), steps)
    model = methods.dense(of, config.width, shared.classes)
    model = model._replace(apply=methods.apply_of(config, of, name, shared.classes))
    if name == "npl_adversarial":
        objective = methods.hardened(objective, model, config.eps)
    run = training.train_epoch(model, tx, batch=config.batch, objective=objective)
    key = jax.random.fold_in(jax.random.key(seed), TUNE_KEY)
    state = training.TrainState(jnp.int32(0), start["params"], start["batch_stats"], tx.init(start["params"]), key)

    def refreshed(state: Any) -> Any:
        position = features(of, training.variables(state), images[source])
        return state._replace(batch_stats=state.batch_stats | {"position": position})

    for epoch in range(config.finetune_epochs):
        state = refreshed(state) if config.refresh == "epoch" else state
        state, _ = training.fit(
            run, state, (images, label), epochs=epoch + 1, start=epoch, label=f"seed {seed}, {name}"
        )
    return training.variables(refreshed(state) if config.refresh == "epoch" else state)


def features(of: nn.Model, variables: Any, x: np.ndarray) -> Any:
    """What the embedding reads, of a whole set."""
    return training.predict(of.apply, methods.inner(variables), x)


def audited(
    config: Config, shared: classifier.Setup, arrays: Arrays, seed: int, name: str, power: float | None
) -> dict[str, Any]:
    """Everything the audit of one network found, and what the report shows of it; power None: of the reference."""
    seen, fn = classifier.case(shared, seed, config.images), function(config, shared, arrays, seed, name)
    usual, extra = tried(config, shared.classes), knowing(config, shared, arrays, seed, name, seen, config.eps)
    found = audit.audit(seen.keys, fn, seen.x, seen.y, eps=config.eps, attacks=usual, extra=extra)
    if power is None:
        power = audit.power_of(found.clean, found.right["square"], found.right["pgd"])
    found = found._replace(power=power)
    result: dict[str, Any] = {f"right/{kind}": right for kind, right in found.right.items()}
    result |= {"clean": found.clean, "worst": found.worst, "power": found.power}
    result |= {"warnings": np.array(found.warnings, str)}
    result |= {"strengths": np.array(list(found.curve)), "curve": np.array(list(found.curve.values()))}
    if seed == config.seed:  # whose curves the report shows
        result |= weaker(config, shared, arrays, seed, name, seen, found.clean)
    result |= classifier.smoothness(fn, seen.x, seen.y, found.clean) | classifier.fallen(fn, seen, found.examples)
    return result | deciding(config, shared, arrays, name, result)


def knowing(
    config: Config, shared: classifier.Setup, arrays: Arrays, seed: int, name: str, seen: classifier.Case, eps: float
) -> dict[str, np.ndarray]:
    """Images made on the dense network, and on smoother forms of the layer where there is one."""
    made_on = {} if name == REFERENCE else {"transfer": function(config, shared, arrays, seed, REFERENCE)}
    if name not in (*methods.DENSE, GIVEN):
        for kind, changed in methods.SURROGATES.items():
            made_on[kind] = function(config, shared, arrays, seed, name, **changed)
    pgd = attacks.pgd(steps=config.steps)
    return {kind: np.asarray(attacks.run(*seen[:1], pgd, fn, *seen[1:], eps=eps)) for kind, fn in made_on.items()}


def weaker(
    config: Config, shared: classifier.Setup, arrays: Arrays, seed: int, name: str, seen: classifier.Case,
    clean: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What is right under every attack at the other strengths, "weaker/<attack>" (strengths, n)."""
    others = [eps for eps in classifier.along(config.strengths, config.eps) if eps != config.eps]
    fn, usual = function(config, shared, arrays, seed, name), tried(config, shared.classes)
    parts = []
    for eps in others:
        made = knowing(config, shared, arrays, seed, name, seen, eps)
        found = audit.over_strengths(seen.keys, fn, seen.x, seen.y, strengths=[eps], attacks=usual)
        right = {kind: attacks.right(seen.keys, fn, images, seen.y) for kind, images in made.items()}
        parts.append({kind: rows[0] for kind, rows in found.items()} | {k: clean & r for k, r in right.items()})
    return {f"weaker/{kind}": np.stack([part[kind] for part in parts]) for kind in (parts[0] if parts else ())}


def tried(config: Config, classes: int) -> dict[str, attacks.Attack]:
    """The attacks on every network; half of the restarts are on cross-entropy."""
    half, rest = config.restarts // 2, config.restarts - config.restarts // 2
    dlr = {"dlr": attacks.pgd(steps=config.steps, objective="dlr")} if classes > 2 else {}
    kinds = ("ce", *(["dlr"] if classes > 2 else [])) if config.adaptive else ()
    return {
        "pgd": attacks.pgd(steps=config.steps),
        "margin": attacks.pgd(steps=config.steps, objective="margin"),
        **dlr,
        "long": attacks.pgd(steps=5 * config.steps),
        "restarts": attacks.pgd(steps=2 * config.steps, objective="margin", restarts=rest),
        "restarts_ce": attacks.pgd(steps=2 * config.steps, restarts=half),
        **{f"apgd_{kind}": attacks.apgd(steps=config.adaptive, objective=kind) for kind in kinds},
        "square": attacks.square(queries=config.queries),
    }


def function(config: Config, shared: classifier.Setup, arrays: Arrays, seed: int, name: str, **changed: Any) -> Any:
    """A network of the stage, or that of --checkpoint, as a function of images in [0, 1]."""
    of = methods.encoder(config, shared)
    if name == GIVEN:
        task = classifier.task(config, shared, seed)
        loaded = classifier.trained(config, shared, task, seed)
        mean, std = (tuple(loaded.config["scaling"][part]) for part in ("mean", "std"))
        return jax.tree_util.Partial(classifier.on_pixels(loaded.model, mean, std).apply, loaded.variables)
    apply = methods.apply_of(config, of, name, shared.classes, **changed)
    return jax.tree_util.Partial(apply, nested(arrays, name))


def nested(arrays: Arrays, name: str) -> Any:
    """The variables of one network from "<name>/<path>"; an encoder without statistics has none."""
    found: dict[str, Any] = {"params": {"encoder": {}}, "batch_stats": {"encoder": {}}}
    for path in (p for p in arrays if p.startswith(f"{name}/")):
        *parents, leaf = path.split("/")[1:]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = jnp.asarray(arrays[path])
    return found


def deciding(
    config: Config, shared: classifier.Setup, arrays: Arrays, name: str, shown: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The table entries that decided the images shown, before and after."""
    found: dict[str, np.ndarray] = {}
    if name not in (*methods.FINE_TUNED, "table"):
        return found
    of, variables = methods.encoder(config, shared), nested(arrays, name)
    for kind, images in (("before", "images"), ("after", "made")):
        h = of.apply(methods.inner(variables), jnp.asarray(shown[images]))
        _, _, near = methods.read(variables, h, neighbors=config.neighbors, weighting=config.weighting)
        found |= {f"entry_{kind}": arrays["source/image"][np.asarray(near.index[:, :3])]}
        found |= {f"entry_label_{kind}": arrays["source/label"][np.asarray(near.index[:, :3])]}
        found |= {f"entry_weight_{kind}": np.asarray(near.weight[:, :3])}
    return found
