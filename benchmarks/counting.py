"""How much a run asks of the networks."""

from __future__ import annotations

from typing import Any

import torch


class Counting:
    """A denoiser that counts what is asked of it: latents denoised, pictures encoded, and encoded with a gradient."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.denoised = self.encoded = self.differentiated = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def passes(self) -> dict[str, float]:
        """So far, by the names of `sd_size.flops`."""
        return {"UNet": self.denoised, "VAE": self.encoded, "VAE backward": self.differentiated}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.encoded += len(images)
        self.differentiated += len(images) * images.requires_grad
        return self.inner.encode(images)

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        self.denoised += len(noisy)
        return self.inner.predict(noisy, t, embeddings)
