"""How far colours carry an alpha: things whose exact mask is known, from alphas that know only where they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peekaboo import grabcut
from peekaboo.evaluation import iou

SIDE = 96
Y, X = np.mgrid[:SIDE, :SIDE] / SIDE


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return np.hypot(X - x, Y - y) < radius


def picture(*things: np.ndarray, colour: tuple[int, int, int] = (210, 70, 60)) -> np.ndarray:
    """Masks (96, 96) in one colour on another, with noise: (96, 96, 3) uint8."""
    rgb = np.full((SIDE, SIDE, 3), (60, 120, 160), float)
    for thing in things:
        rgb[thing] = colour
    return np.clip(rgb + np.random.default_rng(0).normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)


def hint(x: float, y: float, width: float) -> torch.Tensor:
    """An alpha (1, 48, 48) that is a soft hill, above ½ within `width` of a place."""
    y_, x_ = np.mgrid[:48, :48] / 48 + 0.5 / 48
    hill = 1 / (1 + np.exp((np.hypot(x_ - x, y_ - y) - width) / 0.05))
    return torch.from_numpy(hill.astype(np.float32))[None]


def grown(alpha: torch.Tensor, rgb: np.ndarray, gain: torch.Tensor | None = None) -> np.ndarray:
    result = grabcut.extended(alpha, rgb, alpha if gain is None else gain)
    assert result.shape[1:] == (SIDE, SIDE)
    return result.numpy() > 0.5


@pytest.mark.parametrize("width", [0.12, 0.34], ids=["too small", "too large"])
def test_a_hint_becomes_the_thing(width):
    thing, alpha = disc(0.45, 0.5, 0.24), hint(0.5, 0.5, width)
    before = torch.nn.functional.interpolate(alpha[None], (SIDE, SIDE), mode="bilinear")[0, 0].numpy() > 0.5
    assert iou(before, thing) < 0.6
    assert iou(grown(alpha, picture(thing))[0], thing) > 0.98


def test_a_twin_elsewhere_is_left_alone():
    one, other = disc(0.25, 0.5, 0.18), disc(0.75, 0.5, 0.18)
    mask = grown(hint(0.25, 0.5, 0.14), picture(one, other))[0]
    assert iou(mask, one) > 0.95


def test_a_twin_that_is_not_meant_is_background():
    one, other = disc(0.3, 0.5, 0.2), disc(0.7, 0.5, 0.2)
    alpha, rest, gain = hint(0.3, 0.5, 0.14), hint(0.7, 0.5, 0.18), torch.ones(1, 8, 8)
    assert iou(grown(alpha, picture(one, other), gain)[0], one | other) > 0.95
    told = grabcut.extended(alpha, picture(one, other), gain, rest)[0].numpy() > 0.5
    assert iou(told, one) > 0.95


def test_what_is_beyond_the_certain_half_is_added_where_the_evidence_says_so():
    """A thing of two parts, left and right, of which alpha knows the left one."""
    left, right = disc(0.3, 0.5, 0.2), disc(0.7, 0.5, 0.2)
    rgb = picture(left | right)
    alpha = hint(0.3, 0.5, 0.15)
    everywhere, only_there = torch.ones(1, 8, 8), alpha
    assert iou(grown(alpha, rgb, everywhere)[0], left | right) > 0.95
    assert iou(grown(alpha, rgb, only_there)[0], left) > 0.95
    bounded = grabcut.extended(alpha, rgb, everywhere, bounded=[0])
    assert iou(bounded[0].numpy() > 0.5, left) > 0.95


def test_a_thing_that_fills_the_picture_is_found_whole():
    thing = disc(0.5, 0.5, 0.47)  # .69 of the picture
    assert iou(grown(hint(0.4, 0.4, 0.24), picture(thing))[0], thing) > 0.98


def test_prompts_share_the_picture():
    one, other = disc(0.3, 0.5, 0.2), disc(0.7, 0.5, 0.2)
    alphas = torch.cat([hint(0.3, 0.5, 0.1), hint(0.7, 0.5, 0.1)])
    alphas = alphas / alphas.sum(dim=0).clamp_min(1.0)
    both = grabcut.extended(alphas, picture(one, other), alphas)
    assert float(both.sum(dim=0).max()) <= 1 + 1e-5
    for mask, thing in zip(both.numpy() > 0.5, (one, other), strict=True):
        assert iou(mask, thing) > 0.95


def test_what_changes_sides_is_as_unsure_as_before():
    thing, alpha = disc(0.5, 0.5, 0.24), hint(0.5, 0.5, 0.12)
    result = grabcut.extended(alpha, picture(thing), alpha)
    torch.testing.assert_close(
        (result - 0.5).abs(), (grabcut.resize(alpha, (SIDE, SIDE)) - 0.5).abs(), atol=1e-6, rtol=0
    )


def test_a_cut_that_has_found_something_else_is_dropped():
    spot = disc(0.5, 0.5, 0.06)
    alpha = hint(0.5, 0.5, 0.3)
    assert torch.equal(grabcut.extended(alpha, picture(spot), alpha), grabcut.resize(alpha, (SIDE, SIDE)))


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_an_alpha_that_separates_nothing_stays(value):
    flat = torch.full((2, 48, 48), value)
    assert (grabcut.extended(flat, picture(disc(0.5, 0.5, 0.2)), flat) == value).all()


def test_a_picture_of_one_colour_gives_no_reason_to_move():
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    alpha = hint(0.5, 0.5, 0.2)
    before = grabcut.resize(alpha, (SIDE, SIDE)).numpy() > 0.5
    assert iou(grown(alpha, grey)[0], before[0]) > 0.8


def shaded(*things: np.ndarray) -> np.ndarray:
    """Red masks on a ground whose shade changes slowly, blue to green: (96, 96, 3) uint8."""
    rgb = np.stack([60 + 0 * X, 60 + 160 * X, 220 - 160 * X], axis=-1)
    for thing in things:
        rgb[thing] = (210, 70, 60)
    return rgb.astype(np.uint8)


def test_the_even_ground_is_what_is_behind_the_thing():
    thing = disc(0.5, 0.5, 0.2)
    alpha = grabcut.resize(hint(0.5, 0.5, 0.26), (SIDE, SIDE))[0].numpy()  # runs over the edge
    ground = grabcut.backdrop(shaded(thing), alpha)
    assert not (ground & thing).any()
    assert (ground | thing).mean() > 0.94  # all but the edge between the two
    assert (alpha[ground] > 0.5).any()


def test_a_ground_that_is_meant_is_none():
    rgb, alpha = shaded(disc(0.5, 0.5, 0.2)), (X < 0.6).astype(np.float32)
    assert not grabcut.backdrop(rgb, alpha).any()
    assert grabcut.backdrop(rgb, 0.5 * alpha).any()


def test_a_ground_that_is_restless_or_small_is_none(monkeypatch):
    thing, nowhere = disc(0.5, 0.5, 0.2), np.zeros((SIDE, SIDE), np.float32)
    restless = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert not grabcut.backdrop(restless, nowhere).any()
    monkeypatch.setattr(grabcut, "WIDE", 0.95)
    assert not grabcut.backdrop(shaded(thing), nowhere).any()


def test_a_thing_with_the_colours_of_its_ground_is_cut_out(monkeypatch):
    """A ball of six stripes, two of them in colours that the ground has: told what is ground, the cut takes them for the ball's."""
    stripes = np.array([(0, 220, 60), (60, 60, 220), (200, 60, 60), (240, 240, 60), (20, 20, 20), (250, 250, 250)])
    thing, rgb = disc(0.5, 0.5, 0.15), shaded()
    rgb[thing] = stripes[(40 * X[thing]).astype(int) % 6]
    assert iou(grown(hint(0.5, 0.42, 0.16), rgb)[0], thing) > 0.98
    monkeypatch.setattr(grabcut, "TOLERANCES", ())
    assert iou(grown(hint(0.5, 0.42, 0.16), rgb)[0], thing) < 0.8


def test_stray_parts_are_dropped():
    one, other, speck = disc(0.3, 0.5, 0.2), disc(0.75, 0.5, 0.15), disc(0.1, 0.1, 0.03)
    alpha = np.where(one, 0.8, np.where(other, 0.3, np.where(speck, 1.0, 0.0))).astype(np.float32)
    assert (grabcut.gathered(one | other, alpha) == one).all()
    assert (grabcut.gathered(one | other | speck, alpha) == (one | speck)).all()  # a speck does not tell what is best
    alpha[other] = 0.5
    assert (grabcut.gathered(one | other, alpha) == (one | other)).all()
    assert not grabcut.gathered(np.zeros_like(one), alpha).any()


def test_the_medoid_agrees_most():
    a, b, far = disc(0.5, 0.5, 0.3), disc(0.52, 0.5, 0.3), disc(0.1, 0.1, 0.05)
    assert grabcut.medoid([far, a, b, disc(0.5, 0.5, 0.32)]) is a
    empty = np.zeros_like(a)
    assert grabcut.medoid([empty, empty]) is empty


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    rows=st.integers(2, 24),
    columns=st.integers(2, 24),
    seed=st.integers(0, 2**31),
)
def test_any_alpha_of_any_picture(height, width, rows, columns, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) // np.uint8(rng.choice([1, 128]))
    alpha = torch.from_numpy(rng.random((2, rows, columns), dtype=np.float32))
    alpha = alpha / alpha.sum(dim=0).clamp_min(1)
    gain = torch.from_numpy(rng.normal(size=(2, 5, 4)))
    result = grabcut.extended(alpha, rgb, gain)
    assert torch.equal(result, grabcut.extended(alpha, rgb, gain))
    assert tuple(result.shape[1:]) == grabcut.cut_size((rows, columns), (height, width))
    assert ((result >= 0) & (result <= 1)).all()
    assert result.sum(dim=0).max() <= 1 + 1e-5
