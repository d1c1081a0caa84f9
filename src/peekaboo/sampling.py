"""A plain sample of the model's own: a picture from noise, with nothing of Peekaboo in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from peekaboo import distill
from peekaboo.denoisers.base import Denoiser


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    embedding: Tensor,
    null: Tensor,
    size: tuple[int, int],
    steps: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """The model's guess (3, H, W) in [0, 1] of the picture at each of `steps` steps of DDPM (arXiv 2006.11239), and after the last the sample
    itself.

    embedding, null: (1, tokens, width), the prompt and what guidance leads away from. size: (H, W) in pixels.
    """
    scheduler = make_scheduler(denoiser, steps)
    conditions = torch.cat([embedding, null])
    like = denoiser.encode(torch.zeros(1, 3, *size, device=denoiser.device))
    latents = distill.draw_noise(1, like, generator)[0].to(like)
    for step in scheduler.timesteps:
        guided = distill.predict_guided(denoiser, latents, step.to(denoiser.device)[None], conditions, guidance_scale)
        made = scheduler.step(guided, step, latents, generator=generator)
        latents = made.prev_sample.to(like)
        yield denoiser.decode(latents if step == scheduler.timesteps[-1] else made.pred_original_sample)[0].float()


def make_scheduler(denoiser: Denoiser, steps: int) -> Any:
    """diffusers' DDPM on the denoiser's own schedule, whatever its family: a `Denoiser` always predicts the noise. With the bundled model,
    solvers without fresh noise make fewer pictures that are recognised, and the fewer steps the fewer."""
    from diffusers import DDPMScheduler

    alphas = denoiser.alphas_cumprod.cpu().double()
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    scheduler = DDPMScheduler(
        num_train_timesteps=denoiser.timesteps,
        trained_betas=betas.numpy(),
        prediction_type="epsilon",
        clip_sample=False,
        timestep_spacing="leading",  # nothing is asked where no signal is left, of which some schedules have a step
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler
