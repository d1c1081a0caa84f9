"""What the denoiser tells about a picture without any descent: where a prompt explains it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo import attention, distill
from peekaboo.denoisers.base import Denoiser
from peekaboo.errors import ModelError
from peekaboo.scene import Scene
from peekaboo.settings import Settings

RIVALS = (
    *("dog", "car", "apple", "house", "tree", "shoe", "fish", "guitar", "chair", "bird", "cup", "flower"),
    *("ball", "hat", "boat", "bottle", "key", "cake", "butterfly", "clock", "book", "cat", "bus", "lamp"),
)
"""Everyday names, of many kinds, that any text-to-image model knows."""


DRAWS = 12
"""Noised versions of each view that are asked of, where there is no first map to tell how many."""
BAND = (0.3, 0.8)
"""Their timesteps, as fractions of the schedule's length. With .02 to .98, large plain things were found in part: little noise tells
of their texture only."""
LOUDEST = 3.0
"""Standard deviations of a draw's map at which it is cut."""
ATTENTION_DRAWS, ATTENTION_BAND = 4, (0.05, 0.4)
"""Noised versions, of the picture and of its mirror image, whose attention is read, and their timesteps: little noise, since
what is read is where things are."""
QUIET, LOUD = 0.25, 0.98
"""Quantiles: of attention, what counts as nothing (three quarters of a picture may show one thing); of any map, its peak."""


def rivals_of(prompts: Sequence[str]) -> list[str]:
    """The `RIVALS` that share no word with any of the prompts, each with its article."""
    said = {
        form for prompt in prompts for word in re.findall(r"\w+", prompt.lower()) for form in (word, word.rstrip("s"))
    }
    return [f"a {name}" for name in RIVALS if name not in said]


@torch.no_grad()
def gains(
    denoiser: Denoiser,
    latents: Tensor,
    embeddings: Tensor,
    null: Tensor,
    t: Tensor,
    noise: Tensor,
) -> Tensor:
    """`distill.error_gain` at the timesteps t (D,) with noise (D, 1, C, h, w): (D, N, h, w)."""
    return distill.error_gain(distill.predict(denoiser, latents, embeddings, null, t, noise))


def parts(draws: int) -> list[slice]:
    """`draws` draws, low timesteps to high, in parts that each span the band: a quarter, a quarter, and the rest. Few draws are one."""
    return [slice(0, None, 4), slice(2, None, 4), slice(1, None, 2)] if draws >= 8 else [slice(None)] if draws else []


def opposites(noise: Tensor) -> tuple[Tensor, Tensor]:
    r"""Noise for a picture and for its mirror image (…, w): the second is minus the first, mirrored (antithetic variates).

    A gain is :math:`2ε·(ε_p-ε_∅) + |ε_∅|^2-|ε_p|^2`. Where the two predictions differ by the same in both views, turned back, the first
    term, which is most of a draw's noise, is gone from their sum: the map depends less on the seed, at no cost.
    """
    return noise, -noise.flip(-1)


@torch.no_grad()
def hear(scene: Scene, settings: Settings) -> Iterator[Tensor]:
    """What every draw says of every place, after each of the `parts` of the draws: the error gains of the prompts, (2, D, N, h, w), of the
    picture and, turned back, of its mirror image, D growing to `settings.warm_start`, or to `DRAWS` without one. Nothing is asked twice
    of a scene.

    Of a prompt and a rival name, the draws' in turn, the gain is :math:`|ε_r-ε|^2 - |ε_p-ε|^2`: the gain over nothing, less the rival's own.
    Without rivals it is the gain over nothing. The draws are stratified over `BAND`, the same for all prompts, orthogonal
    (`distill.draw_orthogonal_noise`), and opposite in the two views (`opposites`).
    """
    draws = settings.warm_start or DRAWS
    heard = scene.memo.setdefault((draws, settings.seed), [])
    generator = torch.Generator().manual_seed(settings.seed)
    null = scene.null if scene.rivals is None else scene.rivals
    null = null[torch.arange(draws) % len(null)] if len(null) > 1 else null
    t = distill.draw_timesteps(draws, *BAND, scene.denoiser.timesteps, generator)
    noises = opposites(distill.draw_orthogonal_noise(draws, scene.views[0], generator))
    for index, part in enumerate(parts(draws)):
        if index == len(heard):
            against = null[part] if len(null) > 1 else null
            seen, mirrored = (
                gains(scene.denoiser, view, scene.embeddings, against, t[part], noise[part])
                for view, noise in zip(scene.views, noises, strict=True)
            )
            heard.append(torch.stack([seen, mirrored.flip(-1)]))
        yield torch.cat(heard[: index + 1], dim=1)


def testimony(scene: Scene, settings: Settings) -> Tensor:
    """What has been heard of a scene so far (`hear`); all there is to hear, where nothing has been."""
    heard = scene.memo.get((settings.warm_start or DRAWS, settings.seed))
    return torch.cat(heard, dim=1) if heard else list(hear(scene, settings))[-1]


def gain_map(said: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of a `testimony` (2, D, N, h, w) on a grid of `size`: (N, h, w). In each draw a place counts for no more than `LOUDEST`
    standard deviations of its map: no single latent speaks for a thing."""
    deviation = said.flatten(3).std(dim=-1)[..., None, None]
    kept = said.clamp(-LOUDEST * deviation, LOUDEST * deviation)
    return F.interpolate(kept.mean(dim=1).float(), size=size, mode="bilinear", align_corners=False).mean(dim=0)


@torch.no_grad()
def attention_map(
    denoiser: Denoiser,
    latents: tuple[Tensor, Tensor],
    embeddings: Tensor,
    words: list[list[int]],
    size: tuple[int, int],
    generator: torch.Generator,
) -> Tensor | None:
    """Where the two views of a picture (`Scene.views`) attend to the prompts' words (`attention.heat`), stretched so that the
    25 % quantile is 0 and the 98 % quantile 1, and cut there: (N, h, w) in [0, 1] on a grid of `size`. None where the UNet has no
    cross-attention that can be read."""
    maps = []
    t = distill.draw_timesteps(ATTENTION_DRAWS, *ATTENTION_BAND, denoiser.timesteps, generator).to(latents[0].device)
    noises = opposites(distill.draw_noise(len(t), latents[0], generator)[:, 0])
    for view, noise in zip(latents, noises, strict=True):
        try:
            maps.append(attention.heat(denoiser, view, embeddings, words, t, noise))
        except ModelError:
            return None
    both = torch.stack([maps[0], maps[1].flip(-1)]).float()
    large = F.interpolate(both, size=size, mode="bicubic", align_corners=False).mean(dim=0)
    low, high = spread(large, QUIET, LOUD)
    return ((large - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def pooled(maps: Tensor, weights: Tensor, sigma: float) -> Tensor:
    r"""Maps (N, h, w), averaged over the Gaussian neighbourhood (`sigma` pixels) of every place with weights (N, h, w) in [0, 1],
    and weighted: :math:`w · (G * wm) / (G * w)`. What a part of a thing tells, its other parts hear; the background has no say.
    """
    from kornia.filters import gaussian_blur2d

    kernel = 2 * math.ceil(2.5 * sigma) + 1
    both = torch.cat([maps * weights, weights])[None]
    evidence, weight = gaussian_blur2d(both, (kernel, kernel), (sigma, sigma), border_type="constant")[0].chunk(2)
    result: Tensor = weights * evidence / (weight + 0.01)
    return result


def spread(maps: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The `low` and the `high` quantile of each map (N, h, w), both (N, 1, 1)."""
    flat = maps.flatten(1)
    return flat.quantile(low, dim=1).view(-1, 1, 1), flat.quantile(high, dim=1).view(-1, 1, 1)
