"""Stable Diffusion 1.x and 2.x, and every model of their shape: a UNet2DConditionModel on the latents of an AutoencoderKL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peekaboo.denoisers.base import epsilon_from
from peekaboo.denoisers.latents import LatentDiffusion, room
from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError


class StableDiffusion(LatentDiffusion):
    """The `Denoiser` of a loaded `StableDiffusionPipeline`. Raises ModelError where it is none for text to image, or its scheduler none of
    diffusion."""

    PARTS: tuple[str, ...] = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
    CONDITIONS: tuple[str | None, ...] = (None, "text")
    """What a UNet of this family takes beside the embeddings (`addition_embed_type`)."""

    def __init__(self, pipe: Any) -> None:
        config = pipe.unet.config
        latent_channels = pipe.vae.config.latent_channels
        if config.in_channels != latent_channels:
            raise ModelError(
                f"The UNet takes {config.in_channels} channels but the VAE gives {latent_channels}: this is no plain "
                "text-to-image model (an inpainting or editing one?); use the base model it was made from."
            )
        if config.addition_embed_type not in self.CONDITIONS:
            raise ModelError(
                f"The UNet needs conditioning that has no adapter ({config.addition_embed_type!r}); "
                "use a text-to-image model of the Stable Diffusion or Flux families."
            )
        alphas_cumprod = getattr(pipe.scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            raise ModelError(
                f"{type(pipe.scheduler).__name__} has no alphas_cumprod (flow matching?); use a diffusion scheduler."
            )
        super().__init__(pipe, pipe.unet, alphas_cumprod, config.sample_size)
        self.unet = pipe.unet
        self.prediction_type = str(pipe.scheduler.config.get("prediction_type", "epsilon"))

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`. The pipeline's own encoding, so that whatever was loaded into it counts."""
        with quiet():  # what is cut is told by `clipped`, in one sentence
            embeddings, _ = self.pipe.encode_prompt(
                list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        result: Tensor = embeddings.to(self.dtype)
        return result

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """See `Denoiser`."""
        at_a_time = room(noisy)
        parts = zip(noisy.to(self.dtype).split(at_a_time), t.split(at_a_time), embeddings.split(at_a_time), strict=True)
        output = torch.cat([self.ask(*part).float() for part in parts])
        return epsilon_from(output, noisy, self.alpha_bar(t), self.prediction_type)

    def ask(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The UNet's own output (B, C, h, w)."""
        output: Tensor = self.unet(noisy, t, embeddings).sample
        return output
