r"""The denoiser's own cross-attention, as DAAM reads it (arXiv 2210.04885): where the pixels look at the prompt's words.

In every cross-attention layer a pixel spreads its attention over the tokens; the share of the prompt's own tokens (those between
start and end) is averaged over heads, noised versions and tokens, upsampled to the latents' grid and averaged over layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers import Denoiser
from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError


def readable(denoiser: Denoiser) -> bool:
    """Whether there is a diffusers UNet with attention to read."""
    return getattr(denoiser, "pipe", None) is not None and hasattr(
        getattr(denoiser, "unet", None), "set_attn_processor"
    )


def words_of(denoiser: Denoiser, prompts: Sequence[str]) -> list[list[int]] | None:
    """The positions of each prompt's own words among its tokens; None where there is no attention to read."""
    pipe: Any = getattr(denoiser, "pipe", None)
    return [own_tokens(pipe, prompt) for prompt in prompts] if readable(denoiser) else None


@torch.no_grad()
def heat(
    denoiser: Denoiser, latents: Tensor, embeddings: Tensor, tokens: Sequence[list[int]], t: Tensor, noise: Tensor
) -> Tensor:
    """The attention that latents (1, C, h, w) pay to the words of N prompts: (N, h, w) float32 in [0, 1].

    embeddings: (N, tokens, width). tokens: the positions of each prompt's own words (`own_tokens`). t: (D,); noise:
    (D, C, h, w), the same for all prompts. Raises ModelError where the UNet has no such layer.
    """
    noisy = denoiser.add_noise(latents.expand_as(noise), noise, t)
    maps = []
    for own, embedding in zip(tokens, embeddings, strict=True):
        with recording(denoiser.unet, own) as paid:  # type: ignore[attr-defined]
            denoiser.predict(noisy, t, embedding.expand(len(t), *embedding.shape))
        if not paid:
            raise ModelError(f"The UNet of {denoiser.name!r} has no cross-attention with the prompt to read.")
        maps.append(gathered(paid, (latents.shape[-2], latents.shape[-1])))
    return torch.stack(maps)


class Recorder:
    """An attention processor that leaves all work to another, and keeps what the pixels paid to some tokens.

    paid: one (pixels,) float32 for each call, the mean over the batch, the heads and the tokens.
    """

    def __init__(self, inner: Any, tokens: list[int], paid: list[Tensor]) -> None:
        self.inner, self.tokens, self.paid = inner, tokens, paid

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Any:
        if encoder_hidden_states is not None and hidden_states.ndim == 3:
            texts = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
            self.paid.append(self.share(attn, hidden_states, texts))
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    def share(self, attn: Any, pixels: Tensor, texts: Tensor) -> Tensor:
        """The attention of pixels (B, n, width) to the tokens of texts (B, tokens, width): (n,)."""
        if attn.norm_cross:
            texts = attn.norm_encoder_hidden_states(texts)
        query, key = attn.head_to_batch_dim(attn.to_q(pixels)), attn.head_to_batch_dim(attn.to_k(texts))
        scores: Tensor = attn.get_attention_scores(query, key)  # (B · heads, n, tokens)
        return scores[:, :, self.tokens].float().mean(dim=(0, 2))


@contextmanager
def recording(unet: Any, tokens: list[int]) -> Iterator[list[Tensor]]:
    """Meanwhile every cross-attention layer of the UNet notes what it pays to the tokens; the processors are put back
    after."""
    paid: list[Tensor] = []
    before = dict(unet.attn_processors)
    try:
        unet.set_attn_processor({name: Recorder(inner, tokens, paid) for name, inner in before.items()})
        yield paid
    finally:
        unet.set_attn_processor(before)


def own_tokens(pipe: Any, prompt: str) -> list[int]:
    """The positions of the prompt's tokens in its embeddings: between start and end, and not cut off."""
    tokenizer = pipe.tokenizer
    with quiet():
        text = pipe.maybe_convert_prompt(prompt, tokenizer)  # textual inversions of several tokens
        batch = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, return_special_tokens_mask=True)
    return [i for i, special in enumerate(batch["special_tokens_mask"]) if not special]


def grid(pixels: int, latents: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of a layer with that many pixels: the latents' size, halved (and rounded up) as often as the UNet
    did."""
    height, width = latents
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != pixels:
        raise ModelError(f"A layer of the UNet has {pixels} pixels, which is no halving of {latents[0]}×{latents[1]}.")
    return height, width


def gathered(paid: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The mean of the layers' maps (n,), each upsampled (bicubic, as DAAM does, negatives cut) to (h, w)."""
    maps = [share.view(1, 1, *grid(len(share), size)) for share in paid]
    large = [F.interpolate(m, size=size, mode="bicubic", align_corners=False).clamp_min(0) for m in maps]
    return torch.stack(large).mean(dim=0)[0, 0]
