"""Labels keep their distance and their order, and go no further than they must."""

import numpy as np
import pytest

from harness.showing.labels import push_apart


def test_labels_with_room_stay() -> None:
    assert push_apart([0.1, 0.9, 0.5], [0.1, 0.1, 0.1], 0, 1) == pytest.approx([0.1, 0.9, 0.5])


def test_labels_of_one_place_are_spread_about_it() -> None:
    assert push_apart([0.5, 0.5], [0.1, 0.1], 0, 1) == pytest.approx([0.45, 0.55])


def test_high_labels_need_more_room() -> None:
    low, high = push_apart([0.5, 0.52], [0.3, 0.1], 0, 1)
    assert high - low == pytest.approx(0.2)


def test_labels_stay_within_the_axes() -> None:
    centres = push_apart([0.0, 0.01, 1.2], [0.1, 0.1, 0.1], 0, 1)
    assert centres == pytest.approx([0.05, 0.15, 0.95])


@pytest.mark.parametrize("seed", range(20))
def test_no_two_overlap_and_order_is_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, heights = rng.random(8), 0.02 + 0.08 * rng.random(8)
    centres = push_apart(wanted.tolist(), heights.tolist(), 0, 1)
    order = np.argsort(wanted)
    gaps = np.diff(centres[order]) - (heights[order][1:] + heights[order][:-1]) / 2
    assert gaps.min() > -1e-9
    assert (centres - heights / 2).min() > -1e-9
    assert (centres + heights / 2).max() < 1 + 1e-9


def test_none_is_none() -> None:
    assert push_apart([], [], 0, 1).size == 0
