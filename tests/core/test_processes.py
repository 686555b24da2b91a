"""Parts of several processes make the whole, bit for bit, in every one of them; alone a process is left as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import processes
from tests.several import together


@pytest.mark.parametrize("pieces", [1, 2, 5, 6])
def test_the_parts_are_equally_long_and_give_every_piece_in_order(pieces, monkeypatch):
    parts = together(monkeypatch, 3, lambda: processes.part(pieces))
    assert {len(part) for part in parts} == {-(-pieces // 3)}
    np.testing.assert_array_equal(np.concatenate(parts)[:pieces], np.arange(pieces))
    np.testing.assert_array_equal(processes.part(pieces), np.arange(pieces))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.float64, jnp.bfloat16, np.complex64])
@pytest.mark.parametrize("shape", [(5,), (5, 3, 2), (5, 0)])
def test_rows_of_every_kind_arrive_as_they_were(dtype, shape, monkeypatch):
    monkeypatch.setattr(processes, "MOVED", 32)  # in pieces of a row or more
    rows = np.random.default_rng(0).integers(0, 100, (3, *shape)).astype(dtype)
    for whole in together(monkeypatch, 3, lambda: processes.gathered(rows[jax.process_index()])):
        assert whole.dtype == rows.dtype
        np.testing.assert_array_equal(whole, np.concatenate(rows))
    np.testing.assert_array_equal(processes.gathered(rows[0]), rows[0])


def test_keys_and_arrays_are_stacked_without_what_came_again(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 5)

    def part():
        own = processes.part(5)
        return processes.stacked({"key": keys[own], "number": jnp.asarray(own)}, 5)

    for whole in together(monkeypatch, 2, part):
        np.testing.assert_array_equal(jax.random.key_data(whole["key"]), jax.random.key_data(keys))
        assert whole["number"].tolist() == [0, 1, 2, 3, 4]


def test_all_hear_what_the_first_says(monkeypatch):
    assert together(monkeypatch, 3, lambda: processes.told(7 + jax.process_index())) == [7, 7, 7]
    assert processes.told(-1) == -1


def test_what_is_here_stays_as_it_is():
    tree = {"x": jnp.arange(3), "numbers": np.arange(2), "name": None}
    found = processes.here(tree)
    assert found["x"] is tree["x"]
    assert found["numbers"] is tree["numbers"]
