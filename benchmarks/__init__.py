"""One file, one ratio against a peer or a limit: `python -m benchmarks.<name>`."""
