r"""DiffEdit's mask (arXiv 2210.11427, §3.2, step 1): where the prompt changes what the denoiser predicts.

.. math:: m = \operatorname{mean}_{ε, c} |ε_p(z_t) - ε_∅(z_t)|, \qquad t = T / 2

over ten draws of the noise, no descent. The paper takes out outliers, rescales to [0, 1] and cuts at 0.5, without
naming the rule for outliers; this one is that of diffusers' DiffEdit pipeline, which clips at three times the map's
mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo import distill
from peekaboo.denoisers import Denoiser
from peekaboo.errors import SettingsError
from peekaboo.evaluation.baselines._shared import Baseline, latents_of, load_denoiser


class DiffEdit(Baseline):
    """The difference of the noise predicted with the prompt and with none (the reference text is empty), on any
    `Denoiser`."""

    def __init__(self, denoiser: Denoiser, draws: int, strength: float, clip: float, seed: int) -> None:
        self.denoiser, self.model = denoiser, denoiser.name
        self.draws, self.strength, self.clip, self.seed = draws, strength, clip, seed

    def difference(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """The mean absolute difference, over draws and channels: (N, h, w) on the latents' grid."""
        denoiser = self.denoiser
        latents = latents_of(denoiser, rgb)
        embeddings = denoiser.encode_prompt([*prompts, ""])
        step = min(round(self.strength * denoiser.timesteps), denoiser.timesteps - 1)
        t = torch.full((self.draws,), step, dtype=torch.int64)
        noise = distill.draw_noise(self.draws, latents, torch.Generator().manual_seed(self.seed))
        p = distill.predict(denoiser, latents, embeddings[:-1], embeddings[-1:], t, noise)
        return (p.prompt - p.null).abs().mean(dim=(0, 2))

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        difference = self.difference(rgb, prompts)
        ceiling = self.clip * difference.mean(dim=(1, 2), keepdim=True)
        return (difference / ceiling.clamp_min(1e-12)).clamp(0, 1)


def load(
    model: str | Path | Any | None,
    device: str | None,
    dtype: str | None,
    *,
    draws: int = 10,
    strength: float = 0.5,
    clip: float = 3.0,
    seed: int = 0,
) -> DiffEdit:
    """model: as in `load_pipeline`, a loaded pipeline, or a `Denoiser`; None for the bundled one. strength: t as a
    share of T. clip: where outliers begin, in means of the map. Raises ModelError, SettingsError."""
    if draws < 1 or not 0 <= strength <= 1 or clip <= 0:
        raise SettingsError(
            f"diffedit needs draws of at least 1, a strength in [0, 1] and a clip above 0, "
            f"but got {draws}, {strength} and {clip}."
        )
    return DiffEdit(load_denoiser(model, device, dtype), draws, strength, clip, seed)
