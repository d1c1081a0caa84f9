"""From the α grid to the picture: the filter against kornia's, exact alphas that come back, and bounded memory."""

import tracemalloc

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kornia.filters import guided_blur

from peekaboo.evaluation.metrics import boundary_f, mse
from peekaboo.refine import FIRMNESS, GuidedFilter, clean, resize, settled, sharpened, strip, upsample


def test_the_guided_filter_is_kornias():
    torch.manual_seed(0)
    guide, maps = torch.rand(1, 3, 20, 31), torch.rand(2, 20, 31)
    expected = guided_blur(guide, maps[None], 7, 1e-2, border_type="replicate")[0]
    torch.testing.assert_close(GuidedFilter(guide, 3, 1e-2)(maps), expected, atol=1e-5, rtol=0)


def test_strips_are_rows_of_the_whole():
    maps = torch.rand(3, 7, 5)
    whole = resize(maps, (40, 33))
    torch.testing.assert_close(torch.cat([strip(maps, (40, 33), a, a + 10) for a in range(0, 40, 10)], dim=1), whole)


def disc(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A soft disc on a noisy ground: picture (side, side, 3) uint8, and alpha (side, side) float32."""
    y, x = np.mgrid[:side, :side] / side
    alpha = np.clip(0.5 - (np.hypot(y - 0.45, x - 0.55) - 0.28) * 128, 0, 1)
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    colours = np.array([60, 120, 160]) + alpha[..., None] * np.array([160, -60, -90])
    return np.clip(colours + noise, 0, 255).astype(np.uint8), alpha.astype(np.float32)


def test_an_exact_alpha_comes_back_with_its_edge():
    rgb, alpha = disc(256)
    grid = F.interpolate(torch.from_numpy(alpha)[None, None], (32, 32), mode="area")[0]
    ours, bilinear = upsample(grid, rgb, cell=4.0)[0], resize(grid, (256, 256))[0].numpy()
    assert boundary_f(ours > 0.5, alpha > 0.5, 0.002) > 0.99
    assert mse(ours, alpha) < 0.1 * mse(bilinear, alpha)


def test_an_unsure_alpha_is_decided_by_the_picture():
    rgb, alpha = disc(256)
    unsure = F.interpolate(torch.from_numpy(0.3 + 0.4 * alpha)[None, None], (32, 32), mode="area")
    unsure = F.avg_pool2d(F.pad(unsure, (4, 4, 4, 4), mode="replicate"), 9, stride=1)[0]
    ours, bilinear = upsample(unsure, rgb, cell=4.0)[0], resize(unsure, (256, 256))[0].numpy()
    assert boundary_f(ours > 0.5, alpha > 0.5, 0.002) > 0.9 > 0.5 > boundary_f(bilinear > 0.5, alpha > 0.5, 0.002)
    assert mse(ours, alpha) < 0.5 * mse(bilinear, alpha)


def test_a_sure_alpha_is_left_alone_and_one_half_stays_one_half():
    guide = torch.full((1, 3, 24, 24), 0.5)
    sure = torch.zeros(1, 24, 24)
    sure[:, 6:15, 6:15] = 1
    torch.testing.assert_close(settled(sure, guide, 4, 1e-4), sure)
    flat = torch.tensor([0.5, 0.7]).view(2, 1, 1).expand(2, 24, 24)
    firm = torch.sigmoid(torch.logit(torch.tensor(0.7)) * FIRMNESS)
    torch.testing.assert_close(settled(flat, guide, 4, 1e-4)[:, 3, 3], torch.stack([torch.tensor(0.5), firm]))


def test_a_sharpened_grid_upsamples_to_what_it_was():
    rgb, alpha = disc(128)
    guided = GuidedFilter(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255, 8, 1e-4)
    grid = F.interpolate(torch.from_numpy(alpha)[None, None], (32, 32), mode="area")[0]

    def miss(start):
        return float(
            (F.interpolate(guided(resize(start, (128, 128)))[None], (32, 32), mode="area") - grid).abs().mean()
        )

    assert miss(sharpened(grid, guided, (128, 128))) < 0.4 * miss(grid)


def test_beside_the_result_memory_does_not_grow_with_the_picture():
    rgb = np.zeros((1500, 2000, 3), np.uint8)
    rgb[:, 900:] = 200
    upsample(torch.rand(1, 16, 16), rgb[:64, :64].copy(), cell=4.0)
    tracemalloc.start()  # NumPy's memory; torch's is that of strips
    upsample(torch.rand(2, 16, 16), rgb, cell=4.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 2 * 4 * 1500 * 2000  # the result alone


def test_alphas_that_share_the_pixels_still_share_them():
    rgb, _ = disc(96)
    grid = torch.softmax(4 * torch.randn(4, 24, 24, generator=torch.Generator().manual_seed(0)), dim=0)
    assert upsample(grid[:3], rgb, cell=4.0).sum(axis=0).max() <= 1 + 1e-5
    twice = upsample(torch.ones(2, 24, 24), rgb, cell=4.0)
    np.testing.assert_allclose(twice, 1, atol=1e-3)  # those that do not compete are left alone


@given(arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=32)), st.floats(0, 0.49))
def test_levels_leave_the_mask_and_what_adds_up_to_one(alpha, levels):
    alpha = alpha / np.maximum(alpha.sum(axis=0), 1)
    cleaned = clean(alpha.copy(), levels)
    assert cleaned.dtype == np.float32
    assert 0 <= cleaned.min() <= cleaned.max() <= 1
    assert (cleaned[alpha <= levels] == 0).all()
    assert (cleaned[alpha > 1 - levels + 1e-6] > 1 - 1e-5).all()
    assert cleaned.sum(axis=0).max() <= 1 + 1e-5
    apart = np.abs(alpha - 0.5) > 1e-6
    assert np.array_equal((cleaned > 0.5)[apart], (alpha > 0.5)[apart])
    assert np.all(np.diff(cleaned.ravel()[np.argsort(alpha, axis=None)]) >= 0)  # nothing changes places


def test_no_levels_leave_alpha_alone():
    alpha = np.random.default_rng(0).random((2, 5, 7), np.float32)
    assert np.array_equal(clean(alpha.copy(), 0.0), alpha)
