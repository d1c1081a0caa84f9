"""COCO's two ways to write a mask, polygons and run lengths, as pixels: the very pixels of its authors' own code.

Any other rasteriser differs along the border, which moves figures in the third decimal. The arithmetic is that of `rleFrPoly`
and `rleFrString` in the COCO API's maskApi.c (Piotr Dollár and Tsung-Yi Lin, 2015, simplified BSD licence), in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import DatasetError

UPSAMPLING = 5.0
"""A polygon's boundary is walked on a grid this many times as fine as the pixels."""
REACH = 4
"""Coordinates may lie outside the picture by this many times its longer side; further out, they are a mistake."""


def check_segmentation(segmentation: Any, height: int, width: int) -> list[NDArray[np.float64]] | list[int]:
    """An annotation's `segmentation` as numbers: polygons, (K, 2) float64 each, or run lengths, which fill the picture.

    Raises DatasetError, as a clause about the annotation, for what is neither, or does not fit the picture.
    """
    if isinstance(segmentation, dict):
        return check_run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise DatasetError("its segmentation is neither a list of polygons nor run lengths")
    return [check_polygon(polygon, height, width) for polygon in segmentation]


def segmentation_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of an annotation's `segmentation`: the union of its polygons, or its run lengths. Raises DatasetError."""
    mask = np.zeros((height, width), np.bool_)
    shapes = check_segmentation(segmentation, height, width)
    if isinstance(segmentation, dict):
        return run_length_mask(np.array(shapes, np.int64), height, width)
    for polygon in shapes:
        mask |= polygon_mask(np.asarray(polygon, np.float64), height, width)
    return mask


def check_polygon(polygon: Any, height: int, width: int) -> NDArray[np.float64]:
    """A flat list x, y, x, y … as (K, 2) float64. Raises DatasetError."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, (str, bytes)) or len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError("a polygon of its segmentation is not a list of three or more x, y pairs")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in polygon):
        raise DatasetError("a polygon of its segmentation holds something that is not a number")
    if max(abs(v) for v in polygon) > REACH * max(height, width):
        raise DatasetError(f"a polygon of its segmentation lies far outside the picture of {width}×{height} pixels")
    return np.array(polygon, np.float64).reshape(-1, 2)


def polygon_mask(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of one closed polygon, (K, 2) float64 of x, y in pixels; even-odd where it crosses itself."""
    fine = np.trunc(UPSAMPLING * points + 0.5).astype(np.int64)
    u, v = _walk(fine, np.roll(fine, -1, axis=0))
    moved = np.flatnonzero(u[1:] != u[:-1])  # where the walk enters another column of the fine grid
    column = np.where(u[moved + 1] < u[moved], u[moved + 1], u[moved + 1] - 1)
    x = (column + 0.5) / UPSAMPLING - 0.5
    y = (np.minimum(v[moved + 1], v[moved]) + 0.5) / UPSAMPLING - 0.5
    crosses = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)  # the centre line of a column of pixels
    row = np.ceil(np.clip(y[crosses], 0, height)).astype(np.int64)
    flips = np.bincount(x[crosses].astype(np.int64) * height + row, minlength=height * width)[: height * width]
    return _from_columns(np.cumsum(flips) % 2 == 1, height, width)


def _walk(start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every point of the fine grid along the edges start → end, (K, 2) each, both ends included: u and v, (M,) each."""
    dx, dy = np.abs(end - start).T
    flat = dx >= dy
    longer = np.where(flat, dx, dy)
    flip = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    first, last = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    rise = np.where(flat, last[:, 1] - first[:, 1], last[:, 0] - first[:, 0])
    slope = rise / np.maximum(longer, 1)
    edge = np.repeat(np.arange(len(start)), longer + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(longer + 1) - (longer + 1), longer + 1)
    t = np.where(flip[edge], longer[edge] - step, step)
    along = np.where(flat[edge], first[edge, 0], first[edge, 1]) + t
    base = np.where(flat[edge], first[edge, 1], first[edge, 0])
    across = np.trunc(base + slope[edge] * t + 0.5).astype(np.int64)
    return np.where(flat[edge], along, across), np.where(flat[edge], across, along)


def check_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> list[int]:
    """The counts of run lengths, given as a list or as COCO's compressed text. Raises DatasetError."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or size != [height, width]:
        raise DatasetError(f"its run lengths are of the size {size}, the picture of [{height}, {width}]")
    if isinstance(counts, str):
        counts = uncompressed(counts)
    if not isinstance(counts, list) or not all(type(c) is int and c >= 0 for c in counts):
        raise DatasetError("its run lengths are not whole numbers of 0 or more")
    if sum(counts) != height * width:
        raise DatasetError(f"its run lengths fill {sum(counts)} pixels, the picture has {height * width}")
    return counts


def run_length_mask(counts: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of run lengths down the columns, starting with zeros, which sum to H·W."""
    return _from_columns(np.repeat(np.arange(len(counts)) % 2 == 1, counts), height, width)


def uncompressed(text: str) -> list[int]:
    """The counts of COCO's compressed run lengths: five bits a character, each count from the fourth on as the difference to
    that of two before. Raises DatasetError."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DatasetError("its compressed run lengths hold a character that cannot be")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value |= -1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DatasetError("its compressed run lengths end in the middle of a number")
    return counts


def _from_columns(flat: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    return np.ascontiguousarray(flat.reshape(width, height).T)
