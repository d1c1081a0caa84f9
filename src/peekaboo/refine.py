"""From the α grid to the picture's own size, with edges that follow the picture."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

STRIP_PIXELS = 2_000_000
"""Pixels refined at a time, so that memory does not grow with the picture."""


def upsample(alpha: Tensor, rgb: NDArray[np.uint8], cell: float, eps: float = 2e-4) -> NDArray[np.float32]:
    """Guided upsampling (He et al., "Guided Image Filtering") of (N, h, w) to (N, H, W) float32 in [0, 1].

    rgb: HWC uint8, the guide. cell: the side of the area, in α pixels, within which an edge may be moved to one of the
    picture. eps: the variance of the guide, in [0, 1]², under which the picture counts as flat.
    """
    from kornia.filters import guided_blur

    height, width = rgb.shape[:2]
    alpha = alpha.detach().float().cpu()
    scale = max(height / alpha.shape[-2], width / alpha.shape[-1])
    radius = max(1, round(cell * scale / 2))
    subsample = max(1, radius // 4)
    smooth = _resize(alpha, (height, width))
    result = np.empty(smooth.shape, np.float32)
    rows = max(4 * radius, STRIP_PIXELS // width)
    margin = 2 * radius + subsample
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - margin), min(height, bottom + margin)
        guide = torch.from_numpy(rgb[first:last]).permute(2, 0, 1)[None].float() / 255
        part = smooth[None, :, first:last]
        refined = guided_blur(guide, part, 2 * radius + 1, eps, border_type="replicate", subsample=subsample)
        result[:, top:bottom] = refined[0, :, top - first : bottom - first].clamp(0, 1).numpy()
    return result


def _resize(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    larger = size[0] >= alpha.shape[-2]
    return F.interpolate(alpha[None], size=size, mode="bilinear", antialias=not larger, align_corners=False)[0]
