"""Who may import whom, what is loaded when, and where each kept library may appear."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from experiments.harness.published import questions

ROOT = pathlib.Path(__file__).parent.parent
RANKS = {"lazy": 0, "files": 0, "typing": 0, "trees": 1, "core": 2, "nn": 3, "data": 3, "training": 4, "checkpoint": 5}
DOMAIN = 6
OWNERS = {
    "flax.linen": ("subspace_jax/nn", "experiments/notebooks"),
    "tensorflow_datasets": ("subspace_jax/data",),
    "orbax": ("subspace_jax/checkpoint",),
    "matplotlib": ("experiments", "docs"),
    "jaxtyping": ("subspace_jax/typing.py",),
}
DOMAINS = sorted(p.parent.name for p in ROOT.glob("subspace_jax/*/__init__.py") if p.parent.name not in RANKS)
SOURCES = sorted(p for folder in ("subspace_jax", "experiments", "benchmarks") for p in (ROOT / folder).rglob("*.py"))


def imports(path):
    """Absolute dotted names a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(dotted):
    """`subspace_jax.core.curvature` -> `core`."""
    pieces = dotted.split(".")
    return pieces[1] if pieces[0] == "subspace_jax" and len(pieces) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_ranks(path):
    relative = path.relative_to(ROOT)
    names = set(imports(path))
    if relative.parts[0] != "subspace_jax":
        assert not any(n.startswith("experiments") for n in names) or relative.parts[0] != "benchmarks"
        return
    assert not any(n.split(".")[0] in ("experiments", "benchmarks") for n in names)
    own = relative.with_suffix("").parts[1]
    for name in names:
        other = part(name)
        known = other is not None and ((ROOT / "subspace_jax" / other).is_dir() or other in RANKS)
        if own == "__init__" or not known or other == own:
            continue
        assert RANKS.get(other, DOMAIN) < RANKS.get(own, DOMAIN), f"{relative} imports {name}"


ROOMS = "__init__", "__main__", "experiment", "figures", "methods", "protocol", "published", "report"
BELOW = {  # what the part of an experiment may not import, beside what its rank forbids
    "report": ("subspace_jax.training", "subspace_jax.checkpoint"),
    "protocol": ("experiments.harness.plots", "experiments.harness.report", "matplotlib"),
}
QUESTIONS = questions()


def rank(room):
    """harness < families < questions."""
    return {"harness": 0, "families": 1}.get(room, 2)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "experiments")], ids=lambda p: str(p))
def test_experiments_import_down_their_ranks(path):
    pieces = path.relative_to(ROOT / "experiments").with_suffix("").parts
    if len(pieces) == 1:  # commands over all questions
        assert pieces[0] in ("__init__", "__main__", "results")
        return
    if pieces[0] == "notebooks":  # pages over the library: no question, and no command
        assert not any(name.startswith("experiments") for name in imports(path))
        return
    room, part_of_it = pieces[0], pieces[-1]
    assert rank(room) < 2 or room in QUESTIONS, f"{room} is no question: it has no __main__"
    assert rank(room) < 2 or (len(pieces) == 2 and part_of_it in ROOMS), f"{path} has no place in a room: {ROOMS}"
    for name in set(imports(path)):
        assert not any(name == n or name.startswith(n + ".") for n in BELOW.get(part_of_it, ())), f"{path}: {name}"
        other = name.split(".")[1] if name.startswith("experiments.") else room
        assert other == room or rank(other) < rank(room), f"{path} imports {name}"
        domains = room == "harness" and RANKS.get(part(name) or "core", DOMAIN) == DOMAIN
        assert not domains, f"{path} imports {name}: the harness knows no method"


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_command_is_the_same_three_lines(question):
    lines = (ROOT / "experiments" / question / "__main__.py").read_text().split("\n")
    assert sorted(line for line in lines if line) == sorted((
        f'"""The command: python -m experiments.{question}."""', "from experiments.harness import runner",
        f"from experiments.{question} import PRESETS, main", "runner.run(main, PRESETS)",
    ))  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_kept_libraries_have_one_owner(path):
    relative = str(path.relative_to(ROOT))
    for name in set(imports(path)):
        for library, owners in OWNERS.items():
            if name == library or name.startswith(library + "."):
                assert relative.startswith(owners), f"{relative} imports {name}; its room is {owners}"


@pytest.mark.parametrize("package", ["core", *DOMAINS])
def test_a_domain_exports_its_modules_all_of_them(package):
    folder, loaded = ROOT / "subspace_jax" / package, importlib.import_module(f"subspace_jax.{package}")
    files = [*folder.glob("[!_]*.py"), *(p.parent for p in folder.glob("*/__init__.py"))]
    assert sorted(loaded.__all__) == sorted(p.stem for p in files)
    for name in loaded.__all__:
        assert getattr(loaded, name).__name__ == f"subspace_jax.{package}.{name}"


def test_import_is_light():
    heavy = "tensorflow_datasets", "orbax", "matplotlib", "sklearn", "tensorflow", "torch"
    code = (
        "import sys, subspace_jax.core.curvature, subspace_jax.nn, subspace_jax.training, subspace_jax.memorization,"
        "subspace_jax.unlearning, subspace_jax.label_noise, subspace_jax.compression, subspace_jax.continual,"
        "subspace_jax.decentralized.train, subspace_jax.decentralized.ngc, subspace_jax.data.partition,"
        "subspace_jax.privacy.membership, subspace_jax.ood.scores, subspace_jax.ood.vrm;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
