"""Who may import whom, what is loaded when, and where each kept library may appear."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
RANKS = {"typing": 0, "trees": 1, "core": 2, "nn": 3, "data": 3, "training": 4, "checkpoint": 5}
DOMAIN = 6
OWNERS = {
    "flax.linen": ("subspace_jax/nn",),
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
        "subspace_jax.decentralized.train, subspace_jax.decentralized.ngc, subspace_jax.data.partition;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
