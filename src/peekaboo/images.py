"""Reading pictures of any kind into one form, and resizing there and back without cropping or squashing."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from peekaboo.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_PIXELS = 150_000_000
"""Larger pictures are refused before their pixels are read (decompression bombs)."""
MIN_SIDE = 8
"""Pictures with a shorter side, in pixels, hold nothing to segment."""
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Modes that Pillow takes to no other but these."""
ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats of which several frames move. Those of a TIFF are pages, and phones put other pictures beside a photograph (MPO)."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"})
"""What is taken for a picture when a folder is given."""

ImageLike = Any  # str | Path | PIL.Image.Image | numpy array; spelled out in `read_image`


@dataclass(frozen=True)
class Picture:
    """A picture as Peekaboo sees it.

    rgb: HWC uint8 in [0, 255]. opacity: HW uint8, or None where the input had no transparency.
    notes: what a user should know about how it was read, one sentence each.
    """

    rgb: NDArray[np.uint8]
    opacity: NDArray[np.uint8] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def read_image(image: ImageLike) -> Picture:
    """Read a picture.

    image: a path; a PIL image of any mode; or an array, HW, HWC with 1, 3 or 4 channels, uint8 in [0, 255], uint16 in [0, 65535]
    or float in [0, 1].
    EXIF orientation is applied, an animation gives its first frame, transparent pixels are laid on white.

    Raises ImageError for what is missing, no picture, truncated, under 8 pixels a side or over 150 megapixels.
    """
    if isinstance(image, (str, Path)):
        return _read_file(Path(image))
    if isinstance(image, Image.Image):
        try:
            return _from_pil(image, "the given image")
        except (OSError, ValueError) as error:  # read lazily: its file may be damaged, or closed
            raise ImageError(f"The given image is damaged or truncated ({error}); get a complete copy.") from error
    if isinstance(image, np.ndarray):
        return _from_array(image)
    hint = "; of a tensor (3, H, W) that is tensor.permute(1, 2, 0).numpy()" if hasattr(image, "permute") else ""
    raise ImageError(
        f"An image must be a path, a PIL image or a NumPy array, but this is a {type(image).__name__}{hint}."
    )


def _read_file(path: Path) -> Picture:
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise ImageError(f"{str(path)[:80]} cannot be opened ({error.strerror}); check the name.") from error
    if not exists:
        if re.match(r"\w{2,}:/", str(path)):
            raise ImageError(f"{path} is an address, but a file was expected; download it first.")
        raise ImageError(f"There is no file {path}; check the name.")
    if is_folder:
        raise ImageError(f"{path} is a folder, but one image file was expected.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return _from_pil(opened, str(path))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is larger than the limit of {MAX_PIXELS // 10**6} megapixels; shrink it first."
        ) from error
    except UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise ImageError(f"{path} is empty (0 bytes); get a complete copy.") from error
        raise ImageError(f"{path} is not an image that Pillow can read; save it as PNG or JPEG.") from error
    except PermissionError as error:
        raise ImageError(f"{path} cannot be opened: permission denied.") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds for a broken file
        raise ImageError(f"{path} is damaged or truncated ({error}); get a complete copy.") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width}×{height} pixels, over the limit of {MAX_PIXELS // 10**6} megapixels; shrink it first."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width}×{height} pixels; each side must be at least {MIN_SIDE}.")


def _from_pil(image: Image.Image, name: str) -> Picture:
    notes = []
    _check_size(*image.size, name)
    if getattr(image, "n_frames", 1) > 1:
        count = image.n_frames  # type: ignore[attr-defined]
        holds = f"is animated with {count} frames" if image.format in ANIMATED else f"holds {count} pictures"
        notes.append(f"{name} {holds}; the first one is used.")
        image.seek(0)
    image = upright(image)
    if image.mode.startswith(("I", "F")):
        image, bits = _to_eight_bits(image)
        if bits in (10, 12, 14):
            notes.append(f"{name} holds no value of {2**bits} or more, so it is seen as one of {bits} bits.")
    opacity = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
        if alpha.min() < 255:
            opacity = alpha
            how = "partly" if alpha.any() else "wholly"
            notes.append(f"{name} is {how} transparent; it is seen on white.")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    return Picture(np.array(image.convert("RGB")), opacity, notes)


def upright(image: Image.Image) -> Image.Image:
    """A PIL image turned as its EXIF says, and in a mode that Pillow takes to others."""
    image = ImageOps.exif_transpose(image)
    return image.convert(PREMULTIPLIED[image.mode]) if image.mode in PREMULTIPLIED else image


def _to_eight_bits(image: Image.Image) -> tuple[Image.Image, int]:
    """16-bit and 32-bit grey: the range of the fewest bits that hold it (cameras and microscopes write 10, 12 or 14 into files of 16), and
    how many they are; or the picture's own range, and 0, where that does not fit."""
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    bits = 0
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high < 2**16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
        low, high = 0.0, 2.0**bits - 1
    scaled = (values - low) / max(high - low, 1e-12)
    return Image.fromarray(np.round(255 * scaled).astype(np.uint8)), bits


def _from_array(array: NDArray[Any]) -> Picture:
    shape = "×".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"An image array must be HW or HWC with 1, 3 or 4 channels, but this one is {shape}; "
            "move the channels to the end."
        )
    _check_size(array.shape[1], array.shape[0], f"the array of {shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("The image array holds NaN or infinite values; every value must be in [0, 1].")
        if array.min() < 0 or array.max() > 1:
            raise ImageError(
                f"A float image must be in [0, 1], but this one spans [{array.min():.3g}, {array.max():.3g}]; "
                "divide by 255, or pass uint8."
            )
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = np.round(array / 257.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"An image array must be uint8, uint16 or float in [0, 1], but this one is {array.dtype}; convert it first."
        )
    array = np.ascontiguousarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return _from_pil(Image.fromarray(array), "the given array")


def model_size(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    """The (height, width) at which a model sees a picture: about `area` pixels, the picture's aspect, both sides multiples of
    `multiple`. Of the few candidates around the exact size, the one that distorts the aspect least wins.

    The short side never falls under 4 multiples, so a very long strip gets more than `area` pixels rather than a squeeze, up to
    four times `area`; only what is longer still is squeezed.
    """
    aspect = width / height
    low = 4 * multiple
    exact_h = max(math.sqrt(area / aspect), low, low / aspect)
    candidates = []
    for h in range(int(0.9 * exact_h) // multiple, int(1.1 * exact_h) // multiple + 2):
        side = max(h * multiple, low)
        other = max(round(side * aspect / multiple) * multiple, low)
        if side * other > 4 * area:
            longest = 4 * area // low // multiple * multiple
            side, other = min(side, longest), min(other, longest)
        distortion = abs(math.log(other / side / aspect))
        drift = abs(math.log(side / exact_h))
        candidates.append((distortion + 0.25 * drift, side, other))
    _, best_h, best_w = min(candidates)
    return best_h, best_w


def averaged(rgb: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A picture, HWC uint8, averaged down to (height, width)."""
    return np.array(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BOX))


def to_model(rgb: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Resize HWC uint8 to a tensor (1, 3, h, w), float32 in [0, 1], with an antialiasing filter."""
    import torch

    image = Image.fromarray(rgb)
    reduced = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return torch.from_numpy(np.array(reduced)).permute(2, 0, 1)[None].float() / 255
