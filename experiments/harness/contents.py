"""README.txt of a run's folder: what each file in it is, read off the files themselves."""

import csv
import json
import pathlib
from collections.abc import Iterable, Iterator

from experiments.harness import report
from subspace_jax.files import written

KNOWN = {
    "report.html": "the page to open first: question, pictures, tables, claims, environment; it needs no other file",
    "summary.json": "the line on stdout, with the flags, the hardware, the versions and the commit",
    "metrics.jsonl": "the figures of every seed, a line of JSON each",
    "config.json": "the flags of the run; --resume reads them",
    "error.txt": "the traceback of the last error",
    "logs": "what each process said",
    "stages": "finished parts of the run, which --resume does not compute again; of no use once the run is done",
}
SHOWN = 12  # columns, and folders of one kind, that are named; the rest are counted


def write(workdir: str, name: str, question: str, command: str, sections: Iterable[report.Section] = ()) -> None:
    """Write README.txt.

    Args:
      workdir: the run's folder, finished or not.
      name: of the experiment.
      question: the first line of its docstring.
      command: that goes on with the run.
      sections: of the report, whose titles are those of their pictures.
    """
    folder = pathlib.Path(workdir)
    done = (folder / "summary.json").exists()
    state = "" if done else f"\nThis run is not finished. To go on:\n  {command}\n"
    lines = [f"{path:<{28}}  {what}" for path, what in described(folder, sections)]
    with written(folder / "README.txt") as file:
        file.write(f"experiments.{name}: {question}\n{state}\n" + "\n".join(lines) + "\n")


def described(folder: pathlib.Path, sections: Iterable[report.Section]) -> Iterator[tuple[str, str]]:
    """(path, what it is), the first to open at the top."""
    for known, what in KNOWN.items():
        if (path := folder / known).exists():
            yield known + "/" * path.is_dir(), what
    for table in sorted(folder.glob("*.csv")):
        yield table.name, columns(table)
    for arrays in sorted(folder.glob("*.npz")):
        same = arrays.with_suffix(".csv").exists()
        yield arrays.name, f"the columns of {arrays.stem}.csv as NumPy arrays" if same else "NumPy arrays"
    titles = {figure.name: section.title for section in sections for figure in section.figures}
    for figure in sorted(folder.glob("figures/*.png")):
        yield f"figures/{figure.name}", titles.get(figure.name, "picture of the report")
    yield from networks(folder)


def columns(table: pathlib.Path) -> str:
    """How many rows a table has of what."""
    with table.open(newline="") as file:
        heads, *rows = [*csv.reader(file)] or [[]]
    more = f" and {len(heads) - SHOWN} more" if len(heads) > SHOWN else ""
    return f"{len(rows)} rows of {', '.join(heads[:SHOWN])}{more}"


def networks(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The folders of checkpoints: networks for --checkpoint, or states that only --resume reads."""
    found: dict[pathlib.Path, list[pathlib.Path]] = {}
    for path in folder.rglob("config/metadata"):
        if path.parents[1].name.isdigit():  # what a save that failed left, Orbax names otherwise
            found.setdefault(path.parents[2], []).append(path)
    loaded = sorted(path for path, configs in found.items() if "model" in _config(configs[0]))
    for path in loaded[:SHOWN]:
        epochs = sorted(int(config.parents[1].name) for config in found[path])
        named = len(epochs) <= SHOWN
        kept = f"epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}" if named else f"{len(epochs)} epochs"
        yield f"{path.relative_to(folder)}/", f"a network ({kept}) for any question: --checkpoint {path}"
    if len(loaded) > SHOWN:
        yield "...", f"{len(loaded) - SHOWN} more networks, which --checkpoint takes alike"
    states = sorted(found.keys() - set(loaded))
    if states:
        yield f"{states[0].relative_to(folder)}/", f"the state of training ({len(states)} in all), for --resume alone"


def _config(path: pathlib.Path) -> dict[str, object]:
    """A saved config; empty where it is damaged, which loading it says."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
