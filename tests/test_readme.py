import json
import pathlib
import re

import pytest

from experiments import results

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), space)
    if page.name == "README.md":
        assert capsys.readouterr().out.count("curvature") == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_results_page_is_what_the_committed_figures_make():
    assert (ROOT / "RESULTS.md").read_text() == results.page()


def test_a_second_run_of_a_preset_and_data_is_kept_beside_the_first(tmp_path, monkeypatch):
    run = json.loads((ROOT / "results/memorization_cpu_digits.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(run))
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    for variant in ("", "human"):
        results.keep(tmp_path, variant)
    kept = {path.stem: json.loads(path.read_text())["figures"] for path in (tmp_path / "results").iterdir()}
    assert kept == dict.fromkeys(("memorization_cpu_digits", "memorization_cpu_digits_human"), run["figures"])


def test_the_table_of_systems_names_data_that_was_measured():
    rows = [line.split("|")[1:-1] for line in (ROOT / "README.md").read_text().splitlines() if "`experiments." in line]
    rows = [cells for cells in rows if len(cells) == 4]
    assert len(rows) >= 10
    for *_, command, measured in rows:
        paths = [path for name in re.findall(r"[a-z_]+(?=`)", command) for path in ROOT.glob(f"results/{name}_*.json")]
        found = {json.loads(path.read_text())["config"]["data"] for path in paths}
        assert set(measured.strip().split(", ")) <= found, command
