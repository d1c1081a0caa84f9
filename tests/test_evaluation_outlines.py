"""Polygons and run lengths as pixels: by hand, round trips, and bit for bit as COCO's own code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peekaboo.errors import DatasetError
from peekaboo.evaluation.outlines import polygon_mask, segmentation_mask, uncompressed
from peekaboo.result import run_lengths
from trees import rectangle

sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))
points = st.lists(st.tuples(st.floats(-20, 50, width=32), st.floats(-20, 50, width=32)), min_size=3, max_size=9)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 10), st.integers(1, 10))
def test_a_rectangle_on_the_grid_is_its_pixels(left, top, width, height):
    truth = np.zeros((20, 24), bool)
    truth[top : top + height, left : left + width] = True
    found = segmentation_mask(rectangle(left, top, left + width, top + height), 20, 24)
    assert np.array_equal(found, truth)


def test_polygons_of_one_thing_unite():
    two = rectangle(0, 0, 6, 6) + rectangle(3, 3, 9, 9)
    assert segmentation_mask(two, 10, 10).sum() == 36 + 36 - 9


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_there_and_back(mask):
    assert np.array_equal(segmentation_mask(run_lengths(mask), *mask.shape), mask)


@given(sizes, points)
def test_polygons_are_cocos_own_bit_for_bit(size, corners):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    flat = [float(v) for corner in corners for v in corner]
    truth = coco.decode(coco.frPyObjects([flat], *size))[..., 0].astype(bool)
    assert np.array_equal(polygon_mask(np.array(flat).reshape(-1, 2), *size), truth)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 60), st.integers(1, 60))))
def test_compressed_run_lengths_are_cocos_own(mask):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    assert np.array_equal(segmentation_mask(text, *mask.shape), mask)


def test_compressed_run_lengths_by_hand():
    # 5 bits a character from "0" on; 32 says that more follow: 6, then 1, then 40 = 8 + 32·1
    assert uncompressed("61X1") == [6, 1, 40]


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        (None, "neither"),
        ([], "neither"),
        ("1 2 3", "neither"),
        ([[1, 2, 3, 4]], "three or more"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three or more"),
        ([["a", 2, 3, 4, 5, 6]], "not a number"),
        ([[float("nan"), 2, 3, 4, 5, 6]], "not a number"),
        ([[True, 2, 3, 4, 5, 6]], "not a number"),
        ([[1e9, 2, 3, 4, 5, 6]], "far outside"),
        ({"size": [4, 5], "counts": [4]}, "fill 4 pixels"),
        ({"size": [5, 4], "counts": [20]}, "size"),
        ({"size": [4, 5], "counts": [30, -10]}, "0 or more"),
        ({"size": [4, 5], "counts": [20.0]}, "whole numbers"),
        ({"size": [4, 5], "counts": "\x00"}, "cannot be"),
        ({"size": [4, 5], "counts": "X"}, "in the middle"),
        ({"counts": [20]}, "size"),
        ({}, "size"),
    ],
)
def test_what_is_no_mask_is_told_as_a_clause(segmentation, says):
    with pytest.raises(DatasetError, match=says):
        segmentation_mask(segmentation, 4, 5)
