"""The colours of a thing without those of what was behind it, so that a cut-out carries no halo."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.refine import STRIP_PIXELS, box_means, strip

WIDE, NARROW = 0.03, 0.005
"""Radii of the two passes, in shares of the picture's longer side."""
TRUST = 4
"""The wide pass weighs by α and 1−α to this power, so that surely inside and surely outside count most."""
COARSE = 384
"""The wide pass is done on a grid of at most this many cells along the longer side."""
PRIOR = 0.01
"""Weight, as a share of a box, of the colour from farther away, which decides where a box holds hardly anything that counts."""


def foreground(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    r"""The foreground colours F, HWC uint8, of a picture I = αF + (1−α)B, HWC uint8, and alpha (H, W) uint8.

    Blur-fusion in two passes (Forte and Pitié, "Approximate Fast Foreground Colour Estimation", ICIP 2021): with
    :math:`F̂ = blur(αF) / blur(α)` and :math:`B̂ = blur((1-α)B) / blur(1-α)`,
    :math:`F = F̂ + α (I - αF̂ - (1-α)B̂)`, first with a wide box filter and F = B = I, then with a narrow one. Opaque pixels keep
    their colour, invisible ones get that of the thing's nearest parts.

    The wide pass is done on block sums, the narrow one on strips: beside the result, memory is bounded.
    """
    height, width = alpha.shape
    near, far, block = wide_means(rgb, alpha)
    radius = max(1, round(NARROW * max(height, width)))
    result = rgb.copy()
    rows = max(2 * radius, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if alpha[top:bottom].min() == 255:
            continue
        first, last = max(0, top - radius), min(height, bottom + radius)
        a = torch.from_numpy(alpha[first:last]).float() / 255
        own = torch.from_numpy(rgb[first:last]).permute(2, 0, 1).float()
        size = (near.shape[-2] * block, near.shape[-1] * block)
        colour, behind = (strip(maps, size, first, last)[..., :width] for maps in (near, far))
        if ((a > 0) & (a < 1)).any():
            colour, behind = fused(own, a, colour, behind)
            colour = mean_colour(colour * a, a, radius, colour)
            behind = mean_colour(behind * (1 - a), 1 - a, radius, behind)
            colour, _ = fused(own, a, colour, behind)
        pixels = colour[:, top - first : bottom - first].clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
        opaque = alpha[top:bottom, :, None] == 255
        result[top:bottom] = np.where(opaque, rgb[top:bottom], pixels)
    return result


def fused(own: Tensor, alpha: Tensor, colour: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
    """F and B of the picture `own` (3, h, w), alpha (h, w), and the smooth guesses F̂ and B̂: what they do not explain is given to
    both, by their shares."""
    rest = own - alpha * colour - (1 - alpha) * behind
    return (colour + alpha * rest).clamp(0, 255), (behind + (1 - alpha) * rest).clamp(0, 255)


def mean_colour(premultiplied: Tensor, weight: Tensor, radius: int, otherwise: Tensor) -> Tensor:
    """Premultiplied colours (3, h, w) over weight (h, w), both averaged over boxes of 2·radius + 1; where there is no weight, the
    colour `otherwise`."""
    sums = box_means(torch.cat([premultiplied, weight[None]]), radius).clamp_min(0)  # rounding
    colour: Tensor = (sums[:3] + PRIOR * otherwise) / (sums[3] + PRIOR)
    return colour


def wide_means(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> tuple[Tensor, Tensor, int]:
    """F̂ and B̂ of the wide pass, (3, h, w) in [0, 255], on blocks of the picture, and the side of a block in pixels. Where even
    the wide box holds nothing of the kind, a wider one's, or the mean colour of all."""
    block = -(-max(alpha.shape) // COARSE)
    radius = max(1, round(WIDE * max(alpha.shape) / block))
    means = []
    for sums in (block_sums(rgb, alpha, block), block_sums(rgb, 255 - alpha, block)):
        colour = (sums[:3].sum(dim=(1, 2)) / sums[3].sum().clamp_min(1e-9)).view(3, 1, 1)
        for reach in (4 * radius, radius):
            colour = mean_colour(sums[:3], sums[3], reach, colour)
        means.append(colour)
    return means[0], means[1], block


def block_sums(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], block: int) -> Tensor:
    """Sums of wI and of w = α^`TRUST` over blocks of the picture, per pixel of a block: (4, h, w)."""
    height, width = alpha.shape
    columns = np.arange(0, width, block)
    parts = []
    for top in range(0, height, block):
        weight = (alpha[top : top + block, :, None].astype(np.float32) / 255) ** TRUST
        both = np.concatenate([rgb[top : top + block] * weight, weight], axis=2).sum(axis=0)
        parts.append(np.add.reduceat(both, columns, axis=0))
    return torch.from_numpy(np.stack(parts)).permute(2, 0, 1) / block**2
