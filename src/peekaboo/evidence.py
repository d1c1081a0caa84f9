"""What the denoiser tells about a picture without any descent: where a prompt explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill
from peekaboo.denoisers.base import Denoiser

BATCH = 96
"""Latents predicted at a time, so that memory does not grow with draws and prompts."""


@dataclass(frozen=True)
class View:
    """A part of the picture, in shares of its height and width, mirrored or not, that fills the model's field of view."""

    top: float = 0.0
    left: float = 0.0
    share: float = 1.0
    mirrored: bool = False

    def box(self, size: Sequence[int], multiple: int) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) on a grid of `size`, the sides multiples of `multiple` where the view is a part."""
        if self.share == 1.0:
            return 0, size[0], 0, size[1]
        h, w = (max(1, round(n * self.share / multiple)) * multiple for n in size)
        top, left = (round(f * n / multiple) * multiple for f, n in ((self.top, size[0]), (self.left, size[1])))
        top, left = min(top, size[0] - h), min(left, size[1] - w)
        return top, top + h, left, left + w


WHOLE = (View(), View(mirrored=True))
"""The picture and its mirror image: what they agree on is not an accident of the latents' grid."""
QUARTERS = tuple(
    View(top, left, 0.625, mirrored)
    for mirrored, (top, left) in zip(
        (False, True, True, False), ((0.0, 0.0), (0.0, 0.375), (0.375, 0.0), (0.375, 0.375)), strict=True
    )
)
"""Four overlapping parts, nearer: small things are a handful of latents in the whole."""


@torch.no_grad()
def gains(
    denoiser: Denoiser,
    latents: Tensor,
    embeddings: Tensor,
    null: Tensor,
    t: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """`distill.error_gain` at the timesteps t (D,), in batches: (D, N, h, w)."""
    noise = distill.draw_noise(len(t), latents, generator)
    size = max(1, BATCH // (2 * len(embeddings)))
    return torch.cat(
        [
            distill.error_gain(distill.predict(denoiser, latents, embeddings, null, some, eps))
            for some, eps in zip(t.split(size), noise.split(size), strict=True)
        ]
    )


@torch.no_grad()
def gain_map(
    denoiser: Denoiser,
    image: Tensor,
    embeddings: Tensor,
    null: Tensor,
    draws: int,
    band: tuple[float, float],
    size: tuple[int, int],
    generator: torch.Generator,
    views: tuple[View, ...] = WHOLE,
) -> Tensor:
    """The mean error gain of `draws` draws a view, on a grid of `size`: (N, h, w).

    image: (1, 3, H, W). Each view is enlarged to the picture's own size, so the model sees it at its native area.
    """
    total = torch.zeros(len(embeddings), *size, device=image.device)
    weight = torch.zeros(size, device=image.device)
    for view in views:
        top, bottom, left, right = view.box(image.shape[-2:], 1)
        part = image[..., top:bottom, left:right]
        if view.share < 1.0:
            part = F.interpolate(part, size=image.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
        part = part.flip(-1) if view.mirrored else part
        t = distill.draw_timesteps(draws, *band, denoiser.timesteps, generator)
        gain = gains(denoiser, denoiser.encode(part), embeddings, null, t, generator).mean(dim=0)
        gain = gain.flip(-1) if view.mirrored else gain
        y0, y1, x0, x1 = view.box(size, 1)
        placed = F.interpolate(gain[None].float(), size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)[0]
        total[:, y0:y1, x0:x1] += placed
        weight[y0:y1, x0:x1] += 1
    return total / weight


def spread(maps: Tensor, high: float = 0.98) -> tuple[Tensor, Tensor]:
    """The median and the `high` quantile of each map (N, h, w), both (N, 1, 1)."""
    flat = maps.flatten(1)
    return flat.median(dim=1).values.view(-1, 1, 1), flat.quantile(high, dim=1).view(-1, 1, 1)
