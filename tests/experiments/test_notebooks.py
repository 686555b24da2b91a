"""The notebooks run from top to bottom, and what is written in them keeps the contract of its kind."""

import functools
import pathlib
import runpy

import jax
import matplotlib
import numpy as np
import pytest

from subspace_jax.decentralized import methods
from subspace_jax.unlearning import baselines as unlearning
from tests import test_contracts
from tests.decentralized import test_runners
from tests.unlearning import test_baselines

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
PICTURES = {"audit_your_own_model": 2, "compose_functions": 2, "write_your_own_method": 2}
CONTRACT = (
    test_contracts.test_a_score_is_one_finite_number_a_sample_with_or_without_jit,
    test_contracts.test_a_score_belongs_to_its_sample_in_any_company_and_order,
    test_contracts.test_many_networks_are_scored_by_vmap,
    test_contracts.test_a_sample_without_a_loss_has_no_score,
    test_contracts.test_a_score_does_not_depend_on_the_precision_of_the_hardware,
)
OUTPUT = 70  # lines of text in a notebook: tables are short


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """name -> (what the notebook defined, what it printed, its pictures); each runs once."""
    import matplotlib.pyplot as plt

    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMOKE", "1")
        patch.chdir(tmp_path_factory.mktemp("notebooks"))
        before, x64 = matplotlib.get_backend(), jax.config.jax_enable_x64
        plt.switch_backend("Agg")

        def run(name, capsys=None):
            if name not in done:
                plt.close("all")
                space = runpy.run_path(str(FOLDER / f"{name}.py"))
                done[name] = space, capsys.readouterr().out if capsys else "", len(plt.get_fignums())
                assert jax.config.jax_enable_x64 == x64
            return done[name]

        yield run
        plt.close("all")
        plt.switch_backend(before)


def test_the_notebooks_are_these():
    assert [path.stem for path in NOTEBOOKS] == sorted(PICTURES)


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_notebook_runs_and_shows_pictures_and_short_tables(name, ran, capsys):
    _, said, pictures = ran(name, capsys)
    assert pictures == PICTURES[name]
    assert 10 <= said.count("\n") <= OUTPUT
    assert max(map(len, said.splitlines())) <= 120
    assert "nan" not in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_cells_without_outputs(path):
    text = path.read_text()
    assert text.startswith("# ---\n# jupyter:\n")
    assert text.count("\n# %%\n") >= 8
    assert text.count("\n# %% [markdown]\n") >= 5
    assert "image/png" not in text


def test_the_score_keeps_the_contract_of_scores(ran, monkeypatch):
    space, *_ = ran("write_your_own_method")
    own = functools.partial(space["fragility"], apply=test_contracts.network, probes=2)
    every, found = test_contracts.every, functools.cache(test_contracts.found.__wrapped__)
    monkeypatch.setattr(test_contracts, "SCORES", {"fragility": own})
    monkeypatch.setattr(test_contracts, "found", found)
    monkeypatch.setattr(test_contracts, "jitted_every", jax.jit(lambda *args: every(*args)))
    networks = jax.jit(jax.vmap(lambda *args: every(*args), in_axes=(None, 0, None, None)))
    monkeypatch.setattr(test_contracts, "jitted_networks", networks)
    for contract in CONTRACT:
        contract("fragility")


trained = test_baselines.trained


def test_the_way_to_forget_keeps_the_contract_of_baselines(ran, trained, monkeypatch):
    space, *_ = ran("write_your_own_method")
    monkeypatch.setitem(unlearning.METHODS, "to_uniform", space["to_uniform"])
    monkeypatch.setitem(test_baselines.COST, "to_uniform", test_baselines.COST["neggrad_plus"])
    test_baselines.test_a_method_is_a_function_of_its_key_keeps_the_tree_and_counts_its_cost("to_uniform", trained)
    found = test_baselines.call("to_uniform", trained).variables
    sure = [jax.nn.softmax(test_baselines.apply(own, test_baselines.FORGET[0])).max(-1) for own in (trained, found)]
    assert sure[0].mean() > 0.9
    assert sure[1].mean() < 0.5


def test_the_algorithm_keeps_the_contract_of_methods(ran, monkeypatch):
    space, *_ = ran("write_your_own_method")
    monkeypatch.setitem(methods.METHODS, "exact_diffusion", space["row"])
    test_runners.test_shard_map_ends_where_vmap_does("exact_diffusion")
    test_runners.test_what_is_sent_is_what_the_table_of_methods_says("exact_diffusion")


def test_the_algorithm_ends_at_the_common_optimum_and_gossip_does_not(ran):
    """Against a loop in float64 NumPy that knows nothing of the exchange."""
    space, *_ = ran("write_your_own_method")
    inputs, targets, W = (np.float64(space[name]) for name in ("inputs", "targets", "W"))
    half, x = (np.eye(8) + W) / 2, np.zeros((8, 5))
    psi_before = x
    for step in range(1, 20 * len(space["courses"]["exact_diffusion"]) + 1):
        gradient = np.einsum("arf,ar->af", inputs, np.einsum("arf,af->ar", inputs, x) - targets) / inputs.shape[1]
        psi = x - 0.1 * gradient
        x, psi_before = half @ (psi + x - psi_before), psi
        if step % 20 == 0:
            distance = np.linalg.norm(x - space["optimum"], axis=1).mean()
            assert space["courses"]["exact_diffusion"][step // 20 - 1] == pytest.approx(distance, abs=1e-4)
    assert space["courses"]["exact_diffusion"][-1] < 0.5 * space["courses"]["d_psgd"][-1]
