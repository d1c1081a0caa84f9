"""Stable Diffusion XL (arXiv 2307.01952), and every model of its shape: a UNet that is told the pooled prompt, the picture's size and its
cropping as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from peekaboo.denoisers.latents import packed, unpacked
from peekaboo.denoisers.quiet import quiet
from peekaboo.denoisers.stable_diffusion import StableDiffusion
from peekaboo.errors import ModelError

SIZES = 6
"""Numbers that tell a picture's size: its own (H, W), where it was cropped (top, left), and the (H, W) that is asked for."""


class StableDiffusionXL(StableDiffusion):
    """The `Denoiser` of a loaded `StableDiffusionXLPipeline`. The UNet is told that the picture has the size it is seen at, uncropped.

    In float16 its VAE overflows, as its configuration says (`force_upcast`), so a float32 copy of it is used; the caller's stays.
    """

    PARTS = (*StableDiffusion.PARTS, "text_encoder_2", "tokenizer_2")
    CONDITIONS = ("text_time",)

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        config = self.unet.config
        self.pooled_width = pipe.text_encoder_2.config.projection_dim
        takes = config.projection_class_embeddings_input_dim
        if takes != SIZES * config.addition_time_embed_dim + self.pooled_width:
            raise ModelError(
                f"The UNet takes {takes} numbers of a prompt and a size, which is not what an SDXL base model does; use the base "
                "model (not a refiner)."
            )
        if self.vae.config.force_upcast and self.vae.dtype == torch.float16:
            copy: Any = AutoencoderKL.from_config(self.vae.config)
            copy.load_state_dict(self.vae.state_dict())
            self.vae = copy.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`: the embeddings, and the pooled ones behind them (`packed`). The empty prompt is all zeros, where the pipeline was
        trained so (`force_zeros_for_empty_prompt`)."""
        with quiet():
            embeddings, _, pooled, _ = self.pipe.encode_prompt(
                list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        both = packed(embeddings.to(self.dtype), pooled)
        if self.pipe.config.get("force_zeros_for_empty_prompt", True):
            both[[not prompt for prompt in prompts]] = 0
        return both

    def ask(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """See `StableDiffusion`."""
        embeddings, pooled = unpacked(embeddings, self.pooled_width)
        height, width = (side * self.factor for side in noisy.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device, dtype=self.dtype)
        conditions = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
        output: Tensor = self.unet(noisy, t, embeddings, added_cond_kwargs=conditions).sample
        return output
