r"""The denoiser's own cross-attention, as DAAM reads it (arXiv 2210.04885): where the pixels look at the prompt's
words.

The picture's latents are noised at a few timesteps and shown to the UNet with the prompt. In every cross-attention
layer a pixel spreads its attention over the tokens; the share of the prompt's own tokens (those between start and end)
is averaged over heads, noised versions and tokens, upsampled to the latents' grid and averaged over layers.

DAAM attributes a picture while it is made, at all timesteps; on a picture that is given, the noisiest ones see nothing
of it, so they are left out. DAAM cuts at 0.4 of the map's maximum; here Otsu's rule finds the cut, which needs no
tuning to a model's habit of parking attention on the start token. A `threshold` in [0, 1] of the map's range can be
named instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.attention import heat, words_of
from peekaboo.denoisers import Denoiser
from peekaboo.errors import ModelError, SettingsError
from peekaboo.evaluation.baselines._shared import Baseline, around, latents_of, load_denoiser, otsu


class CrossAttention(Baseline):
    """What the pixels pay to the prompt's words, cut in two. Works on every adapter of a diffusers
    pipeline."""

    def __init__(self, denoiser: Denoiser, steps: int, band: tuple[float, float], threshold: Any, seed: int) -> None:
        self.denoiser, self.model = denoiser, denoiser.name
        if words_of(denoiser, []) is None:
            raise ModelError(
                f"The model {denoiser.name!r} has no attention that could be read; "
                "use one of the Stable Diffusion or Flux families."
            )
        self.steps, self.band, self.threshold, self.seed = steps, band, threshold, seed

    def heat(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """The attention to each prompt's words: (N, h, w) float32 on the latents' grid, in [0, 1]. All prompts see the
        same noise."""
        denoiser, latents = self.denoiser, latents_of(self.denoiser, rgb)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.steps, *latents.shape[1:], generator=generator).to(latents.device)
        t = (torch.linspace(*self.band, self.steps) * denoiser.timesteps).round().long()
        t = t.clamp(0, denoiser.timesteps - 1).to(latents.device)
        tokens = words_of(denoiser, prompts) or []
        return heat(denoiser, latents, denoiser.encode_prompt(prompts), tokens, t, noise)

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        heat = self.heat(rgb, prompts)
        flat = heat.flatten(1)
        if self.threshold == "otsu":
            return around(heat, otsu(flat))
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        return around(heat, low + float(self.threshold) * (high - low))


def load(
    model: str | Path | Any | None,
    device: str | None,
    dtype: str | None,
    *,
    steps: int = 5,
    band: tuple[float, float] = (0.1, 0.7),
    threshold: float | str = "otsu",
    seed: int = 0,
) -> CrossAttention:
    """model: as in `load_pipeline`, or a loaded pipeline; None for the bundled one. steps: timesteps, evenly over the
    band of T. threshold: "otsu", or a share of the map's range. Raises ModelError, SettingsError."""
    if steps < 1 or not 0 <= band[0] <= band[1] <= 1:
        raise SettingsError(
            f"cross-attention needs at least one step and a band within [0, 1], but got {steps} and {band}."
        )
    if threshold != "otsu" and not (isinstance(threshold, (int, float)) and 0 <= threshold <= 1):
        raise SettingsError(f"The threshold of cross-attention is 'otsu' or a number in [0, 1], but got {threshold!r}.")
    return CrossAttention(load_denoiser(model, device, dtype), steps, band, threshold, seed)
