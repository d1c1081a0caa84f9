"""Score distillation and its kin: small functions on predicted noises. No function here knows of masks or of a model.

Shapes: D draws of (t, ε), N composites, latents (C, h, w). The classifier-free guidance convention of this code base is

    ε̂ = ε_∅ + s·(ε_p − ε_∅),

so s = 1 is the plain conditional prediction. (Other code writes ε_p + s·(ε_p − ε_∅), one more at the same s.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from peekaboo.denoisers.base import Denoiser


@dataclass(frozen=True)
class Predictions:
    """What the denoiser said about D noised versions of N latents: all (D, N, C, h, w), but alpha_bar (D,)."""

    prompt: Tensor
    null: Tensor
    noise: Tensor
    alpha_bar: Tensor


def draw_timesteps(count: int, t_min: float, t_max: float, timesteps: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps (int64) in [t_min, t_max]·T, one uniformly from each of `count` equal strata (arXiv 2605.21489).

    With count = 1 this is the plain uniform draw of the paper, U{20..980} for T = 1000.
    """
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (t_min + (t_max - t_min) * strata) * timesteps
    return t.round().long().clamp(0, timesteps - 1)


def draw_noise(count: int, latents: Tensor, generator: torch.Generator) -> Tensor:
    """ε ~ N(0, I), (count, 1, C, h, w): shared by all composites, so that what differs between them is not noise."""
    noise = torch.randn(count, 1, *latents.shape[1:], generator=generator)
    return noise.to(latents.device)


def draw_orthogonal_noise(count: int, latents: Tensor, generator: torch.Generator) -> Tensor:
    r"""Noise as by `draw_noise`, (count, 1, C, h, w), whose draws cover the directions evenly (orthogonal Monte Carlo, arXiv 1610.09072).

    In every block of a few latents, n ≤ `count` numbers in all, the `count` draws of each number are a column of a random matrix
    with orthogonal columns of length :math:`\sqrt{count}`: over the draws, every number has energy 1 and no two go together, exactly,
    as of independent draws they do on average. So less of what is averaged over the draws is chance. With fewer draws than channels,
    draws are independent.
    """
    _, channels, height, width = latents.shape
    area = count // channels
    if not area:
        return draw_noise(count, latents, generator)
    tall = math.isqrt(area)
    wide = area // tall
    rows, columns = -(-height // tall), -(-width // wide)
    blocks = torch.randn(rows * columns, count, channels * tall * wide, generator=generator)
    q, r = torch.linalg.qr(blocks)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[:, None] * count**0.5  # the sign makes it uniform
    noise = q.view(rows, columns, count, channels, tall, wide).permute(2, 3, 0, 4, 1, 5)
    noise = noise.reshape(count, 1, channels, rows * tall, columns * wide)[..., :height, :width]
    result: Tensor = noise.to(latents.device)
    return result


def predict(
    denoiser: Denoiser, latents: Tensor, embeddings: Tensor, null: Tensor, t: Tensor, noise: Tensor
) -> Predictions:
    """Ask the denoiser about latents (N, C, h, w) under their prompts (N, tokens, width) and the null prompt, (1, tokens, width)
    or one a draw, (D, tokens, width).

    t: (D,); noise: (D, 1, C, h, w). One batch of 2·D·N, or of D·(N+1) where all latents are one and the same (N prompts of
    one picture: latents (1, C, h, w)). No gradient.
    """
    draws, prompts = len(t), len(embeddings)
    shared = len(latents) == 1
    t = t.to(latents.device)
    spread = noise.expand(draws, len(latents), *latents.shape[1:]).flatten(0, 1)
    noisy = denoiser.add_noise(latents.detach().repeat(draws, 1, 1, 1), spread, t.repeat_interleave(len(latents)))
    noisy = noisy.unflatten(0, (draws, len(latents)))
    conditions = embeddings.expand(draws, *embeddings.shape).flatten(0, 1)
    nulls = null.expand(draws, *null.shape[1:]).repeat_interleave(len(latents), dim=0)
    inputs = torch.cat([noisy.expand(draws, prompts, *latents.shape[1:]).flatten(0, 1), noisy.flatten(0, 1)])
    times = torch.cat([t.repeat_interleave(prompts), t.repeat_interleave(len(latents))])
    output = denoiser.predict(inputs, times, torch.cat([conditions, nulls]))
    prompt, empty = output.split([draws * prompts, draws * len(latents)])
    shape = (draws, prompts, *latents.shape[1:])
    empty = empty.unflatten(0, (draws, len(latents)))
    return Predictions(
        prompt=prompt.view(shape),
        null=empty.expand(shape) if shared else empty,
        noise=noise.expand(shape),
        alpha_bar=denoiser.alphas_cumprod[t],
    )


def predict_guided(denoiser: Denoiser, noisy: Tensor, t: Tensor, conditions: Tensor, scale: float) -> Tensor:
    """ε̂ (K, C, h, w), guided, of K noised latents at t (K,), which samplers follow. conditions: (2K, tokens, width), the prompts', then what
    guidance leads away from."""
    prompt, empty = denoiser.predict(torch.cat([noisy, noisy]), torch.cat([t, t]), conditions).chunk(2)
    return empty + scale * (prompt - empty)


def weight(alpha_bar: Tensor) -> Tensor:
    r"""DreamFusion's w(t) = 1 − ᾱ_t (arXiv 2209.14988), shaped (D, 1, 1, 1, 1)."""
    return (1 - alpha_bar).view(-1, 1, 1, 1, 1)


def guided(p: Predictions, scale: float) -> Tensor:
    r"""Classifier-free guidance :math:`ε̂ = ε_∅ + s(ε_p - ε_∅)` (arXiv 2207.12598)."""
    return p.null + scale * (p.prompt - p.null)


def sds(p: Predictions, scale: float) -> Tensor:
    r"""Score distillation: the gradient on the latents, :math:`w(t)(ε̂ - ε)`, mean over draws (arXiv 2209.14988; 2211.13224)."""
    return (weight(p.alpha_bar) * (guided(p, scale) - p.noise)).mean(dim=0)


def csd(p: Predictions) -> Tensor:
    r"""Classifier score: :math:`w(t)(ε_p - ε_∅)`, mean over draws (arXiv 2310.19415)."""
    return (weight(p.alpha_bar) * (p.prompt - p.null)).mean(dim=0)


def error_gain(p: Predictions) -> Tensor:
    r"""How much better the prompt predicts the noise than nothing does, (D, N, h, w):
    :math:`\sum_c (ε_∅-ε)^2 - (ε_p-ε)^2`, the Diffusion Classifier's evidence (arXiv 2303.16203), place by place.
    """
    return ((p.null - p.noise).square() - (p.prompt - p.noise).square()).sum(dim=2)
