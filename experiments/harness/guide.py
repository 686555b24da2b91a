"""The first screen of --help: the question, commands, presets, the flags that matter first, what comes out."""

import json
from typing import Any

from experiments.harness.published import ROOMS

TIMES = {
    "smoke": "under 20 s", "cpu": "under 5 min on 2 cores", "study": "under 45 min a seed on 2 cores",
    "gpu": "under 20 min on one GPU",
}  # fmt: skip
LOADING = "\n      --checkpoint DIR             a trained network from another run, instead of training one"
SCREEN = """{question}

{commands}

    presets, the defaults of all flags:
{presets}
    the flags that matter first:
      --data NAME --data-dir DIR   your own data, DIR/NAME/train.npz for instance; see docs/data.md
      --model NAME                 the network; --network-args NAME=VALUE for its details{loading}
      --seed S --seeds K           seeds S to S + K - 1: figures are means over them
      --workdir DIR --resume       where the run lies, runs/{name}/1, 2, ...; go on after Ctrl-C
    what comes out: one line of JSON on stdout (figures, deviations, claims), and the run's folder:
      report.html                  the page to open; README.txt there says what every other file is
    exit status: 0 done, also where a claim does not hold; 2 bad input; 1 a fault of ours; 130 Ctrl-C

{rest}

All flags:"""


def screen(name: str, presets: dict[str, Any], doc: str) -> str:
    """What stands before the list of all flags.

    Args:
      name: of the experiment.
      presets: its presets.
      doc: its docstring: the question, indented commands with what they cost, the rest.
    """
    question, commands, rest = [*doc.strip("\n").split("\n\n", 2), "", ""][:3]
    width = max(map(len, presets))
    lines = [f"      --preset {preset:{width}}  {told(name, preset, config)}" for preset, config in presets.items()]
    loading = LOADING if all(config.loads for config in presets.values()) else ""
    return SCREEN.format(
        question=question, commands=commands, presets="\n".join(lines), loading=loading, name=name, rest=rest
    )


def told(name: str, preset: str, config: Any) -> str:
    """Data, seeds and time of a preset, and how long its recorded run took."""
    many = f"{config.seeds} seed{'s' * (config.seeds > 1)}"
    recorded = ROOMS.parent / "results" / f"{name}_{preset}_{config.data}.json"
    took = f"; {json.loads(recorded.read_text())['seconds']:.0f} s when recorded" if recorded.exists() else ""
    default = " (the default)" if preset == "cpu" else ""
    return f"{config.data}, {many}: {TIMES[preset]}{took}{default}"
