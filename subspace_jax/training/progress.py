"""A progress bar for long loops: rate and remaining time on stderr, as a line now and then where it is no terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30  # seconds between two lines


def track(steps: Iterable, *, label: str | Callable[[], str], total: int, samples: int, done: int = 0) -> Iterator:
    """Yield from `steps` under a bar of `total` steps, each of `samples` samples, of which `done` are complete.

    A label that changes is a function of nothing, asked after each step.
    Where stderr is no terminal, a line every 30 seconds says the same.
    """
    say = label if callable(label) else lambda: label
    console = Console(file=sys.stderr)
    started = said = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(say(), total=total, completed=done, rate="")
        for taken, step in enumerate(steps, start=1):
            yield step
            now = time.monotonic()
            if not console.is_terminal and now - said >= EVERY:
                said, left = now, (now - started) / taken * max(0, total - done - taken)
                rate = f"{taken * samples / (now - started):,.0f} samples/s"
                print(f"{say()}: {done + taken} of {total}, {rate}, {left:.0f} s left", file=sys.stderr)
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, description=say(), rate=f"{speed * samples:,.0f} samples/s" if speed else "")
