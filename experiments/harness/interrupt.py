"""Ctrl-C that is always heard: what is raised in a callback of the garbage collector, Python prints and forgets."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

DEAF = "_xla_gc_callback", "__del__"  # functions out of which no exception comes
AGAIN = 0.1  # seconds until the next try


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, a moment later where Python would ignore it; in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame:
        if frame.f_code.co_name in DEAF:
            later = threading.Timer(AGAIN, os.kill, [os.getpid(), number])
            later.daemon = True
            return later.start()
        frame = frame.f_back
    raise KeyboardInterrupt
