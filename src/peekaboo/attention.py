r"""The denoiser's own attention, as DAAM reads it (arXiv 2210.04885): where the pixels look at the prompt's words.

In every layer in which pixels look at tokens a pixel spreads its attention over the tokens; the share of the prompt's own tokens (those between
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
from peekaboo.errors import ModelError


def readable(denoiser: Denoiser) -> bool:
    """Whether there is a network of diffusers with attention to read, and tokens that are known."""
    return hasattr(denoiser, "own_tokens") and hasattr(getattr(denoiser, "network", None), "set_attn_processor")


def words_of(denoiser: Denoiser, prompts: Sequence[str]) -> list[list[int]] | None:
    """The positions of each prompt's own words among its tokens; None where there is no attention to read."""
    return [denoiser.own_tokens(prompt) for prompt in prompts] if readable(denoiser) else None  # type: ignore[attr-defined]


@torch.no_grad()
def heat(
    denoiser: Denoiser, latents: Tensor, embeddings: Tensor, tokens: Sequence[list[int]], t: Tensor, noise: Tensor
) -> Tensor:
    """The attention that latents (1, C, h, w) pay to the words of N prompts: (N, h, w) float32 in [0, 1].

    embeddings: (N, tokens, width). tokens: the positions of each prompt's own words (`words_of`). t: (D,); noise:
    (D, C, h, w), the same for all prompts. Raises ModelError where the network has no such layer.
    """
    noisy = denoiser.add_noise(latents.expand_as(noise), noise, t)
    maps = []
    for own, embedding in zip(tokens, embeddings, strict=True):
        with recording(denoiser.network, own) as paid:  # type: ignore[attr-defined]
            denoiser.predict(noisy, t, embedding.expand(len(t), *embedding.shape))
        if not paid:
            raise ModelError(f"The network of {denoiser.name!r} has no attention to the prompt that can be read.")
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
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        temb: Tensor | None = None,
    ) -> Any:
        if encoder_hidden_states is not None and hidden_states.ndim == 3:
            texts = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
            if getattr(attn, "add_k_proj", None) is None:
                scores = cross_scores(attn, hidden_states, texts)
            else:
                scores = joint_scores(attn, hidden_states, texts, image_rotary_emb)
            self.paid.append(scores[..., self.tokens].float().mean(dim=(0, 1, 3)))
        extra = {"temb": temb, "image_rotary_emb": image_rotary_emb}
        given = {name: value for name, value in extra.items() if value is not None}
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **given)


def cross_scores(attn: Any, pixels: Tensor, texts: Tensor) -> Tensor:
    """How the pixels (B, n, width) spread their attention over the tokens (B, tokens, width), in a UNet: (B, heads, n, tokens)."""
    if attn.norm_cross:
        texts = attn.norm_encoder_hidden_states(texts)
    query, key = attn.head_to_batch_dim(attn.to_q(pixels)), attn.head_to_batch_dim(attn.to_k(texts))
    scores: Tensor = attn.get_attention_scores(query, key)
    heads: Tensor = scores.unflatten(0, (len(pixels), -1))
    return heads


def joint_scores(attn: Any, pixels: Tensor, texts: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """The same in a transformer that attends over patches and tokens together: of the attention to all tokens, each one's share.
    (What goes to other patches is left out, as in a UNet, where no pixel is among the tokens.)"""
    from diffusers.models.embeddings import apply_rotary_emb

    query = attn.to_q(pixels).unflatten(-1, (attn.heads, -1))  # (B, n, heads, width of one)
    key = attn.add_k_proj(texts).unflatten(-1, (attn.heads, -1))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_added_k is not None:
        key = attn.norm_added_k(key)
    if rotary is not None:  # of the tokens, then of the patches
        count = texts.shape[1]
        query = apply_rotary_emb(query, tuple(part[count:] for part in rotary), sequence_dim=1)
        key = apply_rotary_emb(key, tuple(part[:count] for part in rotary), sequence_dim=1)
    products: Tensor = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    return products.float().softmax(dim=-1)


@contextmanager
def recording(network: Any, tokens: list[int]) -> Iterator[list[Tensor]]:
    """Meanwhile every layer of a UNet or transformer notes what its pixels pay to the tokens; the processors are put back after."""
    paid: list[Tensor] = []
    before = dict(network.attn_processors)
    try:
        network.set_attn_processor({name: Recorder(inner, tokens, paid) for name, inner in before.items()})
        yield paid
    finally:
        network.set_attn_processor(before)


def grid(pixels: int, latents: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of a layer with that many pixels: the latents' size, halved (and rounded up) as often as the network
    did."""
    height, width = latents
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != pixels:
        raise ModelError(
            f"A layer of the network has {pixels} pixels, which is no halving of {latents[0]}×{latents[1]}."
        )
    return height, width


def gathered(paid: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The mean of the layers' maps (n,), each upsampled (bicubic, as DAAM does, negatives cut) to (h, w)."""
    maps = [share.view(1, 1, *grid(len(share), size)) for share in paid]
    large = [F.interpolate(m, size=size, mode="bicubic", align_corners=False).clamp_min(0) for m in maps]
    return torch.stack(large).mean(dim=0)[0, 0]
