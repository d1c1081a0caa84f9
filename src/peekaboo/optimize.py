"""The loop: a generator of Steps, so that a progress bar, a page or a timelapse can watch, and stop, a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill
from peekaboo.alpha import Blur, Fourier, Raster, alpha_of
from peekaboo.bilateral import BilateralBlur, no_blur
from peekaboo.denoisers.base import Denoiser
from peekaboo.errors import NumericalError
from peekaboo.settings import Settings

ALPHA_PER_LATENT = 4
"""α pixels along one latent's side: the paper's 256² grid on Stable Diffusion's 64² latents."""


@dataclass(frozen=True)
class Step:
    """One iteration, done. alpha: (N, h, w) in [0, 1] on the α grid. change: mean |Δα| since the step before. seconds: since
    the start. index counts from 1; total is what the settings ask for."""

    index: int
    total: int
    alpha: Tensor
    change: float
    seconds: float


@dataclass(frozen=True)
class Scene:
    """One picture and its prompts, as the denoiser sees them.

    image: (1, 3, H, W) in [0, 1] at the model's size. embeddings: (N, tokens, width); null: (1, tokens, width).
    guide: (1, C, h, w) on the α grid, or None for no blur.
    """

    denoiser: Denoiser
    image: Tensor
    embeddings: Tensor
    null: Tensor
    guide: Tensor | None


def alpha_grid(denoiser: Denoiser, image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the α grid: four pixels per latent side as in the paper, never finer than the picture."""
    ratio = min(1.0, ALPHA_PER_LATENT / denoiser.factor)
    return round(image_size[0] * ratio), round(image_size[1] * ratio)


def to_grid(guide: Tensor, size: tuple[int, int]) -> Tensor:
    """A guide (1, C, H, W) on the α grid."""
    if tuple(guide.shape[-2:]) == size:
        return guide
    return F.interpolate(guide, size=size, mode="bilinear", antialias=True, align_corners=False)


def make_blur(scene: Scene, settings: Settings) -> Blur:
    """The blur the settings ask for, its weights computed once for the picture."""
    if scene.guide is None or settings.blur_iterations == 0:
        return no_blur
    return BilateralBlur(
        scene.guide, settings.kernel_size, settings.blur_iterations, settings.sigma_space, settings.sigma_guide
    )


def composite(alpha: Tensor, image: Tensor, colour: Tensor) -> Tensor:
    """α·x + (1−α)·b: (N, 3, H, W) of alphas (N, h, w), one image (1, 3, H, W) and one colour (3,)."""
    alpha = alpha[:, None]
    if alpha.shape[-2:] != image.shape[-2:]:
        alpha = F.interpolate(alpha, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return alpha * image + (1 - alpha) * colour.view(1, 3, 1, 1)


def learning_rate(settings: Settings) -> float:
    """TODO"""
    return settings.learning_rate


def run(scene: Scene, settings: Settings) -> Iterator[Step]:
    """TODO"""
    yield from descend(scene, settings, None)


def descend(scene: Scene, settings: Settings, start: Tensor | None) -> Iterator[Step]:
    """The paper's loop"""
    generator = torch.Generator().manual_seed(settings.seed)
    clock = time.perf_counter()
    size = alpha_grid(scene.denoiser, tuple(scene.image.shape[-2:]))
    blur = make_blur(scene, settings)
    prompts = len(scene.embeddings)
    if settings.alpha == "fourier":
        model = Fourier(prompts, size, blur, generator, device=scene.image.device)
    else:
        model = Raster(prompts, size, blur, generator, start, device=scene.image.device)
    make = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
    optimizer = make(model.parameters(), lr=learning_rate(settings))
    before = alpha_of(model(), settings.compete).detach()
    for index in range(1, settings.steps + 1):
        alpha = alpha_of(model(), settings.compete)
        colour = torch.rand(3, generator=generator).to(alpha.device)
        latents = scene.denoiser.encode(composite(alpha, scene.image, colour))
        t = distill.draw_timesteps(
            settings.draws, settings.t_min, settings.t_max, scene.denoiser.timesteps, generator
        )
        noise = distill.draw_noise(settings.draws, latents, generator)
        p = distill.predict(scene.denoiser, latents, scene.embeddings, scene.null, t, noise)
        score = distill.csd(p) if settings.estimator == "csd" else distill.sds(p, settings.guidance_scale)
        loss = (score * latents).sum() + settings.gravity * alpha.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        after = alpha_of(model(), settings.compete).detach()
        change = float((after - before).abs().mean())
        if not torch.isfinite(after).all():
            raise NumericalError("nan")
        before = after
        yield Step(index, settings.steps, after, change, time.perf_counter() - clock)
