"""One self-contained HTML page per run: question, figures, tables, claims, environment."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import numpy as np

from experiments.harness import plots
from subspace_jax.files import written


class Section(NamedTuple):
    """A heading, what to notice, pictures (paths of PNG files) and at most one table (first row: heads)."""

    title: str
    text: str = ""
    figures: tuple[pathlib.Path, ...] = ()
    table: tuple[tuple[Any, ...], ...] = ()


Shown = tuple[np.ndarray, str, bool]  # a sample, its caption, whether it is marked


def caption(sample: np.ndarray, index: int, text: str) -> str:
    """Caption of a sample; its index is added if the sample is no image."""
    return text if sample.ndim == 3 else f"#{index}: {text}"


def gallery(title: str, text: str, workdir: str, name: str, rows: list[tuple[str, list[Shown]]]) -> Section:
    """Samples in rows (heading, samples): images as a picture, rows of numbers as a table of their captions."""
    if not rows:
        return Section(title, text)
    if rows[0][1][0][0].ndim == 3:
        return Section(title, text, (plots.gallery(workdir, name, rows),))
    cells = [[f"{said} (marked)" if mark else said for _, said, mark in shown] for _, shown in rows]
    depth = max(map(len, cells))
    table = [[column[k] if k < len(column) else "" for column in cells] for k in range(depth)]
    return Section(title, text, (), (tuple(heading for heading, _ in rows), *map(tuple, table)))


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #1d2430 }
 h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dae2 }
 img { max-width: 100%; display: block; margin: 1rem 0 }
 pre { background: #f4f6f9; padding: .8rem; white-space: pre-wrap }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .8rem; text-align: right }
 th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #1d2430 }
 tr:nth-child(even) { background: #f4f6f9 } .yes { color: #11703c } .no { color: #b3261e; font-weight: 600 }
 table, .figure { display: block; overflow-x: auto } td:not(:first-child) { white-space: nowrap }
 pre { overflow-wrap: anywhere } @media (max-width: 40rem) { img { max-width: none; width: 40rem } }
 @media (prefers-color-scheme: dark) {
  body { background: #12161d; color: #e3e8ef } h2 { border-color: #3a4554 } th { border-color: #e3e8ef }
  pre, tr:nth-child(even) { background: #1d2530 } img { background: #fff; border-radius: 4px }
  .yes { color: #63d297 } .no { color: #ff8d84 }
 }
</style>
<h1>{{ question }}</h1>
<pre>{{ rest }}</pre>
<p>{{ run.experiment }}, preset {{ run.preset }}, data {{ run.config.data }}, {{ run.config.seeds }} seed(s) from
{{ run.config.seed }}, {{ run.seconds }} s.</p>
{% if run.claims %}<h2>Claims</h2>
<table><tr><th>claim</th><th>value</th><th>at least</th><th></th><th>lowest three seeds</th>
<th>seeds below</th></tr>
{% for c in run.claims %}<tr><td>{{ c.name }}</td><td>{{ "%.4f"|format(c.value) }}</td>
<td>{{ "%.4f"|format(c.threshold) }}</td>
<td class="{{ 'yes' if c.holds else 'no' }}">{{ "holds" if c.holds else "does not hold" }}</td>
{% for cell in by_seed(c, run.config.seed) %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table>{% endif %}
{% for s in sections %}<h2>{{ s.title }}</h2>{% if s.text %}<p>{{ s.text }}</p>{% endif %}
{% for source, alt in s.images %}
<div class="figure"><img src="data:image/png;base64,{{ source }}" alt="{{ alt }}"></div>{% endfor %}
{% if s.table %}<table>{% for row in s.table %}<tr>{% for cell in row %}
{% if loop.index0 >= 0 and s.table[0] is sameas row %}<th>{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}
{% endfor %}</tr>{% endfor %}</table>{% endif %}{% endfor %}
<h2>All figures</h2><table><tr><th>figure</th><th>mean</th><th>deviation</th></tr>
{% for k, v in run.figures.items() %}<tr><td>{{ k }}</td><td>{{ "%.4g"|format(v) }}</td>
<td>{{ "%.2g"|format(run.std[k]) }}</td></tr>{% endfor %}</table>
<h2>Environment</h2><table>
{% for k, v in run.environment.items() %}<tr><td>{{ k }}</td><td>{{ v }}</td></tr>{% endfor %}
</table><pre>{% for k, v in run.config.items() %}{{ k }} = {{ v }}
{% endfor %}</pre></html>"""


def by_seed(claim: Mapping[str, Any], first: int) -> tuple[str, str]:
    """The mean of a claim's three lowest seeds, if there are more, and the numbers of the seeds below its threshold."""
    values = claim.get("seeds", ())
    lowest = f"{sum(sorted(values)[:3]) / 3:.4f}" if len(values) > 3 else ""
    return lowest, ", ".join(str(first + k) for k, value in enumerate(values) if not value >= claim["threshold"])


def write(path: pathlib.Path, name: str, doc: str, run: dict[str, Any], sections: list[Section]) -> None:
    """Render the page; pictures are embedded, so that the file can be sent as it is."""
    question, _, rest = doc.strip().partition("\n")
    shown = [
        {"title": s.title, "text": s.text, "table": s.table, "images": [(_encode(p), p.stem) for p in s.figures]}
        for s in sections
    ]
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    about = {"name": name, "question": question, "rest": rest.strip("\n"), "run": run, "sections": shown}
    with written(path) as file:
        file.write(template.render(**about, by_seed=by_seed))


def _encode(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
