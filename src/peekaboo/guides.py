"""Guides for the blur other than the picture itself: any map, as an array or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peekaboo.errors import ImageError
from peekaboo.images import upright

GuideLike = Any  # str | Path | PIL.Image.Image | numpy array


def read_guide(guide: GuideLike) -> np.ndarray:
    """A guide as (H, W, C) float32, each channel stretched to [0, 1]: only its edges matter (relative depth has no unit).

    guide: a path to an image or a .npy file, a PIL image, or an array HW or HWC of any size. Images are turned as EXIF says, as the picture
    is; a palette's numbers are looked up, and transparency is left out. Raises ImageError.
    """
    array = _load(guide)
    what = f"The guide {guide}" if isinstance(guide, (str, Path)) else "The guide"
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(f"{what} has the shape {array.shape}; expected HW or HWC.")
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise ImageError(f"{what} holds {array.dtype}; expected numbers.")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ImageError(f"{what} holds NaN or infinite values; fill them first.")
    low, high = array.min(axis=(0, 1)), array.max(axis=(0, 1))
    stretched: np.ndarray = (array - low) / np.maximum(high - low, 1e-12)
    return stretched


def misfits(guide: tuple[int, int], picture: tuple[int, int]) -> list[str]:
    """A sentence where a guide (height, width) has not the picture's aspect, within two of its pixels."""
    (h, w), (height, width) = guide, picture
    if abs(h * width - w * height) <= 2 * max(height, width):
        return []
    return [f"The guide is {w}×{h}, the picture {width}×{height}: of another aspect, so it is stretched to fit."]


def _load(guide: GuideLike) -> np.ndarray:
    if isinstance(guide, np.ndarray):
        return guide
    if isinstance(guide, Image.Image):
        try:
            return _from_pil(guide)
        except (OSError, ValueError) as error:  # read lazily: its file may be damaged, or closed
            raise ImageError(f"The given guide cannot be read ({error}); get a complete copy.") from error
    if not isinstance(guide, (str, Path)):
        raise ImageError(f"A guide must be a path, a PIL image or a NumPy array, but this is a {type(guide).__name__}.")
    path = Path(guide)
    try:
        missing = not str(guide) or not path.is_file()
    except (OSError, ValueError) as error:
        raise ImageError(
            f"The guide {str(path)[:80]} cannot be opened ({getattr(error, 'strerror', error)}); check the name."
        ) from error
    if missing:
        raise ImageError(f"There is no guide file {path}; check the name.")
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        with Image.open(path) as image:
            return _from_pil(image)
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"The guide {path} cannot be read; expected an image or a .npy array.") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    image = upright(image)
    if image.mode == "LA":
        image = image.getchannel("L")
    elif image.mode in ("P", "PA", "RGBA"):
        image = image.convert("RGBA").convert("RGB")
    return np.asarray(image)
