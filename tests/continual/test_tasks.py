import jax
import numpy as np
import pytest

from subspace_jax.continual import tasks
from subspace_jax.continual.tasks import Task

RNG = np.random.default_rng(0)
DATA = Task(RNG.random((30, 4, 4, 2), np.float32), np.arange(30) % 6, RNG.random((12, 4, 4, 2), np.float32),
            np.arange(12) % 6)  # fmt: skip
KEY = jax.random.key(0)


def test_permuted_tasks_hold_the_same_pixels_in_another_fixed_order():
    first, second, third = tasks.permuted(KEY, DATA, tasks=3)
    np.testing.assert_array_equal(first.x, DATA.x)
    for task in (second, third):
        assert (task.x != DATA.x).any()
        np.testing.assert_array_equal(np.sort(task.x.reshape(30, -1)), np.sort(DATA.x.reshape(30, -1)))
    assert (second.x != third.x).any()
    # one order for all images, training and test, and for all channels
    place = [int(np.flatnonzero((DATA.x.reshape(30, 16, 2) == pixel[:, None]).all((0, 2)))[0])
             for pixel in second.x.reshape(30, 16, 2).swapaxes(0, 1)]  # fmt: skip
    np.testing.assert_array_equal(second.test_x.reshape(12, 16, 2), DATA.test_x.reshape(12, 16, 2)[:, place])


def test_a_longer_permuted_sequence_begins_with_the_shorter_one():
    for a, b in zip(tasks.permuted(KEY, DATA, tasks=2), tasks.permuted(KEY, DATA, tasks=4), strict=False):
        np.testing.assert_array_equal(a.x, b.x)


def test_a_quarter_turn_is_exact():
    _, turned = tasks.rotated(DATA, tasks=2, degrees=180.0)
    np.testing.assert_allclose(turned.x, np.rot90(DATA.x, axes=(1, 2)), atol=1e-6)


def test_split_takes_the_classes_of_a_group_and_counts_labels_from_zero():
    parts = tasks.split(DATA, groups=[(4, 1), (0, 2)])
    assert [len(part.x) for part in parts] == [10, 10]
    for part, group in zip(parts, [(4, 1), (0, 2)], strict=True):
        np.testing.assert_array_equal(part.x, DATA.x[np.isin(DATA.y, group)])
        np.testing.assert_array_equal(np.asarray(group)[part.y], DATA.y[np.isin(DATA.y, group)])
        np.testing.assert_array_equal(np.asarray(group)[part.test_y], DATA.test_y[np.isin(DATA.test_y, group)])


@pytest.mark.parametrize("groups", [[], [(0, 1), (2,)], [(0, 1), (1, 2)], [()]])
def test_groups_that_are_no_partition_are_refused(groups):
    with pytest.raises(ValueError, match="groups are disjoint and of one size"):
        tasks.split(DATA, groups=groups)


def test_bad_sequences_are_refused():
    with pytest.raises(ValueError, match=r"class 9 has no sample; there are \[0, 1, 2, 3, 4, 5\]"):
        tasks.split(DATA, groups=[(0, 9)])
    for sequence in (lambda: tasks.permuted(KEY, DATA, tasks=0), lambda: tasks.rotated(DATA, tasks=0)):
        with pytest.raises(ValueError, match="at least 1 task; got 0"):
            sequence()
    small = DATA._replace(x=DATA.x[:, :2])
    empty = DATA._replace(test_x=DATA.test_x[:0], test_y=DATA.test_y[:0])
    with pytest.raises(ValueError, match=r"task 1 has inputs \(2, 4, 2\), task 0 \(4, 4, 2\)"):
        tasks.check_tasks([DATA, small], classes=6)
    with pytest.raises(ValueError, match="task 0 has 30 training and 0 test samples"):
        tasks.check_tasks([empty], classes=6)
    with pytest.raises(ValueError, match=r"task 0: .*Labels of a task with its own head count from 0"):
        tasks.check_tasks([DATA], classes=3)
