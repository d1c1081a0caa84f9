"""One picture and its prompts as the models see them, the grid that alpha lives on, and the composite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.base import Denoiser

ALPHA_PER_LATENT = 4
"""α pixels along one latent's side: the paper's 256² grid on Stable Diffusion's 64² latents."""

Judge = Callable[[Tensor], Tensor]
"""Similarities (N,) of N pictures (N, 3, H, W) in [0, 1], each with its own prompt. Carries a gradient."""


@dataclass(frozen=True)
class Scene:
    """One picture and its prompts, as the denoiser sees them.

    image: (1, 3, H, W) in [0, 1] at the model's size. embeddings: (N, tokens, width); null: (1, tokens, width); rivals: of
    names that no prompt holds, (K, tokens, width), or None. words: the positions of each prompt's own words among its tokens, or
    None where the denoiser has no attention to read. prior: weights (N, h, w) in [0, 1] of the evidence on the α grid, or None.
    asks: a number for what each prompt asks for, where some ask for the same at other places (`alpha.alpha_of`), or None.
    guide: (1, C, h, w) on the α grid, or None for no blur. judge: what the CLIP loss asks; None where no loss does. memo: what
    `evidence.hear` has found, so that the first map and the score of presence share it.
    """

    denoiser: Denoiser
    image: Tensor
    embeddings: Tensor
    null: Tensor
    guide: Tensor | None
    judge: Judge | None = None
    rivals: Tensor | None = None
    words: list[list[int]] | None = None
    prior: Tensor | None = None
    asks: Sequence[int] | None = None
    memo: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def views(self) -> tuple[Tensor, Tensor]:
        """The latents of the picture and of its mirror image, (1, C, h, w) each, encoded when first asked. What the maps of the two agree
        on is not an accident of the latents' grid."""
        with torch.no_grad():
            return self.denoiser.encode(self.image), self.denoiser.encode(self.image.flip(-1))


def alpha_grid(denoiser: Denoiser, image_size: Sequence[int]) -> tuple[int, int]:
    """(h, w) of the α grid: four pixels per latent side as in the paper, never finer than the picture."""
    ratio = min(1.0, ALPHA_PER_LATENT / denoiser.factor)
    return round(image_size[0] * ratio), round(image_size[1] * ratio)


def to_grid(guide: Tensor, size: tuple[int, int]) -> Tensor:
    """A guide (1, C, H, W) on the α grid."""
    if tuple(guide.shape[-2:]) == size:
        return guide
    return F.interpolate(guide, size=size, mode="bilinear", antialias=True, align_corners=False)


def composite(alpha: Tensor, image: Tensor, colour: Tensor) -> Tensor:
    """α·x + (1−α)·b: (N, 3, H, W) of alphas (N, h, w), one image (1, 3, H, W) and one colour (3,)."""
    alpha = alpha[:, None]
    if alpha.shape[-2:] != image.shape[-2:]:
        alpha = F.interpolate(alpha, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return alpha * image + (1 - alpha) * colour.view(1, 3, 1, 1)
