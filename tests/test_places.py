"""Which one: what is read off prompts, and which thing of an alpha is kept."""

import numpy as np
import pytest
import torch

from peekaboo import Peekaboo, places
from peekaboo.places import Place


@pytest.mark.parametrize(
    ("prompt", "thing", "place"),
    [
        ("the left sheep", "a sheep", Place("x", 1)),
        ("The Right old car", "an old car", Place("x", -1)),
        ("the second car from the right", "a car", Place("x", -2)),
        ("3rd bird from the top", "a bird", Place("y", 3)),
        ("the last red car from the left", "a red car", Place("x", -1)),
        ("a cat on the left", "a cat", Place("x", 1)),
        ("cat on the right side", "a cat", Place("x", -1)),
        ("man on far right", "a man", Place("x", -1)),
        ("a kite at the top", "a kite", Place("y", 1)),
        ("the middle dog", "a dog", Place("x", 0)),
        ("a dog in the middle", "a dog", Place("x", 0)),
        ("leftmost dog", "a dog", Place("x", 1)),
        ("the largest dog", "a dog", Place("size", 1)),
        ("the left glasses", "glasses", Place("x", 1)),
        ("the left glass", "a glass", Place("x", 1)),
        ("the right bus", "a bus", Place("x", -1)),
        ("my dog on the left", "my dog", Place("x", 1)),
        ("Anna's cat on the right", "Anna's cat", Place("x", -1)),
    ],
)
def test_places_are_read(prompt, thing, place):
    assert places.read(prompt) == (thing, place)


@pytest.mark.parametrize(
    "prompt",
    [
        *("a sheep", "the top hat", "a cat on the left of a dog", "first aid kit", "left", "the second hand", ""),
        *("the left of the road", "the smallest of the apples", "the right half of the picture", "the left one"),
        *("two dogs on the left", "dogs on the left", "3 dogs on the right"),
    ],
)
def test_what_tells_no_place_stays_as_it_is(prompt):
    assert places.read(prompt) == (prompt, None)


def test_what_asks_for_the_same_is_known():
    said = ["a sheep", "A Sheep", "a cow", "the sheep", "an animal", "cow", "a red sheep"]
    assert places.alike(said) == [0, 0, 2, 0, 4, 2, 6]


def row_of(*spans: tuple[int, int], height: int = 24, width: int = 64, value: float = 0.9) -> torch.Tensor:
    alpha = torch.full((height, width), 0.05)
    for left, right in spans:
        alpha[6:18, left:right] = value
    return alpha


@pytest.mark.parametrize(("rank", "span"), [(1, (4, 14)), (2, (25, 36)), (-1, (48, 58)), (-3, (4, 14)), (0, (25, 36))])
def test_the_thing_of_that_rank_is_kept(rank, span):
    alpha = row_of((4, 14), (25, 36), (48, 58))
    kept, note = places.keep(alpha, Place("x", rank), 0.5)
    inside = torch.zeros_like(alpha, dtype=torch.bool)
    inside[6:18, slice(*span)] = True
    assert torch.equal(kept > 0.5, inside)
    assert note is None


def test_things_that_touch_are_told_apart_where_alpha_dips():
    alpha = row_of((4, 20), (24, 40))
    alpha[6:18, 20:24] = 0.6
    left, _ = places.keep(alpha, Place("x", 1), 0.5)
    right, _ = places.keep(alpha, Place("x", -1), 0.5)
    assert (left > 0.5)[:, :20].sum() == (right > 0.5)[:, 24:40].sum() == 12 * 16
    assert not ((left > 0) & (right > 0)).any()


def test_a_speck_is_no_thing():
    alpha = row_of((30, 50))
    alpha[0:2, 0:2] = 0.9
    assert len(places.things(alpha, 0.5)) == 1


def test_one_thing_is_kept_whole_and_too_high_a_rank_is_told():
    alpha = row_of((30, 50))
    kept, note = places.keep(alpha, Place("x", 1), 0.5)
    assert torch.equal(kept, alpha)
    assert note is None
    kept, note = places.keep(alpha, Place("x", 3), 0.5)
    assert torch.equal(kept, alpha)
    assert "there is only one of them" in note


def test_nothing_stays_nothing():
    alpha = torch.full((8, 8), 0.1)
    assert places.keep(alpha, Place("x", 1), 0.5)[0] is alpha


def test_the_largest_is_the_largest():
    kept, _ = places.keep(row_of((4, 14), (25, 45)), Place("size", 1), 0.5)
    assert (kept > 0.5).any(dim=0).nonzero().min() == 25


def two_red_squares() -> np.ndarray:
    image = np.zeros((24, 48, 3))
    image[..., 2] = 0.9
    for left in (4, 30):
        image[6:18, left : left + 12] = (0.9, 0.05, 0.05)
    return image


def test_the_prior_is_a_ramp_from_the_side_that_is_asked_for():
    weights = places.prior([Place("x", 1), Place("y", -1), None, Place("x", 2), Place("size", 1)], (4, 6))
    assert weights.shape == (5, 4, 6)
    assert (weights[0, :, 0] == 1).all()
    assert (weights[0].diff(dim=1) < 0).all()
    assert (weights[1, -1] == 1).all()
    assert (weights[1].diff(dim=0) > 0).all()
    assert (weights[2:] == 1).all()
    assert places.prior([None, Place("x", 0)], (4, 6)) is None


def test_each_of_two_alike_is_found_where_its_prompt_says(toy):
    run = Peekaboo(toy).start(two_red_squares(), ["the left red", "the right red"], preset="draft", presence=0.0)
    list(run)
    assert run.asked == ["a red", "a red"]
    result = run.result()
    left, right = result.mask
    assert result.prompts == ["the left red", "the right red"]
    assert left[:, :24].sum() > 100
    assert right[:, 24:].sum() > 100
    assert not left[:, 24:].any()
    assert not right[:, :24].any()


@pytest.mark.parametrize("preset", ["draft", "default"])
def test_prompts_of_one_run_may_ask_for_one_thing_by_its_place(toy, preset):
    """Each as it is found alone: what asks for the same does not compete, since all but one would stay below ½ everywhere."""
    model = Peekaboo(toy)
    prompts = ["the first red from the left", "the second red from the left", "red", "the largest red"]
    together = model.segment(two_red_squares(), prompts, preset=preset, presence=0.0)
    for prompt, mask in zip(prompts, together.mask, strict=True):
        alone = model.segment(two_red_squares(), prompt, preset=preset, presence=0.0).mask[0]
        assert alone.sum() > 100
        assert (alone & mask).sum() > 0.9 * (alone | mask).sum(), prompt


def test_places_can_be_left_to_the_model(toy):
    run = Peekaboo(toy).start(two_red_squares(), "the left red", preset="draft", places=False)
    assert run.asked == ["the left red"]
