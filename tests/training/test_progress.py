"""What is said of long work where nobody looks at a bar."""

from subspace_jax.training import progress


def test_lines_say_rate_and_remaining_time_where_stderr_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(range(2, 6), label="scores", total=6, samples=100, done=2)) == [2, 3, 4, 5]
    assert capsys.readouterr().err.splitlines() == [
        "scores: 4 of 6, 5 samples/s, 40 s left", "scores: 6 of 6, 5 samples/s, 0 s left",
    ]  # fmt: skip
