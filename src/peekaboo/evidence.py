"""What the denoiser tells about a picture without any descent: where a prompt explains it, and whether at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill
from peekaboo.alpha import Blur
from peekaboo.denoisers.base import Denoiser

BATCH = 64
"""Latents predicted at a time, so that memory does not grow with draws and prompts."""


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


def standardise(maps: Tensor) -> Tensor:
    """Each map (N, h, w) with mean 0 and standard deviation 1 over the picture."""
    mean = maps.mean(dim=(1, 2), keepdim=True)
    return (maps - mean) / maps.std(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def on_grid(maps: Tensor, size: tuple[int, int], blur: Blur) -> Tensor:
    """Maps of latents (N, h', w') on the α grid (N, h, w), blurred along the guide, standardised."""
    large = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    return standardise(blur(large))
