"""The reference: one page a module, from the `__all__` of each package, so that no new module is forgotten.

The sources are read, not imported. A name that a package takes from one of its own files is a function or a class and
stands on the page of the package; any other is a module and gets a page.
"""

import ast
import pathlib
from typing import Any, NamedTuple

import docstrings
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "subspace_jax"


class Exports(NamedTuple):
    """What a package offers: its modules, and where each name of its own page is defined."""

    modules: list[str]
    names: dict[str, str]


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


def exports(dotted: str) -> Exports:
    """The `__all__` of a package, as modules and {name: dotted name of its definition}; nothing of a single file."""
    source = ROOT.joinpath(*dotted.split("."), "__init__.py")
    if not source.exists():
        return Exports([], {})
    tree = ast.parse(source.read_text())
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != dotted]
    places = {alias.name: f"{node.module}.{alias.name}" for node in taken for alias in node.names}
    own = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    places |= {target.id: f"{dotted}.{target.id}" for target in own if isinstance(target, ast.Name)}
    listed = _constant(tree, "__all__")
    return Exports([n for n in listed if n not in places], {n: places[n] for n in listed if n in places})


def reference() -> dict[str, dict[str, str]]:
    """{package: {dotted name: path of its page}}, the package's own page first."""
    found = {}
    for package in packages():
        dotted = f"{PACKAGE}.{package}"
        pages = {f"{dotted}.{name}": f"reference/{package}/{name}.md" for name in exports(dotted).modules}
        found[package] = {dotted: f"reference/{package}/index.md"} | pages
    return found


def _page(dotted: str) -> str:
    """The page of a module: a file as it is; a package with what it exports, then its modules."""
    short = dotted.removeprefix(f"{PACKAGE}.")
    modules, names = exports(dotted)
    if not modules and not names:
        return f"# `{short}`\n\n::: {dotted}\n"
    parts = [f"# `{short}`\n\n::: {dotted}\n    options:\n      members: []\n"]
    parts += [
        f"::: {place}\n    options:\n      show_root_heading: true\n      show_root_toc_entry: true\n"
        for place in names.values()
    ]
    if "." in short:  # a folder within a package: its modules have no pages of their own
        parts += [f"## `{m}`\n\n::: {dotted}.{m}\n    options:\n      heading_level: 3\n" for m in modules]
    elif modules:
        rows = "".join(f"| [`{m}`]({m}.md) | {summary(f'{dotted}.{m}')} |\n" for m in modules)
        parts.append(f"## Modules\n\n| module | |\n|---|---|\n{rows}")
    return "\n".join(parts)


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
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        parts += [f"## {path.parent.name}", docstrings.markdown(docstring)]
    return "\n\n".join(parts) + "\n"


def _constant(tree: ast.Module, name: str) -> list[str]:
    """The value of a list of strings at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"the module has no list {name} at its top")
