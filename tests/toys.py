"""A toy denoiser whose optimum is known in closed form: a linear encoder and Gaussian data, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.base import epsilon_from


class Toy:
    """z = pool(M·(2x − 1)) with M (C, 3) fixed and 4×4 average pooling. Under prompt p, z ~ N(μ_p, s²·I) in every place, so
    the best noise prediction is ε̂ = √(1−ᾱ)·(z_t − √ᾱ·μ_p) / (ᾱ·s² + 1 − ᾱ).
    """

    name = "toy"
    device = torch.device("cpu")
    dtype = torch.float64
    native_area = 32 * 32
    factor = 4
    timesteps = 1000

    def __init__(self, prediction_type: str = "epsilon", spread: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(7)
        mixed = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        self.matrix = torch.linalg.qr(mixed).Q  # orthonormal: distances of colours are those of latents
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, self.timesteps, dtype=torch.float64) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.prediction_type, self.spread = prediction_type, spread
        self.calls: list[int] = []

    def mean(self, prompt: str) -> Tensor:
        """μ_p (C,): the latent of a colour; 0, mid-grey, for what is no colour."""
        colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
        colour = torch.tensor(colours.get(prompt, (0.5, 0.5, 0.5)), dtype=torch.float64)
        return self.matrix @ (2 * colour - 1)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self.mean(p.split()[-1] if p else "") for p in prompts])[:, None]

    def clipped(self, prompt: str) -> str:
        return " ".join(prompt.split()[20:])

    def encode(self, images: Tensor) -> Tensor:
        mixed = torch.einsum("cd,bdhw->bchw", self.matrix, 2 * images.double() - 1)
        return F.avg_pool2d(mixed, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = torch.einsum("cd,bchw->bdhw", self.matrix, latents) / 2 + 0.5
        return F.interpolate(pixels, scale_factor=self.factor, mode="nearest").clamp(0, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return a.sqrt() * latents + (1 - a).sqrt() * noise

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        self.calls.append(len(noisy))
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        mean = embeddings[:, 0, :, None, None]
        epsilon = (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * self.spread**2 + 1 - a)
        if self.prediction_type == "v_prediction":
            latents = (noisy - (1 - a).sqrt() * epsilon) / a.sqrt()
            velocity = a.sqrt() * epsilon - (1 - a).sqrt() * latents
            return epsilon_from(velocity, noisy, a, "v_prediction")
        return epsilon_from(epsilon, noisy, a, "epsilon")
