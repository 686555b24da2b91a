"""A progress bar for long loops: rate and remaining time on stderr, as a line now and then where it is no terminal."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30  # seconds between two lines


def track(steps: Iterable, *, label: str, total: int, samples: int, done: int = 0) -> Iterator:
    """Yield from `steps` under a bar of `total` steps, each of `samples` samples, of which `done` are complete.

    Where stderr is no terminal, a line every 30 seconds says the same.
    """
    console = Console(file=sys.stderr)
    started = said = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")
        for taken, step in enumerate(steps, start=1):
            yield step
            now = time.monotonic()
            if not console.is_terminal and now - said >= EVERY:
                said, left = now, (now - started) / taken * max(0, total - done - taken)
                rate = f"{taken * samples / (now - started):,.0f} samples/s"
                print(f"{label}: {done + taken} of {total}, {rate}, {left:.0f} s left", file=sys.stderr)
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed * samples:,.0f} samples/s" if speed else "")
