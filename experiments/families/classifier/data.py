"""Flags and data of a classifier experiment: real samples with label noise and duplicates planted on purpose."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.harness import flags, runner, sets
from subspace_jax import checkpoint, data, nn, training
from subspace_jax.nn.build import NETWORKS
from subspace_jax.nn.parts import Parts

CORRUPTION = "noise", "noise_kind", "noise_labels", "duplicates"
NOISE_KEY, DUPLICATE_KEY, TRAIN_KEY, SCORE_KEY = range(4)  # folded into the seed's key


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Flags of the experiments that train one classifier on labels of which some are wrong."""

    samples: int | None = None
    """Number of training samples to use, the first ones; by default all of digits or with preset gpu, else 5,000."""
    noise: float = 0.1
    """Share of labels replaced by wrong ones; 0 for your own data: suspects are listed, detection is not measured."""
    noise_kind: Literal["symmetric", "pair", "human"] = "symmetric"
    """Wrong label: symmetric: any other class; pair: the next class; human: given by people, see --noise-labels."""
    noise_labels: str = "aggre_label"
    """Column of the npz files with the human labels."""
    pool: tuple[int, ...] = ()
    """Classes whose labels are corrupted, each into another one of them; all when not given."""
    duplicates: int = 0
    """Number of planted pairs: the same image under two labels."""
    model: str = "mlp"
    """Network: mlp, lenet5, vgg11, resnet18, ..., see nn.build."""
    widths: tuple[int, ...] = ()
    """Hidden layers of an mlp or lenet5; those of nn.build when not given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network; parameters stay float32."""
    augment: bool = False
    """Random crops and flips while training."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "sgd"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 0.05
    """Learning rate, the peak of a schedule."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    """Schedule of the learning rate over the steps."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    epochs: int = 60
    """Passes over the training set."""
    batch: int = 64
    """Samples per step."""


class Task(NamedTuple):
    """What one seed trains on; `true` is the label before planting, masks are over the training samples."""

    image: np.ndarray  # raw uint8, or rows of numbers
    x: Any  # scaled float32
    label: np.ndarray
    true: np.ndarray
    index: np.ndarray
    noisy: np.ndarray
    planted: np.ndarray
    pairs: np.ndarray
    test_x: Any
    test_label: np.ndarray
    names: tuple[str, ...] | None = None

    def called(self, label: int) -> str:
        """The name of a class."""
        return self.names[label] if self.names else str(label)


class Setup(NamedTuple):
    """What all seeds share, so that each program is compiled once; or of one seed the part that it trains on."""

    columns: dict[str, np.ndarray]
    unseen: dict[str, np.ndarray]  # training samples that are left out
    test: dict[str, np.ndarray]
    scaling: data.Scaling
    classes: int
    names: tuple[str, ...] | None  # of the classes, where they are more than numbers
    recipe: training.Recipe
    network: nn.Model
    prepare: Callable  # (key, raw pixels) -> inputs, on the device
    whole: dict[str, np.ndarray] | None = None  # of a part: the columns it is taken from, with which labels are planted
    rows: np.ndarray | None = None  # of a part: its positions there


def setup(config: Config, *, test: bool = True) -> Setup:
    """Load the data and fix the recipe; `test` says whether the question needs a test split."""
    samples = config.samples or (5000 if config.preset != "gpu" and config.data != "digits" else None)
    found = sets.load(config, None, test=test, pixels=config.augment)
    unseen = {name: column[len(column) if samples is None else samples :] for name, column in found.train.items()}
    columns = sets.cut(found, samples)
    fields = {field.name for field in dataclasses.fields(training.Recipe)}
    recipe = training.Recipe(**{name: getattr(config, name) for name in fields if hasattr(config, name)})
    if recipe.batch > len(columns["label"]):
        raise ValueError(
            f"--batch {recipe.batch} is larger than the {len(columns['label'])} training samples; lower it."
        )
    network = nn.build(config.model, **network_arguments(config, found.classes))
    scaling = saved_scaling(config) or data.scaling(config.data, data.inputs(columns))
    prepare = training.prepare(scaling, augment=config.augment)
    return Setup(columns, unseen, found.test, scaling, found.classes, found.names, recipe, network, prepare)


def saved_scaling(config: Config) -> data.Scaling | None:
    """That of the network at --checkpoint: published weights want pixels as their source scaled them."""
    if not config.checkpoint:
        return None
    seed = checkpoint.seeds(config.checkpoint)[0]
    saved = checkpoint.load_config(config.checkpoint, seed=seed, epoch=config.epoch)
    return data.Scaling(**saved["scaling"]) if "scaling" in saved else None


def network_arguments(config: Config, classes: int) -> dict[str, Any]:
    """What nn.build takes, beside the name."""
    widths = {"widths": list(config.widths)} if config.widths else {}
    return {"classes": classes, "dtype": config.dtype} | widths | flags.network_arguments(config)


def part(shared: Setup, rows: np.ndarray) -> Setup:
    """Some of the training samples, and the test samples of their classes; the others of these classes are unseen."""
    label = shared.columns["label"]
    classes = np.unique(label[rows])
    left = np.setdiff1d(np.flatnonzero(np.isin(label, classes)), rows)
    more, test = (np.flatnonzero(np.isin(columns["label"], classes)) for columns in (shared.unseen, shared.test))
    unseen = {
        name: np.concatenate([values[left], shared.unseen[name][more]]) for name, values in shared.columns.items()
    }
    return shared._replace(
        columns={name: column[rows] for name, column in shared.columns.items()}, unseen=unseen,
        test={name: column[test] for name, column in shared.test.items()}, whole=shared.columns, rows=rows,
    )  # fmt: skip


def task(config: Config, shared: Setup, seed: int) -> Task:
    """Plant the noise and the duplicates of one seed; a part of the samples has those it has in the whole."""
    if shared.whole is not None:
        return chosen(task(config, shared._replace(columns=shared.whole, whole=None), seed), shared.rows)
    key = jax.random.key(seed)
    true, image, classes = shared.columns["label"], data.inputs(shared.columns), shared.classes
    label = noisy_labels(config, shared, jax.random.fold_in(key, NOISE_KEY))
    noisy, pairs = label != true, np.zeros((0, 2), np.int64)
    if config.duplicates:
        duplicate_key = jax.random.fold_in(key, DUPLICATE_KEY)
        image, label, pairs = data.corrupt.duplicates(
            duplicate_key, image, label, pairs=config.duplicates, classes=classes, avoid=noisy
        )
        true = true.copy()
        true[pairs[:, 0]] = true[pairs[:, 1]]  # the first of a pair now shows the second's image
    planted = np.isin(np.arange(len(true)), pairs)
    scaled, test = (data.scale(part, shared.scaling) for part in (image, data.inputs(shared.test)))
    return Task(
        image, scaled, label, true, shared.columns["index"], noisy, planted, pairs, test, shared.test["label"],
        shared.names,
    )  # fmt: skip


def chosen(found: Task, rows: Any) -> Task:
    """Some of the training samples; of the planted pairs those that are there as a whole."""
    place = np.full(len(found.true), -1)
    place[rows] = np.arange(len(rows))
    pairs = place[found.pairs]
    columns = "image", "x", "label", "true", "index", "noisy", "planted"
    picked = {name: getattr(found, name)[rows] for name in columns}
    return found._replace(**picked, pairs=pairs[(pairs >= 0).all(axis=1)])


def noisy_labels(config: Config, shared: Setup, key: Any) -> np.ndarray:
    """The labels to train on."""
    label = shared.columns["label"]
    if config.noise_kind == "human":
        if config.noise_labels not in shared.columns:
            found = ", ".join(name for name in shared.columns if name not in ("image", "x", "index"))
            raise ValueError(f"{config.data} has no column {config.noise_labels}; label columns there: {found}.")
        return data.corrupt.given(label, shared.columns[config.noise_labels], classes=shared.classes)
    if config.noise == 0:
        return label
    corrupt = data.corrupt.symmetric if config.noise_kind == "symmetric" else data.corrupt.pair
    pool = np.unique(config.pool or range(shared.classes))
    if len(pool) < 2 or not 0 <= pool[0] <= pool[-1] < shared.classes:
        raise ValueError(f"--pool names at least 2 of the classes 0 to {shared.classes - 1}; got {config.pool}.")
    rows, noisy = np.isin(label, pool), label.copy()
    noisy[rows] = pool[corrupt(key, np.searchsorted(pool, label[rows]), fraction=config.noise, classes=len(pool))]
    return noisy


def checkpoint_config(config: Config, shared: Setup, seed: int) -> dict[str, Any]:
    """What a checkpoint says of its network: enough to rebuild model, inputs, labels and training."""
    corruption = {name: getattr(config, name) for name in CORRUPTION}
    kwargs = network_arguments(config, shared.classes)
    return {
        "model": {"name": config.model, "kwargs": kwargs},
        "input_shape": list(data.inputs(shared.columns).shape[1:]),
        "data": config.data,
        "samples": len((shared.whole or shared.columns)["label"]),
        "names": shared.names and list(shared.names),
        "scaling": shared.scaling._asdict(),
        "recipe": dataclasses.asdict(shared.recipe) | {"augment": config.augment, "init": initialiser(config, kwargs)},
        "seed": seed,
        "corruption": corruption | {"pool": list(config.pool)},
        "subset": shared.columns["index"].tolist() if shared.whole else None,
        "edits": [],
    }


def initialiser(config: Config, kwargs: dict[str, Any]) -> str:
    """How the kernels were drawn: by the network's own rule, unless the flags name one."""
    return kwargs.get("init", getattr(NETWORKS[config.model], "parts", Parts(init="he")).init)
