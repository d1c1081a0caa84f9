"""The figures on cases worked by hand, and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peekaboo.evaluation import iou, precisions
from peekaboo.evaluation.metrics import (
    Overlap,
    boundary,
    boundary_f,
    class_ious,
    figures,
    mean_class_iou,
    mse,
    overlap,
    sad,
)

masks = hnp.arrays(np.bool_, (5, 7))


def test_iou_by_hand():
    a = np.array([[1, 1, 0], [0, 0, 0]], bool)
    b = np.array([[0, 1, 1], [0, 0, 0]], bool)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1.0
    assert iou(a, ~a) == 0.0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0.0


def test_precision_counts_the_threshold_itself():
    assert precisions(np.array([0.1, 0.2, 0.6, 0.9])) == {0.2: 0.75, 0.4: 0.5, 0.6: 0.5, 0.8: 0.25}


@given(masks, masks, masks)
def test_overlaps_add_up_over_any_cut_and_what_is_not_valid_does_not_count(a, b, valid):
    whole = overlap(a, b, valid)
    assert whole == overlap(a[:2], b[:2], valid[:2]) + overlap(a[2:], b[2:], valid[2:])
    assert whole.union == int(((a | b) & valid).sum())
    assert whole.iou == overlap(b, a, valid).iou
    assert overlap(a ^ ~valid, b, valid) == whole
    assert 0 <= whole.iou <= 1


def test_mean_and_overall_by_hand():
    # 1 of 4 pixels, and 90 of 100: the mean is (.25 + .9) / 2, overall 91 of 104
    found = figures([0.25, 0.9], [1, 90], [4, 100])
    assert found.mean_iou == pytest.approx(0.575)
    assert found.overall_iou == pytest.approx(91 / 104)
    assert found.as_dict() == {
        **{"count": 2, "P@.2": 1.0, "P@.4": 0.5, "P@.6": 0.5, "P@.8": 0.5},
        **{"mIoU": pytest.approx(0.575), "oIoU": pytest.approx(0.875)},
    }


def test_nothing_at_all_gives_zeros():
    assert figures([], [], []).as_dict() == dict.fromkeys(["count", "P@.2", "P@.4", "P@.6", "P@.8", "mIoU", "oIoU"], 0)
    assert figures([0.0], [0], [0]).overall_iou == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1))
def test_overall_is_the_mean_weighted_by_the_union(pairs):
    shared, union = [min(pair) for pair in pairs], [pair[1] for pair in pairs]
    ious = [i / u for i, u in zip(shared, union, strict=True)]
    assert figures(ious, shared, union).overall_iou == pytest.approx(np.average(ious, weights=union))


def test_class_iou_is_of_the_whole_set_not_the_mean_of_pictures():
    images = [{"cat": Overlap(1, 1, 10), "background": Overlap(90, 99, 90)}, {"cat": Overlap(90, 90, 90)}]
    ious = class_ious(images, ["background", "cat", "dog"])
    assert ious == {"background": 90 / 99, "cat": 91 / 100, "dog": None}
    assert mean_class_iou(ious, ["cat", "dog"]) == 0.91
    assert mean_class_iou(ious, ious) == pytest.approx((90 / 99 + 0.91) / 2)
    assert mean_class_iou(ious, ["dog"]) == 0


def half(column: int) -> np.ndarray:
    """A 60 × 80 mask, its diagonal 100, of all that lies left of a column."""
    mask = np.zeros((60, 80), bool)
    mask[:, :column] = True
    return mask


def test_a_boundary_is_where_the_mask_changes_and_not_the_pictures_frame():
    assert np.argwhere(boundary(half(10))).tolist() == [[row, 9] for row in range(60)]
    assert not boundary(np.ones((5, 5), bool)).any()


@pytest.mark.parametrize(("off", "expected"), [(0, 1.0), (3, 1.0), (-3, 1.0), (4, 0.0)])
def test_a_boundary_counts_within_the_tolerance_and_not_beyond(off, expected):
    assert boundary_f(half(30 + off), half(30), tolerance=0.03) == expected


def test_the_boundary_measure_is_the_harmonic_mean_of_precision_and_recall():
    stripe = half(60) & ~half(30)  # one of its two sides is the true one
    assert boundary_f(stripe, half(30), tolerance=0.01) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert boundary_f(half(30), stripe, tolerance=0.01) == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_the_boundary_measure_without_a_boundary():
    nothing = np.zeros((60, 80), bool)
    assert boundary_f(nothing, nothing) == 1.0
    assert boundary_f(nothing, ~nothing) == 1.0
    assert boundary_f(half(30), nothing) == 0.0


@given(masks, masks)
def test_the_boundary_measure_is_symmetric_and_in_range(a, b):
    assert 0 <= boundary_f(a, b) == boundary_f(b, a) <= 1
    assert boundary_f(a, a) == 1.0


def test_matting_errors_by_hand():
    truth = np.zeros((100, 100))
    alpha = truth.copy()
    alpha[:20] = 0.5
    assert sad(alpha, truth) == pytest.approx(1.0)
    assert mse(alpha, truth) == pytest.approx(0.05)
    assert sad(truth, truth) == mse(truth, truth) == 0.0
