"""What is said of long work where nobody looks at a bar."""

from subspace_jax.training import progress


def test_lines_say_rate_and_remaining_time_where_stderr_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(range(2, 6), label="scores", total=6, samples=100, done=2)) == [2, 3, 4, 5]
    assert capsys.readouterr().err.splitlines() == [
        "scores: 4 of 6, 5 samples/s, 40 s left", "scores: 6 of 6, 5 samples/s, 0 s left",
    ]  # fmt: skip


def test_a_label_may_tell_what_changes(monkeypatch, capsys):
    clock, spent = iter(range(0, 1000, 40)), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    for step in progress.track(range(2), label=lambda: f"spent {len(spent)}", total=2, samples=1):
        spent.append(step)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["spent 1", "spent 2"]
