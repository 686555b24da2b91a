"""The experiment on few bits at small size: its figures, its claims, and its view into a quantised step."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import low_precision
from experiments.families import agents
from experiments.low_precision import experiment, protocol
from subspace_jax import nn

CPU, GPU = (dataclasses.replace(low_precision.PRESETS[name], preset=name) for name in ("cpu", "gpu"))
SMOKE = dataclasses.replace(low_precision.PRESETS["smoke"], preset="smoke")
ENTRIES, LEAVES, ENDS = 64 * 16 + 16 + 16 * 10 + 10, 4, 4  # parameters, tensors, ends of the ranges of two inputs
FIGURES = {"bytes_ratio/int8": 3.95} | {
    f"accuracy_consensus/{name}_skew_{skew}": 0.9
    for name in ("float", "int8", "int8_deep_squeeze", "int8_choco")
    for skew in ("0", "0.8")
}


def test_figures_have_their_names_and_bytes_are_those_of_the_arrays(finished):
    run = finished("low_precision")
    figures = run.figures
    kinds = "accuracy_consensus", "accuracy_mean", "accuracy_worst", "accuracy_mean_rounds", "accuracy_consensus_rounds"
    for kind in kinds:
        assert {f"{kind}/float_skew_0.8", f"{kind}/int8_skew_0.8"} <= figures.keys()
    floats, few = 4 * ENTRIES, ENTRIES + 8 * LEAVES + 9 * ENDS
    assert figures["bytes_model_per_step/float_skew_0.8"] == 2 * floats
    assert figures["bytes_model_per_step/int8_skew_0.8"] == 2 * few
    assert figures["bytes_ratio/int8"] == pytest.approx(floats / few)
    assert run.line["claims"] == []


def test_rounds_come_after_the_steps_and_bring_agents_together(finished):
    run = finished("low_precision")
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["trial"] == "float_skew_0.8"]
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[2]["distance"] < rows[1]["distance"]
    assert rows[2]["bytes_model"] == 30 * 2 * 4 * ENTRIES


@pytest.mark.parametrize(
    "worse",
    [
        {}, {"accuracy_consensus/int8_skew_0": 0.88}, {"accuracy_consensus/int8_skew_0.8": 0.88},
        {"accuracy_consensus/int8_deep_squeeze_skew_0": 0.87}, {"accuracy_consensus/int8_deep_squeeze_skew_0.8": 0.87},
        {"bytes_ratio/int8": 3.85}, {"bytes_ratio/int8": 4.05},
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse):
    claims = experiment.claims(CPU, FIGURES | worse)
    assert len(claims) == 5
    assert sum(not claim.holds for claim in claims) == len(worse)


def test_the_gpu_preset_allows_more_to_sparse_messages_and_other_recipes_claim_nothing():
    sparse = {name: 0.875 for name in FIGURES if "squeeze" in name or "choco" in name}
    claims = experiment.claims(dataclasses.replace(GPU, data_dir="somewhere"), FIGURES | sparse)
    assert len(claims) == 7
    assert all(claim.holds for claim in claims)
    others: list[dict[str, Any]] = [{"bits": 4}, {"lr": 0.1}, {"skew": (0.8,)}, {"agents": 16}, {"preset": "smoke"}]
    for change in others:
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seeds=5, seed=7, runner="shard_map"), FIGURES)


def test_the_rate_warms_up_decays_and_ends_at_zero():
    schedule = agents.rate(1.0, 100, True, warmup=10, rounds=50)
    found = [np.asarray(schedule(t)) for t in (0, 9, 10, 49, 50, 74, 75, 99, 100, 149)]
    np.testing.assert_allclose(found, [0.1, 0.1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0, 0], rtol=1e-5)


def test_codes_that_all_occur_alike_carry_all_bits():
    arrays = {
        "codes/gradients/a": np.full((2, 256), 1 / 256), "codes/gradients/b": np.eye(256)[:2],
        "clipped/gradients/a": np.array([0.0, 0.5]), "accuracy": np.ones((3, 2)),
    }  # fmt: skip
    assert protocol.code_figures(arrays, "s") == {
        "codes_used_gradients/a_s": 1, "code_entropy_gradients/a_s": 8, "clipped_gradients/a_s": 0.25,
        "codes_used_gradients/b_s": 1 / 256, "code_entropy_gradients/b_s": 0,
    }  # fmt: skip


def test_energy_counts_three_products_but_one_at_the_first_layer():
    first, head = 64 * 8, 8 * 10
    found = protocol.cost(nn.build("mlp", widths=[8]), jnp.zeros((2, 8, 8, 1)), 32)
    assert found["macs_per_step"] == 32 * (2 * first + 3 * head)
    assert found["energy_ratio/int8_all_products"] == pytest.approx(20)
    few = 0.23 * (first + 2 * head) + 4.6 * (first + head)
    assert found["energy_ratio/int8"] == pytest.approx(4.6 * (2 * first + 3 * head) / few)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 3}, "--every must divide --steps"), ({"rounds": -1}, "--rounds be at least 0; got 10, 20 and -1"),
        ({"bits": 17}, r"\[1, 16\]; got 17"), ({"norm": "batch"}, "--norm batch keeps statistics"),
        ({"skew": (1.5,)}, "got 1.5"), ({"skew": ()}, "--skew"),
        ({"method": "choco", "sparsity": 1.0}, r"in \[0, 1\); got 1"), ({"method": "choco", "gamma": 2.0}, "got 2"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused_before_anything_runs(change, message, tmp_path):
    config = dataclasses.replace(SMOKE, workdir=str(tmp_path), **change)
    with pytest.raises(ValueError, match=message):
        low_precision.main(config)
    assert not list(tmp_path.iterdir())
