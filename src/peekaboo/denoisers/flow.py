r"""Rectified flow (arXiv 2209.03003), told in the words of diffusion: Stable Diffusion 3, Flux and their kin.

A flow's network sees :math:`x_σ = (1-σ) z + σ ε` and predicts :math:`v = ε - z`. With σ chosen so that signal and noise stand in the ratio
they have at t in a diffusion schedule, :math:`σ = \sqrt{1-ᾱ} / (\sqrt{ᾱ} + \sqrt{1-ᾱ})`, that is the diffusion's own
:math:`z_t = \sqrt{ᾱ} z + \sqrt{1-ᾱ} ε` but for its length, :math:`x_σ = z_t / (\sqrt{ᾱ} + \sqrt{1-ᾱ})`, and
:math:`ε̂ = x_σ + (1-σ) v`. So timesteps mean the same amount of noise in every family, and nothing else need know.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.latents import LatentDiffusion, beyond, room, unpacked
from peekaboo.errors import ModelError

PATCH = 2
"""Latents a side that the transformers take together."""


def stable_diffusion_schedule(timesteps: int = 1000) -> Tensor:
    """ᾱ_t (T,) of Stable Diffusion 1 to XL: β from .00085 to .012, its root linear."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


class Flow(LatentDiffusion):
    """The `Denoiser` of a pipeline whose transformer predicts a flow's velocity; `encode_prompt` and `velocity` are each family's own."""

    PARTS: tuple[str, ...] = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")
    CHANNELS = 1
    """Channels the transformer takes, per latent channel."""
    TOKENS = 256
    """Tokens of the T5 encoder, the end token counted."""

    def __init__(self, pipe: Any, sample_size: Any) -> None:
        config, latent_channels = pipe.transformer.config, pipe.vae.config.latent_channels
        if config.in_channels != self.CHANNELS * latent_channels:
            raise ModelError(
                f"The transformer takes {config.in_channels} channels where {self.CHANNELS * latent_channels} make a text-to-image "
                "model (an inpainting, control or editing one?); use the base model it was made from."
            )
        if not hasattr(pipe.scheduler, "sigmas"):
            raise ModelError(f"{type(pipe.scheduler).__name__} has no sigmas; use a flow-matching scheduler.")
        super().__init__(pipe, pipe.transformer, stable_diffusion_schedule(), sample_size)
        self.transformer = pipe.transformer
        self.pooled_width = config.pooled_projection_dim

    def t5(self) -> Any:
        """The tokenizer of the T5 encoder, which reads the most of a prompt; None where there is none."""
        raise NotImplementedError

    def clipped(self, prompt: str) -> str:
        """See `Denoiser`."""
        tokenizer = self.t5()
        return super().clipped(prompt) if tokenizer is None else beyond(self.pipe, prompt, tokenizer, self.TOKENS)

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """See `Denoiser`. Sides that are no multiples of a patch are filled up, by repeating the border, and cut again."""
        alpha_bar = self.alpha_bar(t)
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        sigma, seen = spread / (signal + spread), noisy / (signal + spread)
        height, width = noisy.shape[-2:]
        whole = F.pad(seen, (0, width % PATCH, 0, height % PATCH), mode="replicate").to(self.dtype)
        at_a_time = room(noisy)
        parts = zip(whole.split(at_a_time), sigma.flatten().split(at_a_time), embeddings.split(at_a_time), strict=True)
        velocity = torch.cat([self.velocity(x, s, *unpacked(e, self.pooled_width)).float() for x, s, e in parts])
        return seen + (1 - sigma) * velocity[..., :height, :width]

    def velocity(self, noisy: Tensor, sigma: Tensor, embeddings: Tensor, pooled: Tensor) -> Tensor:
        """v (B, C, h, w) at x_σ (B, C, h, w), h and w even, σ (B,)."""
        raise NotImplementedError
