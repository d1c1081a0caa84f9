"""Making a picture with transparency: an RGB image and its alpha together, under the Peekaboo loss (arXiv 2211.13224, §5).

The composite of a segmentation has a given picture; here the picture is learnt too, and several random backgrounds a step tell
its colours from its transparency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peekaboo import consensus, sampling
from peekaboo.alpha import Fourier, Raster, fitted
from peekaboo.bilateral import no_blur
from peekaboo.denoisers.base import Denoiser
from peekaboo.errors import NumericalError
from peekaboo.loss import LOSSES
from peekaboo.rgba import straight
from peekaboo.scene import Scene
from peekaboo.settings import GenerateSettings

MARGIN = 0.02
"""How far from 0 and 1 colours and alphas are kept when they become logits."""


@dataclass(frozen=True)
class Draft:
    """The picture after one step. colour: straight RGB (3, H, W) in [0, 1]. alpha: (H, W) in [0, 1]. seconds: since the start.
    index counts from 1; total is what the settings ask for."""

    index: int
    total: int
    colour: Tensor
    alpha: Tensor
    seconds: float


Cut = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What finds the thing in a picture (3, H, W) in [0, 1]: its straight colours (3, H, W), and its alpha (H, W)."""


def no_cut(colour: Tensor) -> tuple[Tensor, Tensor]:
    """The whole picture is the thing: a `Cut` where there is none."""
    return colour, torch.ones_like(colour[0])


def run(
    denoiser: Denoiser, prompt: str, size: tuple[int, int], settings: GenerateSettings, cut: Cut = no_cut
) -> Iterator[Draft]:
    """Make a picture of the prompt, (H, W) = `size` at the model's scale. Yields a `Draft` after each step. Raises
    NumericalError, with the step's number, when a value is no number any more."""
    clock, total = time.perf_counter(), iterations(settings)
    embeddings = denoiser.encode_prompt([prompt, settings.negative_prompt])
    for index, (colour, alpha) in enumerate(pictures(denoiser, embeddings, size, settings, cut), start=1):
        if not (torch.isfinite(alpha).all() and torch.isfinite(colour).all()):
            raise NumericalError(
                f"The generation broke down at step {index} of {total}: the picture is not a number any more; "
                "lower the learning rate, or use --dtype float32."
            )
        yield Draft(index, total, colour, alpha, time.perf_counter() - clock)


def iterations(settings: GenerateSettings) -> int:
    """How many drafts a run yields."""
    before = {"sample": settings.start_steps + 1, "consensus": settings.start_steps, "noise": 0}
    return settings.steps + before[settings.start]


def pictures(
    denoiser: Denoiser, embeddings: Tensor, size: tuple[int, int], settings: GenerateSettings, cut: Cut = no_cut
) -> Iterator[tuple[Tensor, Tensor]]:
    """Straight colours (3, H, W) and alpha (H, W) after each step of the sampling, of the cut, then of the descent."""
    generator = torch.Generator().manual_seed(settings.seed)
    s, start = settings, None
    if s.start == "sample":
        for colour in sampling.sample(
            denoiser, embeddings[:1], embeddings[1:], size, s.start_steps, s.start_guidance, generator
        ):
            yield no_cut(colour)
        colour, alpha = cut(colour)
        start = torch.cat([colour, alpha[None]])
        yield colour, alpha
    if s.start == "consensus":
        for premultiplied, alpha in consensus.sample(
            denoiser, embeddings[:1], embeddings[1:], size, s.start_steps, s.backgrounds, s.start_guidance, generator
        ):
            colour = straight(premultiplied, alpha)
            start = torch.cat([colour, alpha[None]])
            yield colour, alpha
    if s.steps:
        canvas = make_canvas(size, s, start, generator, denoiser.device)
        yield from descend(denoiser, embeddings, canvas, s, generator)


def make_canvas(
    size: tuple[int, int],
    settings: GenerateSettings,
    start: Tensor | None,
    generator: torch.Generator,
    device: torch.device,
) -> nn.Module:
    """Four logits a pixel, red, green, blue and alpha, as the settings hold them; `start` (4, H, W) in [0, 1] or nothing."""
    logits = None if start is None else start.clamp(MARGIN, 1 - MARGIN).logit()
    if settings.alpha == "fourier":
        model = Fourier(4, size, no_blur, generator, device)
        return model if logits is None else fitted(model, logits)
    return Raster(4, size, no_blur, generator, logits, device)


def descend(
    denoiser: Denoiser, embeddings: Tensor, canvas: nn.Module, settings: GenerateSettings, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loop: blend with random colours, ask the model, follow the score down to colours and alpha."""
    optimizer = torch.optim.Adam(canvas.parameters(), lr=settings.learning_rate)
    count = settings.backgrounds
    for _ in range(settings.steps):
        with torch.enable_grad():
            colour, alpha = split(canvas)
            backgrounds = torch.rand(count, 3, 1, 1, generator=generator).to(denoiser.device)
            composites = alpha * colour + (1 - alpha) * backgrounds
            pull = composite_gradient(denoiser, embeddings, composites.detach(), settings, generator)
            objective = (pull * composites).sum() + settings.penalty * alpha.mean()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
        with torch.no_grad():
            yield split(canvas)


def composite_gradient(
    denoiser: Denoiser,
    embeddings: Tensor,
    composites: Tensor,
    settings: GenerateSettings,
    generator: torch.Generator,
) -> Tensor:
    """The loss's gradient on composites (K, 3, H, W), mean over the K backgrounds."""
    count = len(composites)
    composites.requires_grad_(True)
    prompt, null = embeddings[:1].expand(count, -1, -1), embeddings[1:]
    scene = Scene(denoiser, composites, prompt, null, None)
    value, scale = LOSSES[settings.estimator](scene, settings, composites, generator)
    (gradient,) = torch.autograd.grad(value, composites)
    return scale * gradient / count


def split(canvas: nn.Module) -> tuple[Tensor, Tensor]:
    """A canvas's colours (3, H, W) and alpha (H, W), in [0, 1]."""
    rgba = torch.sigmoid(canvas())
    return rgba[:3], rgba[3]
