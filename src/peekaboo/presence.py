"""Is it there at all? The denoising error with and without the prompt, on the composite that the run ended with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill, evidence
from peekaboo.scene import Scene, composite
from peekaboo.settings import Settings

DRAWS = 24
MIDDLE, SLOPE = 2.0, 0.7
"""Where the score is ½, and how fast it rises, per standard error. Chosen by hand, fitted to nothing: the score is not calibrated."""


@torch.no_grad()
def evidence_for(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    """How many standard errors (N,) the prompt's mean error gain inside its mask, alpha (N, h, w) > threshold, lies above zero, on the thing
    alone on grey, over `DRAWS` shared draws (the Diffusion Classifier's test, arXiv 2303.16203, in one place)."""
    generator = torch.Generator().manual_seed(settings.seed)
    alpha = alpha.to(scene.image.device)
    latents = scene.denoiser.encode(composite(alpha, scene.image, torch.full((3,), 0.5, device=alpha.device)))
    band = (settings.t_min, settings.t_max)
    t = distill.draw_timesteps(DRAWS, *band, scene.denoiser.timesteps, generator)
    mask = (alpha > settings.threshold).to(alpha)
    inside = F.interpolate(mask[None], size=latents.shape[-2:], mode="area")[0]
    counts = []
    for i in range(len(alpha)):
        own, prompt = latents[i : i + 1], scene.embeddings[i : i + 1]
        gain = evidence.gains(scene.denoiser, own, prompt, scene.null, t, generator)[:, 0]
        sums = (gain * inside[i]).sum(dim=(1, 2))  # (D,)
        counts.append(sums.mean() / (sums.std() / DRAWS**0.5).clamp_min(1e-9))
    return torch.stack(counts).float()


def presence(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    """The score (N,) in [0, 1]: a logistic curve of `evidence_for`. 0 where alpha is empty."""
    standing = evidence_for(scene, alpha, settings)
    return torch.sigmoid(SLOPE * (standing - MIDDLE)) * (alpha.amax(dim=(1, 2)).to(standing.device) > 0)
