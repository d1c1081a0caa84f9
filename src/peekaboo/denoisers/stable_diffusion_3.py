"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer that attends over the latents' patches and the prompt's tokens together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peekaboo.denoisers.flow import PATCH, Flow
from peekaboo.denoisers.latents import own_positions, packed
from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError


class StableDiffusion3(Flow):
    """The `Denoiser` of a loaded `StableDiffusion3Pipeline`, with its T5 encoder or without."""

    PARTS = (*Flow.PARTS, "text_encoder_2", "tokenizer_2")

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe, pipe.transformer.config.sample_size)
        self.longest = PATCH * pipe.transformer.config.pos_embed_max_size  # latents

    def t5(self) -> Any:
        """See `Flow`."""
        return self.pipe.tokenizer_3 if self.pipe.text_encoder_3 is not None else None

    def own_tokens(self, prompt: str) -> list[int]:
        """See `LatentDiffusion`: those that the CLIPs read, and behind all of CLIP's, those that T5 reads."""
        clip = super().own_tokens(prompt)
        if (tokenizer := self.t5()) is None:
            return clip
        offset = self.pipe.tokenizer_max_length
        return [*clip, *(offset + i for i in own_positions(self.pipe, prompt, tokenizer, self.TOKENS))]

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`: the embeddings of both CLIPs, then T5's, then the pooled ones (`packed`)."""
        with quiet():
            embeddings, _, pooled, _ = self.pipe.encode_prompt(
                list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
            )
        return packed(embeddings.to(self.dtype), pooled)

    def velocity(self, noisy: Tensor, sigma: Tensor, embeddings: Tensor, pooled: Tensor) -> Tensor:
        """See `Flow`."""
        if max(noisy.shape[-2:]) > self.longest:
            raise ModelError(
                f"The model sees no more than {self.longest * self.factor} pixels a side, but this strip has "
                f"{max(noisy.shape[-2:]) * self.factor} at its scale; cut it into shorter ones."
            )
        output: Tensor = self.transformer(noisy, embeddings, pooled, 1000 * sigma).sample
        return output
