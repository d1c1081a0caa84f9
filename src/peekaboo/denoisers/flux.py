"""Flux.1: a transformer on patches of 2×2 latents, told where each lies, with T5's tokens and CLIP's pooled prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.flow import PATCH, Flow
from peekaboo.denoisers.latents import own_positions, packed
from peekaboo.denoisers.quiet import quiet


class Flux(Flow):
    """The `Denoiser` of a loaded `FluxPipeline`. A guidance-distilled one (dev) is asked at guidance 1, which is the plain conditional
    prediction: the contrast of prompts is Peekaboo's own."""

    PARTS = (*Flow.PARTS, "text_encoder_2", "tokenizer_2")
    CHANNELS = PATCH**2
    TOKENS = 512

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe, pipe.default_sample_size)
        self.guided = bool(pipe.transformer.config.guidance_embeds)

    def t5(self) -> Any:
        """See `Flow`."""
        return self.pipe.tokenizer_2

    def own_tokens(self, prompt: str) -> list[int]:
        """See `LatentDiffusion`: those that T5 reads. CLIP's are pooled."""
        return own_positions(self.pipe, prompt, self.t5(), self.TOKENS)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`: T5's embeddings, then CLIP's pooled ones (`packed`)."""
        with quiet():
            embeddings, pooled, _ = self.pipe.encode_prompt(
                list(prompts), device=self.device, max_sequence_length=self.TOKENS
            )
        return packed(embeddings.to(self.dtype), pooled)

    def velocity(self, noisy: Tensor, sigma: Tensor, embeddings: Tensor, pooled: Tensor) -> Tensor:
        """See `Flow`."""
        rows, columns = (side // PATCH for side in noisy.shape[-2:])
        patches = F.pixel_unshuffle(noisy, PATCH).flatten(2).transpose(1, 2)  # (B, rows · columns, C · 4)
        output = self.transformer(
            hidden_states=patches,
            timestep=sigma,
            guidance=torch.ones_like(sigma) if self.guided else None,
            pooled_projections=pooled,
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=noisy.device, dtype=self.dtype),
            img_ids=places(rows, columns, noisy),
        ).sample
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(0, row, column) of each patch, (rows · columns, 3), of `like`'s device and dtype."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).view(-1, 3).to(like)
