"""The figures on cases worked by hand."""

import numpy as np
import pytest

from peekaboo.evaluation import iou, precisions


def test_iou_by_hand():
    a = np.array([[1, 1, 0], [0, 0, 0]], bool)
    b = np.array([[0, 1, 1], [0, 0, 0]], bool)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1.0
    assert iou(a, ~a) == 0.0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0.0


def test_precision_counts_the_threshold_itself():
    assert precisions(np.array([0.1, 0.2, 0.6, 0.9])) == {0.2: 0.75, 0.4: 0.5, 0.6: 0.5, 0.8: 0.25}
