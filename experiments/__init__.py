"""One folder, one question, one command: `python -m experiments.<name>`; they share `families` and `harness`."""
