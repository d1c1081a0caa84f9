"""The guided blur against a brute-force loop, and what must hold of it."""

import math

import numpy as np
import pytest
import torch

from peekaboo.bilateral import BilateralBlur, no_blur


def brute_force(theta, guide, k, iterations, sigma_space, sigma_guide):
    _, h, w = guide.shape
    for _ in range(iterations):
        out = np.zeros_like(theta)
        for y in range(h):
            for x in range(w):
                total = mass = 0.0
                for dy in range(-(k // 2), k // 2 + 1):
                    for dx in range(-(k // 2), k // 2 + 1):
                        v, u = y + dy, x + dx
                        if not (0 <= v < h and 0 <= u < w):
                            continue
                        far = float(((guide[:, v, u] - guide[:, y, x]) ** 2).sum())
                        weight = math.exp(-(dy * dy + dx * dx) / (2 * sigma_space**2)) * math.exp(
                            -far / (2 * sigma_guide**2)
                        )
                        total += weight * theta[v, u]
                        mass += weight
                out[y, x] = total / mass
        theta = out
    return theta


@pytest.mark.parametrize(("k", "iterations"), [(3, 1), (3, 4), (5, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_agrees_with_a_loop_over_pixels(k, iterations, channels):
    rng = np.random.default_rng(k + channels)
    guide, theta = rng.random((channels, 6, 9)), rng.normal(size=(6, 9))
    blur = BilateralBlur(torch.from_numpy(guide)[None], k, iterations, 1.5, 0.2)
    expected = brute_force(theta, guide, k, iterations, 1.5, 0.2)
    np.testing.assert_allclose(blur(torch.from_numpy(theta)[None])[0].numpy(), expected, atol=1e-12)


def test_a_constant_stays_and_an_edge_of_the_guide_holds():
    guide = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    guide[..., 5:] = 1.0
    blur = BilateralBlur(guide)
    torch.testing.assert_close(blur(torch.ones(2, 8, 10, dtype=torch.float64)), torch.ones(2, 8, 10).double())
    step = guide[0, :1].clone()
    torch.testing.assert_close(blur(step), step)
    noisy = step + torch.randn(1, 8, 10, dtype=torch.float64)
    smooth = blur(noisy)
    assert smooth[..., :5].std() < 0.3 * noisy[..., :5].std()
    assert abs(smooth[..., :5].mean() - smooth[..., 5:].mean()) > 0.5


def test_carries_the_exact_gradient():
    guide = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    theta = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BilateralBlur(guide, iterations=3), theta)


def test_refuses_another_size_and_an_even_kernel():
    with pytest.raises(ValueError, match=r"expected a map of \(4, 5\)"):
        BilateralBlur(torch.rand(1, 3, 4, 5))(torch.rand(1, 5, 4))
    with pytest.raises(ValueError, match="odd"):
        BilateralBlur(torch.rand(1, 3, 4, 5), kernel_size=4)


def test_no_blur_is_the_identity():
    theta = torch.randn(1, 3, 3)
    assert no_blur(theta) is theta
