"""Cut-outs without a halo: known things on coloured backgrounds, cut out with the exact alpha."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peekaboo.foreground import foreground
from peekaboo.images import Picture
from peekaboo.result import Segmentation
from peekaboo.settings import preset

SIDE = 160
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "green": (0, 255, 0)}


@pytest.fixture(params=[2.0, 6.0], ids=["sharp", "soft"])
def thing(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A disc shaded from red to yellow: its colours (H, W, 3) and alpha (H, W) uint8, and its picture on blue."""
    y, x = np.mgrid[:SIDE, :SIDE]
    colour = np.stack([np.full((SIDE, SIDE), 220), 40 + x, np.full((SIDE, SIDE), 30)], axis=-1).astype(np.float64)
    distance = np.hypot(y - SIDE / 2, x - SIDE / 2) - SIDE / 4
    alpha = np.round(255 * np.clip(0.5 - distance / request.param, 0, 1)).astype(np.uint8)
    share = alpha[..., None] / 255
    picture = np.round(share * colour + (1 - share) * np.array([20, 40, 230])).astype(np.uint8)
    return colour, alpha, picture


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_on_another_background_there_is_no_halo(thing, name):
    colour, alpha, picture = thing
    result = Segmentation(
        alpha[None].astype(np.float32) / 255, np.ones(1, np.float32), ["a disc"], preset(), Picture(picture)
    )
    share, soft = alpha[..., None] / 255, (alpha > 0) & (alpha < 255)

    def error(rgba) -> float:
        colours = np.asarray(rgba)[..., :3].astype(np.float64)
        laid, true = (share * c + (1 - share) * BACKGROUNDS[name] for c in (colours, colour))
        return float(np.abs(laid - true)[soft].mean())

    assert error(result.cutout()) < 0.25 * error(result.cutout(decontaminate=False))


def test_opaque_pixels_are_unchanged_and_invisible_ones_take_the_things_colours(thing):
    colour, alpha, picture = thing
    found = foreground(picture, alpha).astype(int)
    np.testing.assert_array_equal(found[alpha == 255], picture[alpha == 255])
    hidden = found[alpha == 0]
    assert np.abs(hidden[:, [0, 2]] - [220, 30]).mean() <= 8
    assert np.abs(hidden[:, [0, 2]] - [220, 30]).max() <= 60  # 210 in the picture
    assert colour[..., 1].min() - 1 <= hidden[:, 1].min() <= hidden[:, 1].max() <= colour[..., 1].max() + 1


def test_strips_give_what_one_piece_gives(thing, monkeypatch):
    _, alpha, picture = thing
    whole = foreground(picture, alpha).astype(int)
    monkeypatch.setattr("peekaboo.foreground.STRIP_PIXELS", SIDE * 23)
    assert np.abs(foreground(picture, alpha) - whole).max() <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["none", "all", "noise"]))
def test_any_size_and_alpha_works(height, width, kind):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    noise = rng.integers(0, 256, (height, width)).astype(np.uint8)
    alpha = {"none": noise * 0, "all": noise * 0 + 255, "noise": noise}[kind]
    found = foreground(rgb, alpha)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[alpha == 255], rgb[alpha == 255])
