"""Is it there at all? The denoising error with and without the prompt, where the run says that the thing is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import distill, evidence
from peekaboo.scene import Scene
from peekaboo.settings import Settings

DRAWS, BAND = 24, (0.2, 0.9)
"""Noised versions of the picture that are asked, and their timesteps as fractions of the schedule's length."""
MIDDLE, SLOPE = 2.0, 0.7
"""Where the score is ½, and how fast it rises, per standard error: near a logistic regression on 60 prompts, half of them absent, on new
compositions of training cut-outs (1.9 and .77). What fits one model need not fit another."""


@torch.no_grad()
def evidence_for(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    r"""How many standard errors (N,) the prompt's mean error gain over nothing lies above zero, where alpha (N, h, w) is, over `DRAWS`
    draws that all prompts share (the Diffusion Classifier's test, arXiv 2303.16203, in one place).

    With g_d (h, w) the gain of draw d (`distill.error_gain`), :math:`s_d = \sum α^4 g_d` (so that only places which the thing fills have
    a say) and the result :math:`\bar s / (σ_s / \sqrt D)`.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    latents = scene.views[0]
    t = distill.draw_timesteps(DRAWS, *BAND, scene.denoiser.timesteps, generator)
    gain = evidence.gains(scene.denoiser, latents, scene.embeddings, scene.null, t, generator)  # (D, N, h, w)
    inside = F.interpolate(alpha.to(gain)[None], size=latents.shape[-2:], mode="area").pow(4)
    sums = (gain * inside).sum(dim=(2, 3))
    standing: Tensor = sums.mean(dim=0) / (sums.std(dim=0) / DRAWS**0.5).clamp_min(1e-9)
    return standing.float()


def presence(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    """The score (N,) in [0, 1]: a logistic curve of `evidence_for`. 0 where alpha is empty."""
    standing = evidence_for(scene, alpha, settings)
    return torch.sigmoid(SLOPE * (standing - MIDDLE)) * (alpha.amax(dim=(1, 2)).to(standing.device) > 0)
