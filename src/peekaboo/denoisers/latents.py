"""What the families share: a frozen network on the latents of an AutoencoderKL, noised along a schedule ᾱ_t."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.quiet import quiet

LATENT_PIXELS = 96 * 256
"""Latent pixels the network sees at a time, so that memory does not grow with draws and prompts."""


class LatentDiffusion:
    """The half of a `Denoiser` that is alike in all families; `encode_prompt` and `predict` are each family's own.

    pipe: a loaded pipeline. network: its UNet or transformer. alphas_cumprod: ᾱ_t, (T,). sample_size: the latents' side, or (h, w), the
    network was trained at. All sizes and scales are read from the pipeline's own parts; its LoRA weights and textual inversions are used
    as they are. The networks are frozen: their parameters stop taking gradients, in the caller's pipeline too.
    """

    ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")

    def __init__(self, pipe: Any, network: Any, alphas_cumprod: Tensor, sample_size: Any) -> None:
        self.pipe, self.vae, self.network = pipe, pipe.vae, network
        self.name = str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)
        for part in (pipe.vae, network, *(getattr(pipe, name, None) for name in self.ENCODERS)):
            if part is not None:
                part.requires_grad_(False)
                part.eval()
        self.device = torch.device(getattr(pipe, "_execution_device", network.device))  # also when offloaded
        self.dtype = network.dtype
        self.alphas_cumprod: Tensor = alphas_cumprod.to(self.device, torch.float32)
        self.timesteps = len(alphas_cumprod)
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        sides = sample_size if isinstance(sample_size, (tuple, list)) else [sample_size] * 2
        self.native_area = math.prod(sides) * self.factor**2

    def clipped(self, prompt: str) -> str:
        """See `Denoiser`."""
        return beyond(self.pipe, prompt, self.pipe.tokenizer, self.pipe.tokenizer.model_max_length)

    def own_tokens(self, prompt: str) -> list[int]:
        """The positions of the prompt's own tokens among its embeddings: between start and end, and not cut off."""
        return own_positions(self.pipe, prompt, self.pipe.tokenizer, self.pipe.tokenizer.model_max_length)

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
        alpha_bar = self.alpha_bar(t)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ_t (B, 1, 1, 1) of t (B,)."""
        return self.alphas_cumprod[t].view(-1, 1, 1, 1)


def room(noisy: Tensor) -> int:
    """How many of the noised latents (B, C, h, w) the network sees at a time: at least two."""
    return max(2, LATENT_PIXELS // math.prod(noisy.shape[-2:]))


def beyond(pipe: Any, prompt: str, tokenizer: Any, limit: int) -> str:
    """The end of a prompt that does not fit into `limit` of a tokenizer's tokens, those it adds counted; "" where all fits."""
    ids = tokenizer(converted(pipe, prompt, tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
    fits = limit - tokenizer.num_special_tokens_to_add()
    return str(tokenizer.decode(ids[fits:])) if len(ids) > fits else ""


def own_positions(pipe: Any, prompt: str, tokenizer: Any, limit: int) -> list[int]:
    """Where the prompt's own tokens stand among the `limit` that a tokenizer gives: not where start, end and filling do."""
    text = converted(pipe, prompt, tokenizer)
    with quiet():
        batch = tokenizer(text, truncation=True, max_length=limit, return_special_tokens_mask=True)
    return [i for i, special in enumerate(batch["special_tokens_mask"]) if not special]


def converted(pipe: Any, prompt: str, tokenizer: Any) -> str:
    """The prompt as the pipeline reads it: a textual inversion of several tokens stands for its name, where the family has such."""
    if not hasattr(pipe, "maybe_convert_prompt"):
        return prompt
    with quiet():
        return str(pipe.maybe_convert_prompt(prompt, tokenizer))


def packed(embeddings: Tensor, pooled: Tensor) -> Tensor:
    """Embeddings (N, tokens, width) with the pooled ones (N, P) as rows of their own at the end, the last filled up with zeros: one tensor,
    (N, tokens + ⌈P/width⌉, width), is what the rest of the code hands about."""
    width = embeddings.shape[-1]
    rows = F.pad(pooled.to(embeddings), (0, -pooled.shape[-1] % width)).unflatten(-1, (-1, width))
    return torch.cat([embeddings, rows], dim=1)


def unpacked(both: Tensor, pooled_width: int) -> tuple[Tensor, Tensor]:
    """What was `packed`: embeddings (N, tokens, width) and pooled ones (N, P)."""
    rows = -(-pooled_width // both.shape[-1])
    return both[:, :-rows], both[:, -rows:].flatten(1)[:, :pooled_width]
