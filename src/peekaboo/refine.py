"""From the α grid to the picture's own size, with edges that follow the picture.

Three steps, all on small grids but the last (and `clean`): what alpha is unsure of is decided by the picture's colours (`settled`); the grid is
sharpened until what it is upsampled to, reduced again, is the grid (`sharpened`); and the guided filter's coefficients are
upsampled and applied to the picture, strip by strip (`upsample`). `make bench-edges` measures each.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.images import averaged

STRIP_PIXELS = 1_000_000
"""Pixels refined at a time, so that memory does not grow with the picture."""
FINENESS = 4
"""The filter's coefficients are computed on at most this many pixels along the side of an α pixel."""
SHARPENING = 2
"""Corrections of the grid in `sharpened`."""
FIRMNESS = 2.0
"""By what the logits are multiplied where alpha was unsure: a thing in its right place is not half transparent."""


class GuidedFilter:
    r"""The guided filter (He et al., "Guided Image Filtering", PAMI 2013) as its local coefficients, to be applied at any size
    (He and Sun, "Fast Guided Filter", arXiv 1505.00996): :math:`q = ā·I + b̄` with
    :math:`a = (Σ + ε1)^{-1} cov(I, p)` and :math:`b = p̄ - a·Ī`, all means over windows of 2·radius + 1.

    guide: I, (1, 3, h, w) in [0, 1]. eps: ε, the variance of the guide under which it counts as flat. kornia's `guided_blur`
    is the same filter, but keeps its coefficients to itself and needs the guide at full size at once.
    """

    def __init__(self, guide: Tensor, radius: int, eps: float) -> None:
        self.guide, self.radius = guide[0] - 0.5, radius
        self.mean = self._means(self.guide)
        products = self._means((self.guide[:, None] * self.guide[None]).flatten(0, 1)).unflatten(0, (3, 3))
        covariance = products - self.mean[:, None] * self.mean[None]
        self.inverse = torch.linalg.inv(covariance.permute(2, 3, 0, 1) + eps * torch.eye(3))

    def _means(self, maps: Tensor) -> Tensor:
        return box_means(maps, self.radius)

    def coefficients(self, maps: Tensor) -> Tensor:
        """ā and b̄ of maps p (N, h, w): (N, 4, h, w)."""
        mean = self._means(maps)
        products = self._means((maps[:, None] * self.guide[None]).flatten(0, 1)).unflatten(0, (-1, 3))
        covariance = products - mean[:, None] * self.mean[None]
        a: Tensor = torch.einsum("hwcd,ndhw->nchw", self.inverse, covariance)
        b = mean[:, None] - (a * self.mean).sum(dim=1, keepdim=True)
        means: Tensor = self._means(torch.cat([a, b], dim=1).flatten(0, 1)).unflatten(0, (-1, 4))
        return means

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps (N, h, w) of the guide's size, filtered."""
        return apply(self.coefficients(maps), self.guide + 0.5)


def box_means(maps: Tensor, radius: int) -> Tensor:
    """Maps (N, h, w) float32 on the CPU, averaged over boxes of 2·radius + 1, borders repeated. By running sums: as fast with a wide
    box as with a narrow one."""
    import cv2

    box = (2 * radius + 1, 2 * radius + 1)
    blurred = [cv2.blur(map_.numpy(), box, borderType=cv2.BORDER_REPLICATE) for map_ in maps]
    return torch.from_numpy(np.stack(blurred))


def apply(coefficients: Tensor, guide: Tensor) -> Tensor:
    """ā·I + b̄, (N, h, w), of coefficients (N, 4, h, w) and a guide (3, h, w) in [0, 1]."""
    return (coefficients[:, :3] * (guide - 0.5)).sum(dim=1) + coefficients[:, 3]


def upsample(alpha: Tensor, rgb: NDArray[np.uint8], cell: float, eps: float = 1e-4) -> NDArray[np.float32]:
    """Alphas (N, h, w) in [0, 1] at the picture's own size: (N, H, W) float32 in [0, 1].

    rgb: HWC uint8, the guide. cell: the side of the area, in α pixels, within which an edge may be moved to one of the
    picture; where alpha is unsure, four times that. eps: the variance of the guide, in [0, 1]², under which it counts as flat.

    Alphas that nowhere add up to more than one still do not. Beside the result, memory is bounded: strips, and maps of
    `FINENESS`² pixels per α pixel.
    """
    height, width = rgb.shape[:2]
    alpha = alpha.detach().float().cpu()
    shared = bool(alpha.sum(dim=0).max() < 1 + 1e-4)
    grid = tuple(alpha.shape[-2:])
    alpha = settled(alpha, _guide(rgb, grid), round(2 * cell), eps)
    work = (min(height, FINENESS * grid[0]), min(width, FINENESS * grid[1]))
    radius = max(1, round(cell / 2 * max(work[0] / grid[0], work[1] / grid[1])))
    guided = GuidedFilter(_guide(rgb, work), radius, eps)
    if work[0] > grid[0] and work[1] > grid[1]:
        alpha = sharpened(alpha, guided, work)
    coefficients = guided.coefficients(resize(alpha, work))
    result = np.empty((len(alpha), height, width), np.float32)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        guide = torch.from_numpy(rgb[top:bottom]).permute(2, 0, 1).float() / 255
        part = result[:, top:bottom]
        for index in range(len(alpha)):
            local = strip(coefficients[index], (height, width), top, bottom)
            part[index] = apply(local[None], guide)[0].clamp(0, 1).numpy()
        if shared and len(alpha) > 1:
            part /= np.maximum(part.sum(axis=0), 1)
    return result


def clean(alpha: NDArray[np.float32], levels: float) -> NDArray[np.float32]:
    """Alphas, in [0, 1], in place: those up to `levels` become 0, those from 1 − `levels` on become 1, what is between is stretched, and ½
    stays ½. Alphas of one pixel that add up to no more than one still do not. What the optimisation leaves behind a thing is no opacity of it:
    on the grid it may be a tenth everywhere."""
    if levels:
        for one in alpha:  # so that large pictures take no more memory
            one -= np.float32(levels)
            one /= np.float32(1 - 2 * levels)
            np.clip(one, 0, 1, out=one)
    return alpha


def settled(alpha: Tensor, guide: Tensor, radius: int, eps: float) -> Tensor:
    """Alphas (N, h, w), decided by the picture's colours where they are unsure: a guided filter with a wide window, blended in by
    how unsure the neighbourhood is, the mean of 4α(1−α), and the logits then multiplied by up to `FIRMNESS`, which leaves ½
    where it is. A sharp edge in its place is hardly touched.

    guide: (1, 3, h, w) in [0, 1].
    """
    wide = GuidedFilter(guide, radius, eps)(alpha).clamp(0, 1)
    unsure = box_means(4 * alpha * (1 - alpha), radius=3)
    share = (2.5 * unsure - 0.5).clamp(0, 1)
    logits = torch.logit(torch.lerp(alpha, wide, share), eps=1e-4)
    return torch.where(share > 0, torch.sigmoid(logits * (1 + (FIRMNESS - 1) * share)), alpha)


def sharpened(alpha: Tensor, guided: GuidedFilter, work: tuple[int, int]) -> Tensor:
    """The grid (N, h, w) whose guided upsampling to `work`, reduced again, is nearly alpha: upsampling blurs, and this undoes it
    (back-projection, Irani and Peleg 1991, on the grid's side). The values may leave [0, 1]."""
    target = alpha
    for _ in range(SHARPENING):
        alpha = alpha + target - F.interpolate(guided(resize(alpha, work))[None], alpha.shape[-2:], mode="area")[0]
    return alpha


def _guide(rgb: NDArray[np.uint8], size: tuple[int, ...]) -> Tensor:
    """The picture, averaged down to (height, width): (1, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(averaged(rgb, size)).permute(2, 0, 1)[None].float() / 255


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at another size, bilinear."""
    larger = size[0] >= maps.shape[-2]
    return F.interpolate(maps[None], size=size, mode="bilinear", antialias=not larger, align_corners=False)[0]


def strip(maps: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """The rows from `top` to `bottom` of what `resize` would make of maps (N, h, w), never smaller than they are."""
    rows = maps.shape[-2]
    y = ((torch.arange(top, bottom) + 0.5) * rows / size[0] - 0.5).clamp(0, rows - 1)
    above = y.long()
    below, share = (above + 1).clamp_max(rows - 1), (y - above)[:, None]
    return resize(torch.lerp(maps[:, above], maps[:, below], share), (bottom - top, size[1]))
