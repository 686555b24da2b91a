"""The benchmark refuses figures that do not agree, its models are their formulas, and its report has every row."""

import argparse
import functools
import json

import numpy as np
import pytest

from benchmarks import decentralized as benchmark
from benchmarks import decentralized_counts as counts
from experiments import results

METHODS = {name: counts.METHODS[name] for name in ("d_psgd", "ngc_alpha_0", "compngc")}
NETWORKS = {"mlp": ({"widths": (8,)}, (8, 8, 1))}
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10  # of it
FLOAT64 = 1e-12


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "NETWORKS", NETWORKS)
        yield


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text(json.dumps({"topology": "ring", "agents": 4}))
    np.savez(run / "agents.npz", **curves({"d_psgd": [0.5, 0.95]}))
    args = argparse.Namespace(
        networks=["mlp"], agents=[4], batch=2, devices=2, graph_agents=4, run=run, target=0.9, repeats=1, out=None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "METHODS", METHODS)
        patch.setattr(counts.topology, "GRAPHS", ("ring", "one_peer_exponential", "petersen"))
        return benchmark.main(args)


def curves(trials, seeds=(0,), cross=0.0):
    """As experiments.decentralized leaves them: two agents, an evaluation every 10 steps, 100 bytes a step."""
    cells = [
        (name, seed, 10 * (e + 1), agent, mean + (-1) ** agent / 50, 1000.0 * (e + 1), cross * (e + 1), 10.0 * (e + 1))
        for name, means in trials.items()
        for seed in seeds
        for e, mean in enumerate(means)
        for agent in range(2)
    ]
    names = "trial", "seed", "step", "agent", "accuracy", "bytes_model", "bytes_cross", "backward_passes"
    return dict(zip(names, map(np.array, zip(*cells, strict=True)), strict=True))


@pytest.mark.process
def test_the_report_is_json_and_tables_of_numbers(report):
    assert json.loads(json.dumps(report, default=str))["arguments"]["repeats"] == 1
    parts = results._parts(report, results.TABLES["decentralized"][1])
    assert len(parts) == 2 + len(counts.GRAPHS) + 3
    for rows in parts.values():
        assert len({tuple(row) for row in rows.values()}) == 1
        assert all(value is None or np.isfinite(value) for row in rows.values() for value in row.values())


@pytest.mark.process
def test_a_step_of_every_runner_was_measured(report):
    for title, rows in report["step"].items():
        assert title.split(",")[0] in ("d_psgd", "ngc")
        assert min(rows["4 agents"].values()) > 0


@pytest.mark.process
def test_bytes_are_those_of_the_network(report):
    ring, star = report["bytes"].values()
    assert ring["d_psgd"]["models"] == 2 * 4 * PARAMETERS / 1e3
    assert star["d_psgd"]["models"] == 1.5 * 4 * PARAMETERS / 1e3
    assert ring["ngc_alpha_0"] == ring["d_psgd"] | {"backward_passes": 3}
    assert (
        ring["compngc"]["gradients"] == (2 * (PARAMETERS + 6) // 8 + 2 * 4 * 4) / 1e3
    )  # 10 biases of the head fill 2 bytes
    assert all(row["in_program"] == row["by_formula"] for rows in (ring, star) for row in rows.values())


@pytest.mark.parametrize("wrong", [counts.signs, lambda sizes: 4 * sum(sizes) + 1], ids=["signs", "byte_more"])
def test_a_wrong_formula_would_show(monkeypatch, wrong):
    monkeypatch.setattr(counts, "METHODS", {"d_psgd": METHODS["d_psgd"]})
    monkeypatch.setitem(counts.FORMULAS, METHODS["d_psgd"].model, wrong)
    with pytest.raises(AssertionError, match="d_psgd counts"):
        counts.traffic("mlp", "ring")


def test_bytes_that_a_method_does_not_count_would_show(monkeypatch):
    given, weights = counts.problem("mlp", counts.SENDERS, 1), counts.topology.weights("ring", counts.SENDERS)
    counted = counts.counted(METHODS["compngc"].make, given, weights)
    permute = counts.exchange.Comm.permute
    twice = lambda comm, tree, source: permute(comm, permute(comm, tree, source), source)  # noqa: E731
    monkeypatch.setattr(counts.exchange.Comm, "permute", twice)
    assert counts.in_program(METHODS["compngc"].make, given, weights) == 2 * sum(counted)


def test_gossip_is_measured_at_the_rate_of_its_eigenvalues():
    ring = ((1 + 2 * np.cos(2 * np.pi / 8)) / 3) ** 2
    np.testing.assert_allclose(counts.measured_rate(counts.topology.weights("ring", 8)), ring, atol=counts.RATE)
    lazy = (np.eye(8) + counts.topology.weights("ring", 8)) / 2
    np.testing.assert_allclose(counts.measured_rate(lazy), ((1 + ring**0.5) / 2) ** 2, atol=counts.RATE)


def test_another_rate_than_rho_squared_would_show(monkeypatch):
    monkeypatch.setattr(counts.topology, "GRAPHS", ("ring",))
    monkeypatch.setattr(counts.topology, "spectral_radius", lambda W: 0.7)
    with pytest.raises(AssertionError, match="ring: a round leaves"):
        counts.graphs(8)


def test_a_runner_that_computes_something_else_would_show(monkeypatch):
    other = functools.partial(benchmark.ngc.ngc, alpha=0.0)
    given = counts.problem("mlp", 4, 2)
    calls = benchmark.ways("ngc", given, 4, 1)
    benchmark.timings({"vmap": calls["vmap"], "loop": calls["loop"]}, 1)
    monkeypatch.setattr(benchmark.ngc, "ngc", other)
    calls["vmap"] = benchmark.ways("ngc", given, 4, 1)["vmap"]
    with pytest.raises(AssertionError, match="vmap ends"):
        benchmark.timings({"vmap": calls["vmap"], "loop": calls["loop"]}, 1)


def test_agents_that_devices_do_not_divide_are_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="5 agents cannot be spread equally over 2 devices"):
        benchmark.main(argparse.Namespace(networks=["mlp"], agents=[4, 5], devices=2))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no agents\.npz"):
        benchmark.read(tmp_path)


def test_seconds_on_a_link_by_hand():
    found = benchmark.on_links(3.0, 4.0, 1.25e6, 0.01)
    np.testing.assert_allclose(found["10 Mbit/s, 10 ms"], 0.03 + 2 * (4 * 0.01 + 1), rtol=FLOAT64)
    rows = {"ngc": {"backward_passes": 3.0, "messages": 4.0, "by_formula": 1.25e3}}
    assert benchmark.a_step(rows, 0.01)["ngc"] == {link: 1e3 * seconds for link, seconds in found.items()}


def test_time_to_accuracy_is_the_steps_of_the_run_times_a_step():
    table = curves({"slow": [0.5, 0.8, 0.9], "fast": [0.95, 0.8, 0.95], "never": [0.5, 0.5, 0.5]}, cross=500.0)
    rows = benchmark.to_accuracy(table, 2.0, 0.9, 0.01)
    assert {name: row["steps"] for name, row in rows.items()} == {"slow": 30, "fast": 10, "never": None}
    assert set(rows["never"].values()) == {None}
    expected = benchmark.on_links(1.0, 4.0, 150.0, 0.01)
    assert {link: rows["fast"][link] / 10 for link in expected} == pytest.approx(expected)


def test_one_seed_that_never_gets_there_counts():
    good, bad = curves({"m": [0.5, 0.95]}), curves({"m": [0.5, 0.5]}, seeds=(1,))
    table = {name: np.concatenate([good[name], bad[name]]) for name in good}
    assert benchmark.to_accuracy(good, 2.0, 0.9, 0.01)["m"]["steps"] == 20
    assert benchmark.to_accuracy(table, 2.0, 0.9, 0.01)["m"]["steps"] is None


def test_a_trial_that_sends_nothing_has_no_row():
    table = curves({"centralized": [0.95]})
    assert not benchmark.to_accuracy(table | {"bytes_model": np.zeros(2)}, 0.0, 0.9, 0.01)
