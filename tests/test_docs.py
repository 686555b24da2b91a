"""The site: nothing is forgotten in it, its figures exist, docstrings and formulas survive the way into HTML."""

import html
import importlib
import json
import pathlib
import re
import sys
import types

import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness.published import questions

yaml = pytest.importorskip("yaml")
pytest.importorskip("mkdocs", reason="the group docs is not installed")

ROOT = pathlib.Path(__file__).parent.parent
HOOKS = ROOT / "docs" / "hooks"
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def hooks(*names):
    """Files of docs/hooks as modules; one may import another."""
    sys.path.insert(0, str(HOOKS))
    found = [importlib.import_module(name) for name in names]
    sys.path.remove(str(HOOKS))
    return found


measured, reference, formulas, docstrings, offline = hooks("measured", "reference", "formulas", "docstrings", "offline")


def leaves(nav):
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(part)]


def test_every_page_is_in_the_navigation():
    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(listed) == len(set(listed))
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES} <= set(listed)


def test_everything_public_is_in_the_reference():
    package = importlib.import_module("subspace_jax")
    pages = reference.reference()
    assert list(pages) == list(package._LAZY)
    for name, found in pages.items():
        for dotted in found:
            module = importlib.import_module(dotted)
            if not hasattr(module, "__path__"):  # the page of a single file shows all of it
                continue
            text = reference._page(dotted)
            for each in module.__all__:
                public = getattr(module, each)
                if not isinstance(public, types.ModuleType):
                    place = re.search(rf"^::: (\S+)\.{each}$", text, flags=re.MULTILINE)[1]
                    assert getattr(importlib.import_module(place), each) is public
                elif dotted == f"subspace_jax.{name}":
                    assert f"{dotted}.{each}" in found
                else:
                    assert f"\n::: {public.__name__}\n" in text


def test_every_question_is_among_the_commands():
    text = reference._commands()
    assert all(f"## {path.parent.name}\n" in text for path in ROOT.glob("experiments/*/__main__.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_takes_from_elsewhere_is_there(page):
    text = measured.on_page_markdown(page.read_text())
    assert not re.search(r"<!-- (results|tables|README)|\.\./results/|\.\./RESULTS", text)
    headings = map(measured._slug, re.findall(r"^## (.+)$", (ROOT / "RESULTS.md").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\(RESULTS\.md#([^)]+)\)", text)) <= set(headings)


def test_the_claims_of_every_measured_question_are_on_a_page():
    told = {question for page in PAGES for question in measured.CLAIMS.findall(page.read_text())}
    assert told == {name for name in questions() if any((ROOT / "results").glob(f"{name}_[cg]pu_*.json"))}


def test_a_figure_is_that_of_the_file():
    run = json.loads((ROOT / "results" / "class_unlearning_cpu_digits.json").read_text())
    shown = measured.figure("class_unlearning_cpu_digits", "score/projection")
    assert float(shown.split(" ± ")[0]) == pytest.approx(run["figures"]["score/projection"], rel=5e-3)
    with pytest.raises(KeyError, match="has no figure 'score/none'"):
        measured.figure("class_unlearning_cpu_digits", "score/none")


def test_tables_of_a_benchmark_are_those_of_its_file(monkeypatch):
    part = {"a job": {"8 devices": {"compute_s": 1234.5, "total": 0.25}}}
    monkeypatch.setattr(measured, "_run", lambda name: {"pods": part})
    assert measured.on_page_markdown("<!-- tables: benchmark_pod_cpu/pods -->") == (
        "**a job**\n\n|  | compute s | total |\n| --- | --- | --- |\n| 8 devices | 1.23e+03 | 0.25 |"
    )
    with pytest.raises(KeyError, match="has no part 'other'"):
        measured.tables("benchmark_pod_cpu", "other")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_formula_becomes_mathml(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for display, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", text, flags=re.DOTALL):
        marked = f'<span class="arithmatex">\\({html.escape(display or inline)}\\)</span>'
        drawn = formulas.on_page_content(marked)
        assert drawn.startswith('<span class="formula"><math')
        assert "\\" not in drawn, f"no MathML for a command in {display or inline}"


def test_a_page_that_loads_from_elsewhere_is_refused():
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="a.md"))
    kept = '<a href="https://arxiv.org/abs/1">paper</a><script src="assets/a.js"></script><link href="b.css">'
    assert offline.on_post_page(kept, page) == kept
    for loaded in ('<script async src="https://x.org/a.js">', '<link rel="stylesheet" href="//x.org/a.css">'):
        with pytest.raises(offline.PluginError, match=r"a\.md loads .*x\.org"):
            offline.on_post_page(kept + loaded, page)


def rendered(text):
    return markdown.markdown(
        text,
        extensions=["tables", "pymdownx.superfences", "pymdownx.arithmatex"],
        extension_configs={"pymdownx.arithmatex": {"generic": True}},
    )


def read(text):
    """What a reader sees of Markdown, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", rendered(text))).split())


@given(st.text(st.sampled_from("abk01 *_[]()<>|'^=+-$"), max_size=40).filter(lambda text: "**" not in text))
def test_formulas_in_docstrings_read_as_they_were_written(text):
    assert read(docstrings.markdown(f"a {text} b")) == " ".join(f"a {text} b".replace("||", "‖").split())


DOCSTRING = """The norm ||dK||_F^2 of a_b*c, `x[i][j]` as code and **this** bold.

Edge cases
  | case | what |
  |---|---|
  | none | x_0 |

Sizes:
  n_x, n_y: of a grid
    in steps
  h: of a step

  norm:  a_1      std: b_1

>>> f(x)["a"]["b"]
2

Args:
  some_name: w_ij * x_j.
"""


def test_the_parts_of_a_docstring():
    text = docstrings.markdown(DOCSTRING)
    shown = rendered(text)
    assert "norm ‖dK‖_F^2 of a_b*c" in shown
    assert "<code>x[i][j]</code>" in shown
    assert "<strong>this</strong>" in shown
    assert "<td>x_0</td>" in shown
    assert '```pycon\n>>> f(x)["a"]["b"]\n2\n```' in text
    assert "\n  some_name: w\\_ij" in text  # a name in a section stays as it is: Griffe looks for it
