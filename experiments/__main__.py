"""`python -m experiments` lists all experiments with their presets, times and newest results."""

import ast
import json
import pathlib
import shutil
import signal
import textwrap

from experiments.harness.published import ROOMS, numbered, questions

INDENT = "    "


def described(question: str) -> tuple[str, list[str]]:
    """The first line of its docstring and the names of its presets, read without importing it."""
    tree = ast.parse((ROOMS / question / "experiment.py").read_text())
    presets = next(
        node.value for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PRESETS"
    )  # fmt: skip
    keys = presets.keys if isinstance(presets, ast.Dict) else []
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    return first, [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def results(question: str) -> list[str]:
    """One line for what was recorded with the project, one for the newest run here, one for a run not finished."""
    recorded = sorted((ROOMS.parent / "results").glob(f"{question}_*.json"))
    lines = [told(json.loads(path.read_text()), "recorded") for path in recorded]
    own = numbered(pathlib.Path("runs", question))
    if done := [folder for folder in own if (folder / "summary.json").exists()]:
        lines.append(told(json.loads((done[-1] / "summary.json").read_text()), str(done[-1])))
    if own and own[-1] not in done and (own[-1] / "config.json").exists():
        lines.append(f"{own[-1]}: unfinished, goes on by --resume --workdir {own[-1]}")
    return lines


def told(run: dict, where: str) -> str:
    """Preset, data, time and claims of a run."""
    claims = [claim["holds"] for claim in run["claims"]]
    held = f", {sum(claims)} of {len(claims)} claims hold" if claims else ""
    return f"{where}: {run['preset']}, {run['config']['data']}, {run['seconds']:.0f} s{held}"


def main() -> None:
    """Print the list."""
    width = min(120, shutil.get_terminal_size().columns)
    for question in questions():
        first, presets = described(question)
        print(f"python -m experiments.{question} --preset {'|'.join(presets)}")
        for line in (first, *results(question)):
            print(textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=INDENT))
        print()
    print("Each takes --help; --preset cpu is the default. python -m experiments.results writes RESULTS.md.")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager that is left early is no error
    main()
