"""The notebooks as pages with their outputs: executed at every build, one after the other (SMOKE=1: on less data)."""

import pathlib
import tempfile
from typing import Any

import jupytext
import nbclient
import nbconvert
from mkdocs.structure.files import File, Files

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
QUIET = ["--log-level=ERROR"]  # else the kernel warns that this machine may listen to it
SECONDS = 600  # a cell may take on a loaded machine


def on_files(files: Files, config: Any) -> Files:
    """Add notebooks/<name>.md with its pictures."""
    for source in sorted(FOLDER.glob("*.py")):
        body, pictures = rendered(source)
        files.append(File.generated(config, f"notebooks/{source.stem}.md", content=body))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def rendered(source: pathlib.Path) -> tuple[str, dict[str, bytes]]:
    """Markdown and the pictures that it shows; the repository is on the path, and what a cell writes is thrown away."""
    notebook = jupytext.read(source)
    notebook.cells[0].source += f"\n\nThe file: `experiments/notebooks/{source.name}`."
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        nbclient.NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources=where, extra_arguments=QUIET
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = shown(cell.outputs)
    own = {"unique_key": source.stem, "output_files_dir": f"{source.stem}_files"}
    body, resources = nbconvert.MarkdownExporter().from_notebook_node(notebook, resources=own)
    for other in FOLDER.glob("*.py"):
        body = body.replace(f"({other.name})", f"({other.stem}.md)")
    return body, resources["outputs"]


def shown(outputs: list[Any]) -> list[Any]:
    """What a cell printed, as one piece, then its pictures; progress and warnings belong to the terminal."""
    said = [out for out in outputs if out.get("name") == "stdout"]
    for out in said[:1]:
        out.text = "".join(each.text for each in said)
    return said[:1] + [out for out in outputs if out.output_type != "stream"]
