"""The loop: a generator of Steps, so that a progress bar, a page or a timelapse can watch, and stop, a run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peekaboo import evidence
from peekaboo.alpha import Blur, Fourier, Raster, alpha_of, fitted
from peekaboo.bilateral import BilateralBlur, no_blur
from peekaboo.errors import NumericalError
from peekaboo.loss import alpha_gradient
from peekaboo.scene import Scene, alpha_grid
from peekaboo.settings import Settings

STEEPNESS = 6.0
"""Logits per unit of the warm start's map."""
PAPER_PIXELS = 256 * 256
"""The paper's α grid."""


@dataclass(frozen=True)
class Step:
    """One iteration, done. alpha: (N, h, w) in [0, 1] on the α grid. change: mean |Δα| since the step before. seconds: since
    the start. index counts from 1; total is what the settings ask for."""

    index: int
    total: int
    alpha: Tensor
    change: float
    seconds: float


def make_blur(scene: Scene, settings: Settings) -> Blur:
    """The blur the settings ask for, its weights computed once for the picture."""
    if scene.guide is None or settings.blur_iterations == 0:
        return no_blur
    return BilateralBlur(
        scene.guide,
        settings.kernel_size,
        settings.blur_iterations,
        settings.sigma_space,
        settings.sigma_guide,
    )


def run(scene: Scene, settings: Settings) -> Iterator[Step]:
    """Optimise the alphas of one picture's prompts. Yields a `Step` after each iteration; the warm start, where there is one, is
    the first few. Raises NumericalError, with the step's number, when a value is no number any more."""
    clock, previous = time.perf_counter(), None
    generator = torch.Generator().manual_seed(settings.seed)
    total = iterations(settings)
    for index, alpha in enumerate(alphas(scene, settings, generator), start=1):
        if not torch.isfinite(alpha).all():
            raise NumericalError(
                f"The optimisation broke down at iteration {index} of {total}: alpha is not a number any more; "
                "lower the learning rate, or use --dtype float32."
            )
        change = 0.0 if previous is None else float((alpha - previous).abs().mean())
        previous = alpha
        yield Step(index, total, alpha, change, time.perf_counter() - clock)


def iterations(settings: Settings) -> int:
    """How many Steps a run yields: the warm start, where there is one, counts as the first few."""
    return settings.steps + len(evidence.parts(settings.warm_start))


def alphas(scene: Scene, settings: Settings, generator: torch.Generator) -> Iterator[Tensor]:
    """The alphas (N, h, w) after each part of the warm start and after each step of descent."""
    size = alpha_grid(scene.denoiser, scene.image.shape[-2:])
    blur = make_blur(scene, settings)
    start = None
    if settings.warm_start:
        for start in first_maps(scene, settings, size, blur, generator):
            yield alpha_of(blur(start), settings.compete, scene.asks)
    if settings.steps:
        model = make_model(len(scene.embeddings), size, blur, settings, generator, start, scene.image.device)
        yield from descend(scene, settings, model, generator)


def make_model(
    prompts: int,
    size: tuple[int, int],
    blur: Blur,
    settings: Settings,
    generator: torch.Generator,
    start: Tensor | None,
    device: torch.device,
) -> nn.Module:
    """The alpha model the settings ask for, beginning where the warm start ended, if there was one."""
    if settings.alpha == "fourier":
        model = Fourier(prompts, size, blur, generator, device)
        return model if start is None else fitted(model, start)
    return Raster(prompts, size, blur, generator, start, device)


def descend(scene: Scene, settings: Settings, model: nn.Module, generator: torch.Generator) -> Iterator[Tensor]:
    """The loop of the paper: composite, encode, add noise, predict, and follow the score down to the alpha model's parameters."""
    optimizer = make_optimizer(model, settings, math.prod(alpha_grid(scene.denoiser, scene.image.shape[-2:])))
    for _ in range(settings.steps):
        with torch.enable_grad():  # whoever watches may have turned it off, and gets it back as it was
            alpha = alpha_of(model(), settings.compete, scene.asks)
            gradient = alpha_gradient(scene, settings, alpha.detach(), generator)
            optimizer.zero_grad(set_to_none=True)
            alpha.backward(gradient)
            optimizer.step()
        with torch.no_grad():
            after = alpha_of(model(), settings.compete, scene.asks)
        yield after


def make_optimizer(model: nn.Module, settings: Settings, pixels: int) -> torch.optim.Optimizer:
    """SGD, plain as in the paper, or Adam."""
    rate = learning_rate(settings, pixels)
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate, betas=(0.5, 0.9))
    return torch.optim.SGD(model.parameters(), lr=rate)


def learning_rate(settings: Settings, pixels: int) -> float:
    r"""The rate for an α grid of `pixels` pixels. Adam's steps have no scale, so its rate is what the settings say, for logits;
    the weights of an MLP take a hundredth of it.

    SGD's is scaled from the paper's grid of P = 256² pixels, so that 1e-5 there means the same here:

    - fourier: the gradient on shared weights is a sum over the pixels, so the rate is multiplied by :math:`P / n`. On the
      paper's own grid it is the paper's.
    - raster: a logit gets one pixel's share of that sum, so the rate is multiplied by P, on any grid. (The paper's code notes
      that its rate "can be larger" when alpha is no network.)

    The gravity λ·Σα needs no scaling: the α grid keeps the paper's four pixels per latent side, so a pixel's λ weighs against
    the same share of a latent's score on any model. Nor does the blur, which is the paper's 3×3, 40 times, on that grid.
    """
    if settings.optimizer == "adam":
        return settings.learning_rate / (100 if settings.alpha == "fourier" else 1)
    return settings.learning_rate * PAPER_PIXELS / (pixels if settings.alpha == "fourier" else 1)


def first_maps(
    scene: Scene, settings: Settings, size: tuple[int, int], blur: Blur, generator: torch.Generator
) -> Iterator[Tensor]:
    """Logits (N, h, w), before their blur, without descent: where each prompt explains the picture's noise better than other
    names, or than no prompt, do. The first from a quarter of the draws, then from half, then from all (`evidence.parts`).

    The denoising-error gain on the picture itself, from `settings.warm_start` draws a view (`evidence.hear`), pooled over
    what the prompt's words attend to (`evidence.pooled`), weighed by the places that prompts tell, and scaled so that, blurred, the
    background is 0 and the peak (98 % quantile) 1; undecided where it is `settings.cut`. The background is what the median says, but
    never more than no gain at all: where a thing fills most of the picture, the median is the thing's.
    """
    weights: Tensor | None = None
    if scene.words is not None and settings.pooling:
        weights = evidence.attention_map(scene.denoiser, scene.views, scene.embeddings, scene.words, size, generator)
    for said in evidence.hear(scene, settings):
        gain = evidence.gain_map(said, size)
        if weights is not None:
            gain = evidence.pooled(gain, weights, settings.pooling * min(size))
        if scene.prior is not None:
            gain = gain * torch.where(gain > 0, scene.prior.to(gain), 1.0)
        low, high = evidence.spread(blur(gain), 0.5, evidence.LOUD)
        low = low.clamp_max(0)
        yield STEEPNESS * ((gain - low) / (high - low).clamp_min(1e-12) - settings.cut)
