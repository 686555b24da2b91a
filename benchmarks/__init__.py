"""One file per benchmark, which measures our cost against a peer's or a limit: `python -m benchmarks.<name>`."""
