"""What pulls on alpha: the gradient of one loss or another on the composite, plus gravity.

A loss is a function (scene, settings, composites, generator) -> (value, scale): a scalar whose gradient on the composites is
the loss's gradient divided by `scale`. Adding one is adding it to `LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from peekaboo import distill
from peekaboo.errors import SettingsError
from peekaboo.scene import Scene, composite
from peekaboo.settings import Estimator, Settings


class LossSettings(Protocol):
    """What a loss asks of the settings, a segmentation's or a generation's (see `Settings`)."""

    @property
    def draws(self) -> int: ...
    @property
    def t_min(self) -> float: ...
    @property
    def t_max(self) -> float: ...
    @property
    def estimator(self) -> Estimator: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def complement(self) -> float: ...


Loss = Callable[[Scene, LossSettings, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def alpha_gradient(scene: Scene, settings: Settings, alpha: Tensor, generator: torch.Generator) -> Tensor:
    r"""The gradient of the loss on the alphas (N, h, w), from one composite of each on one random colour.

    :math:`\partial L/\partial α = J^T g + λ`, with J the Jacobian of the composite and what encodes it, g the loss's gradient
    there, and λ the gravity. With `settings.complement`, the loss of (1−α)·x counts too, with the opposite sign.
    """
    alpha = alpha.requires_grad_(True)
    colour = torch.rand(3, generator=generator).to(alpha.device)
    sides = [alpha, 1 - alpha] if settings.complement else [alpha]
    composites = composite(torch.cat(sides), scene.image, colour)
    value, scale = LOSSES[settings.estimator](scene, settings, composites, generator)
    (gradient,) = torch.autograd.grad(value, alpha)
    gradient = scale * gradient
    if settings.balance:
        gradient = balanced(gradient)
    return gradient + settings.gravity


def score_loss(
    scene: Scene, settings: LossSettings, composites: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Score distillation (`distill.sds` or `distill.csd`) on the latents of the composites, from `settings.draws` draws of
    (t, ε) shared by all of them."""
    latents = scene.denoiser.encode(composites)
    t = distill.draw_timesteps(settings.draws, settings.t_min, settings.t_max, scene.denoiser.timesteps, generator)
    noise = distill.draw_noise(settings.draws, latents, generator)
    prompts = len(scene.embeddings)
    embeddings = scene.embeddings.repeat(len(composites) // prompts, 1, 1)
    predictions = distill.predict(scene.denoiser, latents, embeddings, scene.null, t, noise)
    if settings.estimator == "csd":
        score = distill.csd(predictions)
    else:
        score = distill.sds(predictions, settings.guidance_scale)
    score = torch.cat([score[:prompts], -settings.complement * score[prompts:]])
    scale = score.abs().amax().clamp_min(1e-12)  # keeps a half-precision encoder's gradient from vanishing
    return (score / scale * latents).sum(), scale


def clip_loss(
    scene: Scene, settings: LossSettings, composites: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Minus the similarity of each composite with its prompt (the paper's "CLIP" variant), times the pixels of a composite:
    a pixel's pull is then a share of the whole, of the order of the score's, on any grid. (The paper does not tell its weight.)
    """
    if scene.judge is None:
        raise SettingsError("The CLIP loss needs an image-text model to ask; name one with clip_model.")
    prompts = len(scene.embeddings)
    similarity = torch.cat([scene.judge(side) for side in composites.split(prompts)])
    sign = torch.ones_like(similarity)
    sign[prompts:] = -settings.complement
    pixels = torch.tensor(float(composites.shape[-2] * composites.shape[-1]), device=composites.device)
    return -(sign * similarity).sum(), pixels


LOSSES: dict[str, Loss] = {"sds": score_loss, "csd": score_loss, "clip": clip_loss}


def balanced(gradient: Tensor) -> Tensor:
    """Alpha gradients (N, h, w), each shifted so that indifferent pixels stand still: minus half of its own lower quartile."""
    quartile = gradient.flatten(1).quantile(0.25, dim=1)
    return gradient - 0.5 * quartile.view(-1, 1, 1)
