"""One folder, one question, one command: `python -m experiments.<name>`; they share `families` and `harness`."""

import os
import signal
import sys


def _leave(*_: object) -> None:
    os.write(2, b"stopped\n")
    os._exit(128 + signal.SIGINT)


if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)  # while a command imports, nothing is to be kept: `harness.interrupt` follows
