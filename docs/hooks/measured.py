"""What the pages take from elsewhere at build time, so that no figure is typed and no text stands in two places.

    [score/projection](../results/class_unlearning_cpu_digits.json)     this figure, as a number, linked to its table
    <!-- results: class_unlearning -->                                  the claims of all runs of a question
    <!-- tables: benchmark_pod_cpu/pods -->                             the tables of this part of a benchmark's file
    <!-- README: Your own network -->                                   this section of README.md

RESULTS.md is a page of the site as it lies in the repository.
"""

import json
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
FIGURE = re.compile(r"\[([^\]]+)\]\(\.\./results/(\w+)\.json\)")
CLAIMS = re.compile(r"<!-- results: (\w+) -->")
TABLES = re.compile(r"<!-- tables: (\w+)/(\w+) -->")
SECTION = re.compile(r"<!-- README: (.+?) -->")


def on_files(files: Files, config: Any) -> Files:
    """Add the page of results."""
    files.append(File.generated(config, "RESULTS.md", content=(ROOT / "RESULTS.md").read_text()))
    return files


def on_page_markdown(text: str, **_: Any) -> str:
    """Put figures, claims and sections in their places."""
    text = SECTION.sub(lambda match: section(match[1]), text)
    text = CLAIMS.sub(lambda match: claims(match[1]), text)
    text = TABLES.sub(lambda match: tables(match[1], match[2]), text)
    text = FIGURE.sub(lambda match: f"[{figure(match[2], match[1])}](RESULTS.md#{anchor(match[2])})", text)
    return text.replace("](../RESULTS.md", "](RESULTS.md")


def figure(name: str, key: str) -> str:
    """A figure of results/<name>.json, with its deviation over the seeds.

    Raises:
      KeyError: the run has no such figure; the page names one that is gone.
    """
    run = _run(name)
    if key not in run["figures"]:
        raise KeyError(f"results/{name}.json has no figure {key!r}; a page of docs/ names it.")
    spread = run["std"][key]
    return f"{run['figures'][key]:.3g}" + (f" ± {spread:.1g}" if spread else "")


def claims(question: str) -> str:
    """Tables of the claims of a question, one a run, each with its command."""
    parts = []
    for path in sorted(ROOT.glob(f"results/{question}_*_*.json")):
        run = _run(path.stem)
        place, seeds = run["environment"], run["config"]["seeds"]
        head = f"[{run['config']['data']}, preset {run['preset']}](RESULTS.md#{anchor(path.stem)}), {seeds} seeds"
        said = f"**{head}**, {run['seconds']:.0f} s on {place['devices']} ({place['cores']} cores): `{run['command']}`."
        rows = [
            f"| {claim['name'].replace('|', '&#124;')} | {claim['value']:.4g} | {claim['threshold']:.4g} | "
            f"{'holds' if claim['holds'] else '**does not hold**'} |"
            for claim in run["claims"]
        ]
        parts += [said, "\n".join(["| claim | value | at least | |", "|---|---|---|---|", *rows])] if rows else [said]
    if not parts:
        raise KeyError(f"there is no run of {question} under results/; a page of docs/ names it.")
    return "\n\n".join(parts)


def tables(name: str, part: str) -> str:
    """The tables {title: {row: {column: number}}} of a part of results/<name>.json, each under its title.

    Raises:
      KeyError: the file has no such part; a page names one that is gone.
    """
    run = _run(name)
    if part not in run:
        raise KeyError(f"results/{name}.json has no part {part!r}; a page of docs/ names it.")
    found = []
    for title, rows in run[part].items():
        columns = list(next(iter(rows.values())))
        head = ["", *(column.replace("_", " ") for column in columns)]
        lines = [[row, *(f"{values[column]:.3g}" for column in columns)] for row, values in rows.items()]
        found += [
            f"**{title}**",
            "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)),
        ]
    return "\n\n".join(found)


def anchor(name: str) -> str:
    """Where RESULTS.md shows a run: the heading above its command."""
    command = _run(name)["command"].split(" --")[0]
    before = (ROOT / "RESULTS.md").read_text().partition(f"`{command} ")[0]
    return _slug(re.findall(r"^## (.+)$", before, flags=re.MULTILINE)[-1])


def section(title: str) -> str:
    """The text of a section of README.md, without its heading.

    Raises:
      KeyError: README.md has no such section.
    """
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.M | re.S)
    if not found:
        raise KeyError(f"README.md has no section {title!r}; a page of docs/ shows it.")
    return found[1].strip()


def _slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _run(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())
