"""Published weights in the experiments: from a file and a folder of images to an edited checkpoint."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from subspace_jax import checkpoint, data, nn, training
from subspace_jax.unlearning import evaluation

FIXTURE = pathlib.Path(__file__).parents[1] / "nn" / "fixtures" / "vit_google.npz"
SIZES = {"width": 8, "depth": 1, "heads": 2, "patch": 4}
COLOURS = {"blue": (40, 60, 220), "green": (30, 190, 50), "red": (210, 40, 30)}
FLAGS = "--preset smoke --data colours --model vit_b16 --batch 8 --samples-per-class 6 --image-size 8".split()


def paint(folder, split, count, rng):
    for name, colour in COLOURS.items():
        (folder / split / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(colour, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / name / f"{i:02}.png")


def trunk():
    """Random kernels in one block, biases and scales as a new network has them: its features tell colours."""
    found = {name: array for name, array in np.load(FIXTURE).items() if not name.startswith("test/")}
    found = {name: array for name, array in found.items() if "block_1" not in name}
    small = {name: array * (0 if "bias" in name else 0.1) for name, array in found.items() if "kernel" not in name}
    return found | small | {name: np.ones_like(array) for name, array in found.items() if "scale" in name}


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A folder of images, and a file of weights whose head tells their colours; flags that name them."""
    folder = tmp_path_factory.mktemp("brought")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        paint(folder / "colours", split, count, rng)
    path, weights = folder / "vit.npz", trunk()
    np.savez(path, **weights)
    trained = nn.weights.load(path, nn.build("vit_b16", classes=5, **SIZES))
    columns = data.load("colours", "train", folder)
    x = data.scale(columns["image"], data.Scaling(**trained.config["scaling"]))
    features = np.asarray(jax.jit(trained.model.features)(trained.variables, x)["penultimate"])
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    fit = np.linalg.lstsq(rows, np.eye(3)[columns["label"]], rcond=None)[0].astype(np.float32)
    head = np.concatenate([fit[:, :1], np.zeros((9, 2), np.float32), fit[:, 1:]], axis=1)  # outputs 0, 3 and 4 of 5
    np.savez(path, **weights | {"head/kernel": head[:-1], "head/bias": head[-1]})
    sizes = [f"{name}={value}" for name, value in SIZES.items()]
    own = ["--data-dir", str(folder), "--weights", str(path), "--outputs", "0", "3", "4"]
    return [*FLAGS, *own, "--network-args", *sizes]


def test_a_vit_from_a_file_forgets_a_class(brought, ask):
    run = ask("class_unlearning", *brought, "--forget", "1")
    figures = run.figures
    assert figures["retain_accuracy/original"] == figures["forget_accuracy/original"] == 1
    assert figures["retain_accuracy/projection"] >= 0.9
    assert figures["forget_accuracy/projection"] <= 0.1
    assert {name.partition("/")[2] for name in figures if "/" in name} == {
        "original", "projection", "no_shared", "last_layer",
    }  # fmt: skip
    model, variables, config = checkpoint.load_model(run.workdir / "edited")
    (edit,) = config["edits"]
    assert (edit["forget"], edit["layers"][0], edit["layers"][-1]) == ([1], "patches/kernel", "head/kernel")
    assert config["scaling"] == {"divisor": 255.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert config["weights"]["source"] == "the original ViT"
    assert config["model"]["kwargs"]["activation"] == "gelu_tanh"
    test = data.load("colours", "test", brought[brought.index("--data-dir") + 1])
    x = data.scale(test["image"], data.Scaling(**config["scaling"]))
    logits = training.predict(model.apply, variables, x)
    accuracy = evaluation.class_accuracy(logits, test["label"], forget=[1])
    assert float(accuracy.retain) == figures["retain_accuracy/projection"]
    again = ask("class_unlearning", "--resume", "--workdir", str(run.workdir))
    assert again.figures == figures


def test_the_last_layer_alone_can_be_edited(brought, ask):
    run = ask("class_unlearning", *brought, "--forget", "1", "--layers", "last", "--baselines", "ssd")
    assert {"score/projection", "score/ssd"} <= run.figures.keys()
    assert "score/last_layer" not in run.figures
    saved, edited = (checkpoint.load_model(run.workdir / folder) for folder in ("brought", "edited"))
    assert edited[2]["edits"][0]["layers"] == ["head/kernel"]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), saved[1]["params"], edited[1]["params"])
    assert not same["head"].pop("kernel")
    assert all(jax.tree.leaves(same))


@pytest.mark.process
@pytest.mark.parametrize(
    ("question", "flags", "figure"),
    [
        ("memorization", "--scores fd_norm --probes 1", "test_accuracy"),
        ("utilized_rank", "--tau 0.999 --no-search --finetune-epochs 1", "utilization/mean"),
    ],
)
def test_other_questions_take_the_same_file(question, flags, figure, brought, ask):
    own = [flag for flag in brought if flag not in ("--samples-per-class", "6")]
    run = ask(question, *own, *flags.split())
    assert run.status == 0, run.err
    assert np.isfinite(run.figures[figure])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "nothing.npz"], "there is no file of weights nothing.npz"),
        (["--checkpoint", "runs/1"], "and --checkpoint runs/1 are two networks: give one of them"),
        (["--outputs", "0", "3"], "outputs names 3 of the 5 outputs"),
        (["--outputs"], "give classes as the file has them, outputs= for some of them"),
        (["--image-size", "10"], "patch must divide the image: 4 does not divide 10x10"),
        (
            ["--data", "digits", "--image-size", "0"],
            "reads images of 3 channels, and these have 1: convert them to RGB",
        ),
        (["--model", "resnet50", "--network-args", "width=8"], "holds a ViT, such as vit_b16, of the original ViT"),
        (["--model", "mlp", "--network-args"], "do not fit mlp"),
        (["--baselines", "sorcery"], "--baselines: no way to forget 'sorcery'; there are"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(flags, message, brought, refuse):
    refuse("class_unlearning", *brought, *flags, message=message)
