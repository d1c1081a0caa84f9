"""Pictures with transparency: straight colours without a halo, resizing, and what they look like on a background."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

FAINT = 0.05
"""Below this opacity a pixel's own colour is noise."""


def straight(premultiplied: Tensor, alpha: Tensor) -> Tensor:
    """Straight colours (3, H, W) in [0, 1] from premultiplied ones and alpha (H, W).

    Where alpha is fainter than `FAINT`, the colour is that of the nearest parts that are not, so that no resizing and no soft
    edge ever mixes in a colour that is not the thing's (a halo).
    """
    colour = premultiplied / alpha.clamp_min(FAINT)
    known = alpha >= FAINT
    weight, spread = alpha * known, premultiplied * known
    if not known.any():
        return colour.clamp(0, 1)
    while not known.all():
        both = torch.cat([spread, weight[None]])[None]
        grown = F.avg_pool2d(F.pad(both, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
        spread, weight = grown[:3], grown[3]
        reached = ~known & (weight > 1e-6)
        colour = torch.where(reached, spread / weight.clamp_min(1e-6), colour)
        known = known | reached
        if not reached.any():  # too far for the arithmetic: the mean colour
            colour = torch.where(known, colour, (premultiplied.sum(dim=(1, 2)) / alpha.sum()).view(3, 1, 1))
            break
    return colour.clamp(0, 1)


def to_image(colour: Tensor, alpha: Tensor, size: tuple[int, int] | None = None) -> Image.Image:
    """An RGBA picture of straight colours (3, H, W) and alpha (H, W), resized to (height, width) if asked: colour and
    alpha apart, since the colours go on where alpha ends."""
    rgba = torch.cat([colour, alpha[None]]).permute(1, 2, 0)
    pixels = np.round(rgba.detach().float().cpu().clamp(0, 1).numpy() * 255).astype(np.uint8)
    image = Image.fromarray(pixels[..., :3])
    opacity = Image.fromarray(np.ascontiguousarray(pixels[..., 3]))
    if size is not None and size != (image.height, image.width):
        image, opacity = (part.resize(size[::-1], Image.Resampling.BICUBIC) for part in (image, opacity))
    image.putalpha(opacity)
    return image


def checkerboard(size: tuple[int, int], cell: int = 8) -> Image.Image:
    """The grey checks (height, width) that stand for transparency."""
    y, x = np.indices(size) // cell
    return Image.fromarray(np.where((x + y) % 2, 204, 255).astype(np.uint8)).convert("RGB")


def on(background: Image.Image, image: Image.Image) -> Image.Image:
    """An RGBA picture laid on an RGB one of the same size: RGB."""
    return Image.alpha_composite(background.convert("RGBA"), image).convert("RGB")
