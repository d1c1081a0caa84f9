"""Alpha models: what they give, that grids are not transposed, and how prompts compete."""

import pytest
import torch

from peekaboo.alpha import Fourier, Raster, alpha_of, coordinates
from peekaboo.bilateral import no_blur


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_coordinates_run_along_rows_with_square_pixels():
    grid = coordinates((2, 4)).reshape(2, 4, 2)
    torch.testing.assert_close(grid[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(grid[:, 0, 1], torch.tensor([0.125, 0.375]))
    assert (grid[0, :, 1] == grid[0, 0, 1]).all()


@pytest.mark.parametrize("size", [(6, 10), (10, 6)])
def test_fourier_can_learn_a_picture_that_is_not_square(size):
    """A left half on a wide grid and on a tall one: a transposed grid could not fit both."""
    target = torch.zeros(1, *size)
    target[..., : size[1] // 2] = 1.0
    model = Fourier(1, size, no_blur, generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(200):
        loss = (torch.sigmoid(model()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_fourier_has_the_papers_shape():
    model = Fourier(2, (5, 7), no_blur, generator())
    assert model.encoding.shape == (35, 128)
    widths = [layer.out_features for layer in model.network if isinstance(layer, torch.nn.Linear)]
    assert widths == [256, 256, 256, 2]
    assert sum(isinstance(layer, torch.nn.BatchNorm1d) for layer in model.network) == 3
    assert model().shape == (2, 5, 7)


@pytest.mark.parametrize("kind", [Raster, Fourier])
def test_the_generator_alone_decides_the_start(kind):
    torch.manual_seed(0)
    one = kind(1, (4, 6), no_blur, generator(1))()
    before = torch.get_rng_state()
    two = kind(1, (4, 6), no_blur, generator(1))()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, kind(1, (4, 6), no_blur, generator(2))())


def test_prompts_that_ask_for_the_same_do_not_hold_one_another_down():
    logits = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1
    torch.testing.assert_close(alpha_of(logits[:3], asks=[0, 0, 0]), torch.sigmoid(logits[:3]))
    torch.testing.assert_close(alpha_of(logits, asks=[0, 1, 2, 3]), alpha_of(logits))
    alpha = alpha_of(logits, asks=[0, 1, 0, 0])
    largest = logits[[0, 2, 3]].amax(dim=0)
    torch.testing.assert_close(alpha[1], alpha_of(torch.stack([logits[1], largest]))[0])
    for i in (0, 2, 3):
        torch.testing.assert_close(alpha[i], alpha_of(torch.stack([logits[i], logits[1]]))[0])
    assert (alpha[[0, 2, 3]].amax(dim=0) + alpha[1] <= 1 + 1e-9).all()


def test_the_blur_is_applied_before_the_sigmoid():
    start = torch.randn(2, 3, 4)
    model = Raster(2, (3, 4), lambda theta: 3 * theta, generator(), start)
    torch.testing.assert_close(model(), 3 * start)
    assert [p.shape for p in model.parameters()] == [(2, 3, 4)]


def test_one_prompt_is_the_papers_sigmoid_and_several_share_each_pixel():
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(alpha_of(logits[:1]), torch.sigmoid(logits[:1]))
    torch.testing.assert_close(alpha_of(logits, compete=False), torch.sigmoid(logits))
    alpha = alpha_of(logits)
    torch.testing.assert_close(alpha, logits.exp() / (1 + logits.exp().sum(dim=0, keepdim=True)))
    assert (alpha.sum(dim=0) < 1).all()
    with_nobody = alpha_of(torch.cat([logits[:1], torch.full((1, 4, 5), -60.0, dtype=torch.float64)]))
    torch.testing.assert_close(with_nobody[:1], torch.sigmoid(logits[:1]))
