"""Is it there at all? The denoising error under the prompt and under other names, where the run says that the thing is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import evidence
from peekaboo.scene import Scene
from peekaboo.settings import Settings

MIDDLE, SLOPE = 1.66, 1.39
"""Where the score is ½, and how fast it rises, per thousandth of the noise's energy: a logistic regression on 120 prompts, half of them
absent, about held-out things of half of the names (`python benchmarks/answers.py --calibrate 60`). What fits one model need not fit another."""


@torch.no_grad()
def explained(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    r"""How much more of the noise's energy the prompt explains than rival names do, in thousandths (N,), where alpha (N, h, w) is (the
    Diffusion Classifier's test, arXiv 2303.16203, in one place). It costs nothing: the draws are the first map's (`evidence.hear`).

    With g the mean gain of the draws and of the picture's mirror image, C the latents' channels, and means over places:
    :math:`1000 · \overline{α g} / (C \sqrt{\bar α})`. The root stands between a mean, in which one latent may speak for a
    thing, and a sum, in which a small thing has no voice: what noise there is in a sum over places grows with the root of their number.
    No place speaks against the prompt more than half as loud as the loudest (98 % quantile) speak for it.
    """
    said = evidence.testimony(scene, settings).float().mean(dim=(0, 1))  # (N, h, w)
    loudest = said.flatten(1).quantile(evidence.LOUD, dim=1).view(-1, 1, 1)
    inside = F.interpolate(alpha.float().cpu()[None], size=said.shape[-2:], mode="area")[0].to(
        said
    )  # Apple's GPUs lack some of it
    share = inside * torch.maximum(said, -loudest.clamp_min(0) / 2)
    result: Tensor = (
        1000 / scene.views[0].shape[1] * share.mean(dim=(1, 2)) / inside.mean(dim=(1, 2)).sqrt().clamp_min(1e-3)
    )
    return result


def presence(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    """The score (N,) in [0, 1]: a logistic curve of `explained`. 0 where alpha is empty."""
    if not alpha.any():
        return torch.zeros(len(alpha))
    score = torch.sigmoid(SLOPE * (explained(scene, alpha, settings) - MIDDLE))
    return score * (alpha.amax(dim=(1, 2)).to(score.device) > 0)
