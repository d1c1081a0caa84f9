"""A picture with transparency, sampled rather than optimised: one thing on many backgrounds at once.

Blended with backgrounds b_k, a picture x with opacity α gives y_k = α·x + (1−α)·b_k. So the model denoises one noise on every
background, and after each step its K clean guesses are brought to agree on one αx and one α, which least squares over k gives
("triangulation matting", Smith and Blinn, SIGGRAPH 1996). The blend of what they agree on is noised for the next step, mostly with
the noise that would explain the present one (DDIM, arXiv 2010.02502): with fresh noise alone every picture comes out flat.
No gradient, no training: what a Peekaboo composite is for masks, solved for the picture as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from peekaboo import distill
from peekaboo.denoisers.base import Denoiser

T_FIRST, T_LAST = 0.98, 0.04
"""The noisiest and the cleanest timestep, fractions of the training schedule."""
EMPTY = 0.95
"""Of the transparencies of all pixels, the quantile that says how clear the clearest part is: noise hides the backgrounds
from the first guesses, which then all look nearly opaque."""
FRESH = 0.5
"""η: of the noise of the next step, the part that is new; the rest, √(1−η²), is what the present step is made of."""
LEVEL = 0.25
"""Of the transparencies (opacities) of the pixels more clear (opaque) than not, the quantile from which on a pixel counts as
wholly clear (opaque)."""


def triangulate(pictures: Tensor, backgrounds: Tensor) -> tuple[Tensor, Tensor]:
    r"""What K pictures of one thing on K backgrounds agree on: premultiplied colours αx (3, H, W) and α (H, W), in [0, 1].

    pictures: (K, 3, H, W) in [0, 1]; backgrounds: (K, 3), not all alike. Least squares of :math:`y_k = αx + (1-α) b_k`:
    :math:`1-α = \sum_k (b_k-\bar b)·(y_k-\bar y) / \sum_k |b_k-\bar b|^2` and :math:`αx = \bar y - (1-α)\bar b`.
    """
    offset = (backgrounds - backgrounds.mean(dim=0))[:, :, None, None]
    mean = pictures.mean(dim=0)
    clear = (offset * (pictures - mean)).sum(dim=(0, 1)) / offset.square().sum()
    clear = clear.clamp(0, 1)
    premultiplied = mean - clear * backgrounds.mean(dim=0).view(3, 1, 1)
    alpha = 1 - clear
    return torch.minimum(premultiplied.clamp_min(0), alpha), alpha


def stretch(alpha: Tensor) -> Tensor:
    """Opacities (H, W) with the clear part wholly clear and the body of the thing wholly opaque."""
    clear = level(1 - alpha, half_of=(1 - alpha).quantile(EMPTY).clamp_min(1e-3))
    return level(1 - clear, half_of=torch.ones((), device=alpha.device))


def level(values: Tensor, half_of: Tensor) -> Tensor:
    """Values (H, W) ≥ 0, scaled so that most of those above half of `half_of` become 1, and nothing more than 1."""
    upper = values[values > half_of / 2]
    return (values / upper.quantile(LEVEL)).clamp(0, 1) if len(upper) else values.clamp(0, 1)


def blend(premultiplied: Tensor, alpha: Tensor, backgrounds: Tensor) -> Tensor:
    """αx + (1−α)·b_k: (K, 3, H, W)."""
    return premultiplied + (1 - alpha) * backgrounds[:, :, None, None]


def opposite_colours(count: int, generator: torch.Generator) -> Tensor:
    """`count` colours (count, 3) in [0, 1], in pairs of opposites, so that together they are grey and far apart."""
    half = torch.rand((count + 1) // 2, 3, generator=generator)
    return torch.cat([half, 1 - half])[:count]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    embedding: Tensor,
    null: Tensor,
    size: tuple[int, int],
    steps: int,
    backgrounds: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The picture so far after each of `steps` steps: premultiplied colours (3, H, W) and alpha (H, W), in [0, 1].

    embedding, null: (1, tokens, width), the prompt and what guidance leads away from. size: (H, W) in pixels.
    """
    device = denoiser.device
    colours = opposite_colours(backgrounds, generator).to(device)
    premultiplied, alpha = torch.full((3, *size), 0.25, device=device), torch.full(size, 0.5, device=device)
    conditions = torch.cat([embedding.expand(backgrounds, -1, -1), null.expand(backgrounds, -1, -1)])
    latents = denoiser.encode(blend(premultiplied, alpha, colours))
    noise = distill.draw_noise(1, latents, generator)[0].expand_as(latents)  # one for all backgrounds
    for fraction in torch.linspace(T_FIRST, T_LAST, steps):
        t = torch.full((backgrounds,), round(float(fraction) * denoiser.timesteps), device=device)
        noisy = denoiser.add_noise(latents, noise, t)
        guided = distill.predict_guided(denoiser, noisy, t, conditions, guidance_scale)
        signal, spread = denoiser.alphas_cumprod[t[0]].sqrt(), (1 - denoiser.alphas_cumprod[t[0]]).sqrt()
        guesses = denoiser.decode((noisy - spread * guided) / signal)
        raw, opacity = triangulate(guesses.float(), colours)
        alpha = stretch(opacity)
        premultiplied = raw / opacity.clamp_min(1e-3) * alpha
        yield premultiplied, alpha
        latents = denoiser.encode(blend(premultiplied, alpha, colours))
        explaining = (noisy - signal * latents) / spread
        noise = (1 - FRESH**2) ** 0.5 * explaining + FRESH * distill.draw_noise(1, latents, generator)[0]
