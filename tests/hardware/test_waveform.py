"""One product in time: pulses as published, and a product that the lines end with."""

import numpy as np
import pytest

from subspace_jax.hardware import waveform
from subspace_jax.hardware.products import product_table


def test_pulses_as_published():
    assert (waveform.word_line(0), waveform.word_line(15)) == pytest.approx((0.3, 1.0))
    np.testing.assert_allclose(waveform.durations(), [0.05, 0.1, 0.2, 0.4])


@pytest.mark.parametrize(("w", "v"), [(15, 15), (5, 9), (0, 15), (15, 0), (8, 3)])
def test_the_lines_end_with_the_share_of_the_largest_product(w, v):
    found = waveform.bitline_waveform(w, v)
    assert found.product == pytest.approx(w / 15 * max(product_table()[15, v], 0))
    assert np.ptp(found.bit_lines[-1]) == pytest.approx(0)  # shared
    assert (found.bit_lines[0] == 1.2).all()
    pulse = found.time <= waveform.PULSE
    np.testing.assert_allclose(found.word_line[pulse], 0.3 + 0.7 * v / 15)
    assert not found.word_line[~pulse].any()


def test_each_line_starts_late_and_falls_for_its_own_time():
    found = waveform.bitline_waveform(15, 15)
    before = found.time <= waveform.PULSE + 1e-9
    for bit, duration in enumerate(waveform.durations()):
        line = found.bit_lines[before, bit]
        assert (line[found.time[before] <= waveform.PULSE - duration] == 1.2).all()
        assert 1.2 - line[-1] == pytest.approx(2**bit * (1.2 - found.bit_lines[before, 0][-1]))


@pytest.mark.parametrize(("w", "v", "what"), [(16, 0, "weight"), (0, -1, "input")])
def test_other_codes_are_refused(w, v, what):
    with pytest.raises(ValueError, match=f"the {what} is whole, in .0, 15.; got"):
        waveform.bitline_waveform(w, v)
