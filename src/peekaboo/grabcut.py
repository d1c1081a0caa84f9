"""How far a thing extends, by the picture's own colours: GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004), OpenCV's, told by alpha
where to look.

The score says well *where* a thing is, and badly where it ends: with the best threshold for each picture, picked by looking at the
answer, the first map's mIoU is a tenth higher. Colours say the opposite. So mixtures of Gaussians learn the colours of what alpha holds and
of the rest, and a minimal cut parts the two along the picture's edges. The even ground that things stand before, where there is one, is
known beforehand (`backdrop`).
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.images import averaged
from peekaboo.places import SIGNIFICANT
from peekaboo.refine import resize

SIDE = 256
"""The longer side of the grid that is cut, in pixels, at most, unless alpha's is longer; else it is twice as fine as alpha's."""
ROUNDS = 3
"""Times that the mixtures are fitted and the picture is cut."""
LEVELS = (0.38, 0.5, 0.67, 0.82)
"""Levels of alpha at which the cuts begin."""
CERTAIN = 0.5
"""Quantile of alpha below which all is certain background in the first of a level's two cuts."""
EVEN = 0.3
"""What the second, free cut adds is kept where its evidence is at least this share, place for place, of that in the first."""
KIN = 0.2
"""Least IoU of a cut with what alpha holds above ½; one that has less has found something else, and is dropped. Training scenes are served alike by
.2 to .35, training crops by .15 to .25."""
FEWEST = 16
"""Pixels that each side needs for its colours to be told: a mixture has five parts."""
TOLERANCES = (4, 8, 12, 16)
"""By how much, of 255, neighbouring pixels of an even ground may differ in any channel: the first at which there is such a ground."""
WIDE, MEAGRE = 0.2, 0.35
"""Of an even ground: the least share of the picture that it covers, and what the mean of alpha on it stays below."""
STRAY = 0.5
"""A separate part of a mask that has less than this share of the best part's mean alpha is dropped: it has the thing's colours only."""


def extended(
    alpha: Tensor, rgb: NDArray[np.uint8], gain: Tensor, rest: Tensor | None = None, bounded: Collection[int] = ()
) -> Tensor:
    """The alphas (N, h, w) in [0, 1], as far as the picture's colours carry: (N, h', w') float32 on the CPU, at most twice as fine.

    rgb: the picture, HWC uint8. gain: (N, any, any), the evidence for each prompt (`evidence.gain_map`). rest: (N, h, w), the alphas of
    what has been found of each and is not meant, such as its twins (`places.keep`), or None. bounded: the indices of those that stay where alpha is
    (`extent` without a gain), as one of several things that look alike must.

    Each is cut from several `LEVELS`, without stray parts (`gathered`), and the mask that agrees most with the others is taken (`medoid`). A
    pixel that changes sides gets 1−α, so that what alpha was unsure of stays unsure. What another prompt holds, the rest, and the even ground
    (`backdrop`) are background. Alphas that nowhere add up to more than one still do not. One that is nowhere, or everywhere, above ½ stays
    as it is; so does one with which the mask has little in common (`KIN`), as in photographs whose colours do not part.
    """
    alpha, gain = alpha.detach().float().cpu(), gain.detach().float().cpu()
    size = cut_size((alpha.shape[-2], alpha.shape[-1]), (rgb.shape[0], rgb.shape[1]))
    colours = averaged(rgb, size)
    fine, evidence = resize(alpha, size), resize(gain, size)
    masks = (fine > 0.5).numpy()
    unmeant = np.zeros_like(masks) if rest is None else (resize(rest.detach().float().cpu(), size) > 0.5).numpy()

    told = [index for index, mask in enumerate(masks) if min(mask.sum(), (~mask).sum()) >= FEWEST]
    grounds = {index: backdrop(colours, fine[index].numpy()) for index in told}

    def from_level(job: tuple[int, float]) -> NDArray[np.bool_]:
        index, level = job
        others = (masks.any(axis=0) | unmeant[index]) & ~masks[index]
        reach = None if index in bounded else evidence[index].numpy()
        own = fine[index].numpy()
        if ((own > level) & ~grounds[index]).sum() >= FEWEST:
            others |= grounds[index]
        return gathered(extent(colours, own, level, others, reach), own)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        cuts = list(pool.map(from_level, [(index, level) for index in told for level in LEVELS]))
    result = fine.clone()
    for place, index in enumerate(told):
        mask = medoid(cuts[place * len(LEVELS) : (place + 1) * len(LEVELS)])
        if (mask & masks[index]).sum() < KIN * (mask | masks[index]).sum():
            continue
        result[index] = torch.where(torch.from_numpy(mask == masks[index]), fine[index], 1 - fine[index])
    shared = len(alpha) > 1 and bool(alpha.sum(dim=0).max() < 1 + 1e-4)
    return result / result.sum(dim=0).clamp_min(1) if shared else result


def cut_size(grid: tuple[int, int], picture: tuple[int, int]) -> tuple[int, int]:
    """(h', w') of the grid that is cut: alpha's, or up to twice as fine, while it is neither finer than the picture nor longer than `SIDE`."""
    ratio = min(2.0, SIDE / max(grid), picture[0] / grid[0], picture[1] / grid[1])
    return grid if ratio <= 1 else (round(grid[0] * ratio), round(grid[1] * ratio))


def backdrop(colours: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The even ground (h, w) of colours (h, w, 3) uint8 that alpha (h, w) does not mean: connected pixels that differ little from their neighbours
    (`TOLERANCES`), over much of the picture (`WIDE`), where alpha is low on the whole (`MEAGRE`). False everywhere, if there is none.

    Alpha is blurred, and runs over the edge of a small thing into the sky or the wall behind it; the ground as a whole tells that this is not the
    thing's. A shade that changes slowly is even, too.
    """
    import cv2

    steps = cv2.morphologyEx(colours, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)).max(axis=-1)
    for tolerance in TOLERANCES:
        labels, areas, means = parts(steps <= tolerance, alpha, connectivity=4)
        even = (areas >= WIDE * labels.size) & (means < MEAGRE)
        even[0] = False
        if even.any():
            result: NDArray[np.bool_] = even[labels]
            return result
    return np.zeros(alpha.shape, bool)


def gathered(mask: NDArray[np.bool_], alpha: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A mask (h, w) without its stray parts, 8-connected: those whose mean alpha (h, w) is less than `STRAY` of the best one's. A small one
    is no best one (`places.SIGNIFICANT`)."""
    labels, areas, means = parts(mask, alpha, connectivity=8)
    if len(areas) <= 2:
        return mask
    best = means[1:][areas[1:] >= SIGNIFICANT * areas[1:].max()].max()
    kept = means >= STRAY * best
    kept[0] = False
    result: NDArray[np.bool_] = kept[labels]
    return result


def parts(
    mask: NDArray[np.bool_], alpha: NDArray[np.float32], connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """The connected parts of a mask (h, w): labels (h, w), of which 0 is what the mask leaves out; and of every label the area in pixels
    and the mean alpha (h, w)."""
    import cv2

    count, found = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
    labels = np.asarray(found, np.int32)
    areas = np.bincount(labels.ravel(), minlength=count)
    held = np.bincount(labels.ravel(), weights=alpha.ravel(), minlength=count)
    return labels, areas, held / np.maximum(areas, 1)


def medoid(masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Of masks (h, w), the one whose summed IoU with all of them is highest; the first of equals."""
    flat = np.stack(masks).reshape(len(masks), -1).astype(np.float32)
    both = flat @ flat.T
    areas = both.diagonal()
    union = areas[:, None] + areas - both
    agreement = np.divide(both, union, out=np.ones_like(both), where=union > 0)
    return masks[int(agreement.sum(axis=1).argmax())]


def extent(
    colours: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    level: float,
    others: NDArray[np.bool_],
    gain: NDArray[np.float32] | None,
) -> NDArray[np.bool_]:
    """The mask (h, w) that colours (h, w, 3) uint8 make of what alpha (h, w) holds above a level; `others` (h, w) is background.

    It is cut twice: with the half of the picture that alpha holds least as certain background (nothing, where more than half holds none
    at all), which keeps apart what is alike, and freely, for things that fill more than half. What the second adds is kept where the
    evidence, gain (h, w), is nearly as strong; without a gain there is no second cut.
    """
    mask = alpha > level
    tight = cut(colours, mask, others | (~mask & (alpha < np.quantile(alpha, CERTAIN))))
    if gain is None:
        return tight if tight.any() else mask
    free = cut(colours, mask, others)
    if not tight.any():  # the half that was certain has the thing's colours: it is the thing's, too
        return free if free.any() and not free.all() else mask
    added = free & ~tight
    return free if added.any() and gain[added].mean() > EVEN * gain[tight].mean() else tight


def cut(colours: NDArray[np.uint8], mask: NDArray[np.bool_], background: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """GrabCut of colours (h, w, 3) uint8 from a mask (h, w), with a certain `background` (h, w): a mask (h, w)."""
    import cv2

    state = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    state[background] = cv2.GC_BGD
    seeds = int((state == cv2.GC_PR_FGD).sum())
    if min(seeds, state.size - seeds) < FEWEST:
        return mask
    cv2.setRNGSeed(0)  # of the mixtures' first guess: the same picture is cut the same way
    models = np.zeros((1, 65)), np.zeros((1, 65))
    nowhere = (0, 0, 0, 0)  # a rectangle, which a mask makes needless
    cv2.grabCut(colours, state, nowhere, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    result: NDArray[np.bool_] = state == cv2.GC_PR_FGD
    return result
