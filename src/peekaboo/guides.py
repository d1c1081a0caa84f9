"""Guides for the blur other than the picture itself: any map, as an array or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peekaboo.errors import ImageError

GuideLike = Any  # str | Path | PIL.Image.Image | numpy array


def read_guide(guide: GuideLike) -> np.ndarray:
    """A guide as (H, W, C) float32, each channel stretched to [0, 1]: only its edges matter (relative depth has no unit).

    guide: a path to an image or a .npy file, a PIL image, or an array HW or HWC of any size. Raises ImageError.
    """
    array = _load(guide)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(f"A guide must be HW or HWC, but this one has the shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise ImageError(f"A guide must hold numbers, but this one holds {array.dtype}.")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ImageError("The guide holds NaN or infinite values; fill them first.")
    low, high = array.min(axis=(0, 1)), array.max(axis=(0, 1))
    stretched: np.ndarray = (array - low) / np.maximum(high - low, 1e-12)
    return stretched


def _load(guide: GuideLike) -> np.ndarray:
    if isinstance(guide, np.ndarray):
        return guide
    if isinstance(guide, Image.Image):
        return np.asarray(guide)
    path = Path(guide)
    if not str(guide) or not path.is_file():
        raise ImageError(f"There is no guide file {path}; check the name.")
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"The guide {path} cannot be read; expected an image or a .npy array.") from error
