"""What the denoiser tells about a picture without any descent: where a prompt explains it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill
from peekaboo.denoisers.base import Denoiser

RIVALS = (
    *("dog", "car", "apple", "house", "tree", "shoe", "fish", "guitar", "chair", "bird", "cup", "flower"),
    *("ball", "hat", "boat", "bottle", "key", "cake", "butterfly", "clock", "book", "cat", "bus", "lamp"),
)
"""Everyday names, of many kinds, that any text-to-image model knows."""


def rivals_of(prompts: Sequence[str]) -> list[str]:
    """The `RIVALS` that share no word with any of the prompts, each with its article."""
    said = {
        form for prompt in prompts for word in re.findall(r"\w+", prompt.lower()) for form in (word, word.rstrip("s"))
    }
    return [f"a {name}" for name in RIVALS if name not in said]


@torch.no_grad()
def gains(
    denoiser: Denoiser,
    latents: Tensor,
    embeddings: Tensor,
    null: Tensor,
    t: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """`distill.error_gain` at the timesteps t (D,): (D, N, h, w)."""
    noise = distill.draw_noise(len(t), latents, generator)
    return distill.error_gain(distill.predict(denoiser, latents, embeddings, null, t, noise))


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
) -> Tensor:
    """The mean error gain over `draws` draws on the picture (1, 3, H, W) and as many on its mirror image, on a grid of `size`:
    (N, h, w). What the two agree on is not an accident of the latents' grid.

    null: what the prompts are compared with, (1, tokens, width), or several that the draws take in turn, (K, tokens, width). Of
    rival names each draw's gain is :math:`|ε_r-ε|^2 - |ε_p-ε|^2`: the gain over nothing, less the rival's own.
    """
    maps = []
    null = null[torch.arange(draws) % len(null)] if len(null) > 1 else null
    for mirrored in (False, True):
        seen = image.flip(-1) if mirrored else image
        t = distill.draw_timesteps(draws, *band, denoiser.timesteps, generator)
        gain = gains(denoiser, denoiser.encode(seen), embeddings, null, t, generator).mean(dim=0)
        gain = gain.flip(-1) if mirrored else gain
        maps.append(F.interpolate(gain[None].float(), size=size, mode="bilinear", align_corners=False)[0])
    return torch.stack(maps).mean(dim=0)


def spread(maps: Tensor, high: float = 0.98) -> tuple[Tensor, Tensor]:
    """The median and the `high` quantile of each map (N, h, w), both (N, 1, 1)."""
    flat = maps.flatten(1)
    return flat.median(dim=1).values.view(-1, 1, 1), flat.quantile(high, dim=1).view(-1, 1, 1)
