"""The reference: one page a module, from the `__all__` of each package, so that no new module is forgotten.

The sources are read, not imported. A name that a package takes from one of its own files is a function or a class and
stands on the page of the package; any other is a module and gets a page.
"""

import ast
import pathlib
from typing import Any, NamedTuple

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "subspace_jax"


class Exports(NamedTuple):
    """What a package offers: its modules, and the names on its own page."""

    modules: list[str]
    names: list[str]


def on_config(config: Any) -> Any:
    """Add the reference to the navigation."""
    groups = [{group: [*pages.values()]} for group, pages in reference().items()]
    config.nav = [*config.nav, {"Reference": ["reference/index.md", *groups, "reference/commands.md"]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add its pages."""
    pages = {"reference/index.md": _contents(), "reference/commands.md": _commands()}
    for found in reference().values():
        pages |= {path: _page(dotted) for dotted, path in found.items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def packages() -> list[str]:
    """The public parts of the library, as its `__init__` lists them."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text())
    return list(_constant(tree, "_LAZY"))


def exports(package: str) -> Exports:
    """The `__all__` of a package, as modules and names."""
    source = ROOT / PACKAGE / package / "__init__.py"
    if not source.exists():
        return Exports([], [])
    tree, own = ast.parse(source.read_text()), f"{PACKAGE}.{package}."
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in taken if (node.module or "").startswith(own) for alias in node.names}
    listed = _constant(tree, "__all__")
    return Exports([name for name in listed if name not in names], [name for name in listed if name in names])


def reference() -> dict[str, dict[str, str]]:
    """{package: {dotted name: path of its page}}, the package's own page first."""
    found = {}
    for package in packages():
        pages = {f"{PACKAGE}.{package}": f"reference/{package}/index.md"}
        pages |= {f"{PACKAGE}.{package}.{m}": f"reference/{package}/{m}.md" for m in exports(package).modules}
        found[package] = pages
    return found


def _page(dotted: str) -> str:
    """A page: a package shows what its `__all__` takes from its files, then the list of its modules."""
    short = dotted.removeprefix(f"{PACKAGE}.")
    head = f"# `{short}`\n\n::: {dotted}\n"
    if "." in short or not (ROOT / PACKAGE / short).is_dir():
        return head
    found = exports(short)
    members = (
        f"    options:\n      members: [{', '.join(found.names)}]\n"
        if found.names
        else "    options:\n      members: []\n"
    )
    rows = "".join(f"| [`{m}`]({m}.md) | {summary(f'{PACKAGE}.{short}.{m}')} |\n" for m in found.modules)
    return head + members + (f"\n## Modules\n\n| module | |\n|---|---|\n{rows}" if rows else "")


def summary(dotted: str) -> str:
    """The first line of a module's docstring."""
    path = ROOT.joinpath(*dotted.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0].replace("|", "\\|")


def _contents() -> str:
    rows = "".join(f"| [`{p}`]({p}/index.md) | {summary(f'{PACKAGE}.{p}')} |\n" for p in packages())
    return f"# Reference\n\nFrom the docstrings, grouped as the package is.\n\n| package | |\n|---|---|\n{rows}"


def _commands() -> str:
    """One section a question: the docstring of its command."""
    parts = [
        "# Commands",
        "Each question is a command of this repository, with `--help`, `--preset smoke|cpu|gpu` and `--resume`; "
        "`python -m experiments` lists them.",
    ]
    for path in sorted(ROOT.glob("experiments/*/experiment.py")):
        question, _, rest = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")
        parts += [f"## {path.parent.name}", question, f"```text\n{rest.strip(chr(10))}\n```"]
    return "\n\n".join(parts) + "\n"


def _constant(tree: ast.Module, name: str) -> list[str]:
    """The value of a list of strings at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"the module has no list {name} at its top")
