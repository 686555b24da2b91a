"""One command for all benchmarks: it finds them, outlives what fails, goes on; their rows are those of the reports."""

import argparse
import importlib
import json
import math
import pathlib
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks import table
from experiments import results

KNOWN, BY_HAND = command.benchmarks()
RECORDED = [name for name in KNOWN if (results.FOLDER / f"benchmark_{name}_cpu.json").exists()]
REPORT = {
    "device": "cpu", "cores": 2, "jax": "0", "summary": {
        "ratios": [
            {"what": "a sum", "kind": "plain", "against": "a loop", "ms": 2.0, "ratio": 30.0},
            {"what": "a sum", "kind": "limit", "against": "memory", "ms": 2.0, "ratio": 0.5},
            {"what": "a sum", "kind": "plain", "against": "a list", "ms": 2.0, "ratio": 7.0},
        ],
        "curves": [{"what": "a sum", "axis": "samples", "sizes": [10, 100, 1000], "ms": [2.0, 9.0, 200.0]}],
    },
}  # fmt: skip
SCRIPTS = {
    "good": f"import sys, pathlib; pathlib.Path(sys.argv[1]).write_text({json.dumps(REPORT)!r})",
    "peerless": f"import sys, pathlib; print('no rows of torch: gone'); print('no rows of torch: gone'); "
    f"pathlib.Path(sys.argv[1]).write_text({json.dumps(REPORT | {'summary': {}})!r})",
    "broken": "import sys; sys.stderr.write('ValueError: no such thing\\n---\\nFor simplicity, ...\\n'); sys.exit(1)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "slow": "import time; time.sleep(60)",
}


@pytest.fixture
def scripts(monkeypatch):
    """Benchmarks that are a line each; the names of those that ran."""
    ran = []

    def started(name, preset, out):
        ran.append(name)
        return [sys.executable, "-c", SCRIPTS[name], str(out)]

    monkeypatch.setattr(command, "command", started)
    monkeypatch.setattr(command, "benchmarks", lambda: (dict.fromkeys(SCRIPTS, "What?"), {"kills": "What else?"}))
    return ran


def test_every_file_that_measures_is_found():
    assert {"attacks", "curvature", "decentralized", "training"} <= set(KNOWN)
    assert "kills" in BY_HAND
    measured = {path.stem.split("_")[1] for path in results.FOLDER.glob("benchmark_*_cpu.json")}
    assert measured <= {*KNOWN, *BY_HAND}
    assert all(question.endswith(("?", ".")) for question in KNOWN.values())


@pytest.mark.parametrize("name", KNOWN)
def test_presets_set_flags_that_there_are(name):
    module = importlib.import_module(f"benchmarks.{name}")
    flags = vars(module.parser().parse_args([]))
    assert set(module.PRESETS) == {"cpu", "gpu"}
    for preset, sizes in module.PRESETS.items():
        assert set(sizes) <= set(flags)
        args = table.parse(module.parser(), module.PRESETS, ["--preset", preset])
        assert vars(args) == flags | sizes | {"preset": preset, "out": None}


@pytest.mark.parametrize("name", RECORDED)
def test_a_report_gives_its_rows(name):
    report = json.loads((results.FOLDER / f"benchmark_{name}_cpu.json").read_text())
    found = importlib.import_module(f"benchmarks.{name}").summary(report)
    assert found.ratios
    for row in found.ratios:
        assert row.kind in command.KINDS
        assert min(row.ms, row.ratio) > 0
        assert math.isfinite(row.ms * row.ratio)
    for curve in found.curves:
        assert len(curve.sizes) == len(curve.ms) > 1
        assert curve.sizes == sorted(set(curve.sizes))
        assert min(curve.ms) > 0


def test_flags_beat_the_preset():
    presets = {"cpu": {"size": 3}, "gpu": {"size": 300}}

    def parser():
        found = argparse.ArgumentParser()
        found.add_argument("--size", type=int, default=30)
        return found

    sizes = [table.parse(parser(), presets, flags.split()).size for flags in (
        "", "--preset cpu", "--preset gpu", "--size 4 --preset gpu", "--preset=gpu"
    )]  # fmt: skip
    assert sizes == [30, 3, 300, 4, 300]
    with pytest.raises(SystemExit):
        table.parse(parser(), presets, ["--preset", "tpu"])


def test_what_fails_is_told_in_a_line_and_the_others_go_on(scripts, tmp_path, capsys):
    path = tmp_path / "new" / "all.json"
    names = ["broken", "good", "peerless", "killed"]
    assert command.main(["--only", *names, "--out", str(path)]) == 1
    entries = json.loads(path.read_text())["benchmarks"]
    assert {name: entry["failed"] for name, entry in entries.items()} == {
        "broken": "exit status 1: ValueError: no such thing", "good": None, "peerless": None,
        "killed": "exit status -9: no message",
    }  # fmt: skip
    assert entries["peerless"]["absent"] == ["no rows of torch: gone"]
    assert entries["good"]["ratios"] == REPORT["summary"]["ratios"]
    printed = capsys.readouterr()
    assert "30 (a loop), 7 (a list)" in printed.out
    assert "0.5 (memory)" in printed.out
    assert "broken: exit status 1: ValueError: no such thing\n" in printed.err
    assert "[2/4] good" in printed.err
    assert "without rows: broken, killed" in printed.err


def test_resume_runs_what_is_missing_or_failed(scripts, tmp_path, monkeypatch):
    path = tmp_path / "all.json"
    assert command.main(["--only", "good", "broken", "--out", str(path)]) == 1
    monkeypatch.setitem(SCRIPTS, "broken", SCRIPTS["good"])
    assert command.main(["--only", "good", "broken", "peerless", "--resume", "--out", str(path)]) == 0
    assert scripts == ["good", "broken", "broken", "peerless"]
    assert command.main(["--only", "good", "--out", str(path)]) == 0
    assert list(json.loads(path.read_text())["benchmarks"]) == ["broken", "good", "peerless"]
    monkeypatch.setattr(command, "benchmarks", lambda: ({"good": "What?"}, {}))
    assert command.main(["--out", str(path)]) == 0
    assert list(json.loads(path.read_text())["benchmarks"]) == ["good"]


def test_one_that_hangs_is_ended(scripts, tmp_path):
    assert command.main(["--only", "slow", "good", "--timeout", "0.5", "--out", str(tmp_path / "all.json")]) == 1
    entries = json.loads((tmp_path / "all.json").read_text())["benchmarks"]
    assert entries["slow"]["failed"] == "not done after 0.5 s"
    assert entries["good"]["failed"] is None


def test_the_list_names_all_and_what_is_run_by_hand(scripts, capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*SCRIPTS, "kills"]
    assert lines[-1].endswith("(not part of the run: python -m benchmarks.kills)")
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "nothing"])
    assert ended.value.code == 2


def test_rows_and_growth_become_tables():
    entries = {"one": REPORT["summary"] | {"failed": None, "absent": [], "seconds": 30.0} | REPORT}
    entries["two"] = {"failed": "exit status 1", "absent": [], "seconds": 30.0}
    found = results.overview({"command": "python -m benchmarks", "benchmarks": entries})
    assert found["rows"] == {"one: a sum": ["2", "", "30 (a loop); 7 (a list)", "", "0.5 (memory)"]}
    assert found["growth"] == [["one: a sum", "samples", "10 - 1,000", "2 - 200", "1.00"]]
    assert (found["missing"], found["minutes"]) == (["two (exit status 1)"], "1.0")


def test_the_command_starts_without_jax():
    text = pathlib.Path(command.__file__).read_text()
    assert "import jax" not in text
    assert "\nimport jax" not in pathlib.Path(table.__file__).read_text()
