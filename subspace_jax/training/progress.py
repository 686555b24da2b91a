"""A progress bar for long loops: rate and remaining time, on stderr; not shown where stderr is no terminal."""

import sys
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def track(steps: Iterable, *, label: str, total: int, samples: int, done: int = 0) -> Iterator:
    """Yield from `steps` under a bar of `total` steps, each of `samples` samples, of which `done` are complete."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")
        for step in steps:
            yield step
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed * samples:,.0f} samples/s" if speed else "")
