"""Stable Diffusion 1.x and 2.x, and every model of their shape: a UNet2DConditionModel on the latents of an AutoencoderKL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peekaboo.denoisers.base import epsilon_from
from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError

LATENT_PIXELS = 96 * 256
"""Latent pixels the UNet sees at a time, so that memory does not grow with draws and prompts."""


class StableDiffusion:
    """The `Denoiser` of a loaded `StableDiffusionPipeline`.

    All sizes and scales are read from the pipeline's own parts; its LoRA weights and textual inversions are used as they are.
    The networks are frozen: their parameters stop taking gradients, in the caller's pipeline too.
    """

    PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.vae, self.unet = pipe, pipe.vae, pipe.unet
        config = pipe.unet.config
        self.name = str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)
        latent_channels = pipe.vae.config.latent_channels
        if config.in_channels != latent_channels:
            raise ModelError(
                f"The UNet takes {config.in_channels} channels but the VAE gives {latent_channels}: this is no plain "
                "text-to-image model (an inpainting or editing one?); use the base model it was made from."
            )
        if config.addition_embed_type not in (None, "text"):
            raise ModelError(
                f"The UNet needs extra conditioning ({config.addition_embed_type!r}, as SDXL does), which has no adapter yet; "
                "use a model of the Stable Diffusion 1.x or 2.x family."
            )
        alphas_cumprod = getattr(pipe.scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            raise ModelError(
                f"{type(pipe.scheduler).__name__} has no alphas_cumprod (flow matching?); use a diffusion scheduler."
            )
        for part in (pipe.vae, pipe.unet, pipe.text_encoder):
            part.requires_grad_(False)
            part.eval()
        self.device = torch.device(getattr(pipe, "_execution_device", pipe.unet.device))  # also when offloaded
        self.dtype = pipe.unet.dtype
        self.alphas_cumprod: Tensor = alphas_cumprod.to(self.device, torch.float32)
        self.timesteps = len(alphas_cumprod)
        self.prediction_type = str(pipe.scheduler.config.get("prediction_type", "epsilon"))
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        sides = config.sample_size if isinstance(config.sample_size, (tuple, list)) else [config.sample_size] * 2
        self.native_area = math.prod(sides) * self.factor**2

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`. The pipeline's own encoding, so that whatever was loaded into it counts."""
        with quiet():  # what is cut is told by `clipped`, in one sentence
            embeddings, _ = self.pipe.encode_prompt(
                list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        result: Tensor = embeddings.to(self.dtype)
        return result

    def clipped(self, prompt: str) -> str:
        """See `Denoiser`."""
        tokenizer = self.pipe.tokenizer
        with quiet():
            prompt = self.pipe.maybe_convert_prompt(prompt, tokenizer)  # textual inversions of several tokens
        ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        return str(tokenizer.decode(ids[room:])) if len(ids) > room else ""

    def encode(self, images: Tensor) -> Tensor:
        """See `Denoiser`. The mean of the posterior: its spread is far below the noise that is added next."""
        config = self.vae.config
        latents = self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist.mode()
        shift = getattr(config, "shift_factor", None) or 0.0
        scaled: Tensor = (latents - shift) * config.scaling_factor
        return scaled.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Denoiser`."""
        config = self.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        images = self.vae.decode((latents / config.scaling_factor + shift).to(self.vae.dtype)).sample
        pixels: Tensor = (images.float() / 2 + 0.5).clamp(0, 1)
        return pixels

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """See `Denoiser`."""
        alpha_bar: Tensor = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """See `Denoiser`."""
        room = max(2, LATENT_PIXELS // math.prod(noisy.shape[-2:]))
        parts = zip(noisy.to(self.dtype).split(room), t.split(room), embeddings.split(room), strict=True)
        output = torch.cat([self.unet(*part).sample.float() for part in parts])
        return epsilon_from(output, noisy, self.alphas_cumprod[t].view(-1, 1, 1, 1), self.prediction_type)
