"""The façade on the toy: shapes, sizes, aspects, guides, determinism, and what is refused."""

import numpy as np
import pytest
import torch

import peekaboo
from peekaboo import Peekaboo
from peekaboo.errors import PromptError
from peekaboo.evidence import RIVALS
from peekaboo.scene import alpha_grid


@pytest.fixture
def model(toy) -> Peekaboo:
    return Peekaboo(toy)


@pytest.fixture
def picture() -> np.ndarray:
    rgb = np.zeros((90, 130, 3), np.uint8)
    rgb[..., 2] = 230
    rgb[20:70, 30:80] = (230, 12, 12)
    rgb[30:60, 95:120] = (12, 230, 12)
    return rgb


def iou(a, b) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("preset", ["default", "draft"])
def test_finds_the_red_thing_at_the_pictures_own_size(model, picture, preset):
    result = model.segment(picture, "something red", preset=preset)
    assert result.alpha.shape == (1, 90, 130)
    assert result.alpha.dtype == np.float32
    assert 0 <= result.alpha.min() <= result.alpha.max() <= 1
    assert iou(result.mask[0], picture[..., 0] > 128) > 0.8
    assert result.found.tolist() == [True]
    assert result.score.shape == (1,)


def test_several_prompts_compete_for_the_pixels(model, picture):
    result = model.segment(picture, ["red", "green"])
    assert iou(result.mask[0], picture[..., 0] > 128) > 0.7
    assert iou(result.mask[1], picture[..., 1] > 128) > 0.6
    assert (result.alpha.sum(axis=0) <= 1 + 1e-4).all()
    assert not (result.mask[0] & result.mask[1]).any()


@pytest.mark.parametrize("size", [(64, 64), (33, 257), (300, 47), (8, 8), (1200, 90)])
@pytest.mark.parametrize("alpha", ["raster", "fourier"])
def test_any_size_and_aspect_comes_back_at_its_own(model, size, alpha):
    rgb = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    result = model.segment(rgb, "red", steps=1, warm_start=1, alpha=alpha)
    assert result.alpha.shape == (1, *size)
    assert np.asarray(result.cutout()).shape == (*size, 4)


def test_the_alpha_grid_has_four_pixels_a_latent(toy):
    assert alpha_grid(toy, (32, 64)) == (32, 64)
    toy.factor = 8
    assert alpha_grid(toy, (512, 768)) == (256, 384)
    toy.factor = 2
    assert alpha_grid(toy, (32, 64)) == (32, 64)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(model, picture):
    one, two, other = (model.segment(picture, "red", seed=seed, levels=0.0) for seed in (3, 3, 4))
    assert one.alpha.tobytes() == two.alpha.tobytes()
    assert one.score.tobytes() == two.score.tobytes()
    assert one.alpha.tobytes() != other.alpha.tobytes()


def test_other_random_draws_do_not_change_a_run_nor_does_a_run_change_them(model, picture):
    torch.manual_seed(0)
    one = model.segment(picture, "red", alpha="fourier", preset="paper", steps=3)
    state = torch.get_rng_state()
    torch.randn(10)
    two = model.segment(picture, "red", alpha="fourier", preset="paper", steps=3)
    assert one.alpha.tobytes() == two.alpha.tobytes()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_guide_changes_where_the_blur_stops(model, picture):
    depth = np.zeros((45, 65))
    depth[:, 30:] = 7.0
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 40, picture.shape), 0, 255).astype(np.uint8)
    plain = model.segment(noisy, "red")
    guided = model.segment(noisy, "red", guide=depth)
    assert plain.alpha.tobytes() != guided.alpha.tobytes()


def test_on_step_sees_every_iteration_and_a_run_can_be_left(model, picture):
    seen = []
    model.segment(picture, "red", steps=4, on_step=seen.append)
    assert [s.index for s in seen] == [1, 2, 3, 4, 5, 6, 7]  # three first maps, of more and more draws
    run = model.start(picture, "red", steps=4)
    for step in run:
        if step.index == 2:
            break
    record = run.result().record
    assert (record["steps_done"], record["steps_asked"], record["interrupted"]) == (2, 7, True)
    assert not model.start(picture, "red").result().mask.any()


@pytest.mark.parametrize(
    "prompts", ["", "   ", [], ["a", ""], ["a", 3], ["a cat", "A  cat"], [str(n) for n in range(65)], None, "a \udcff"]
)
def test_prompts_that_say_nothing_are_refused(model, picture, prompts):
    with pytest.raises(PromptError):
        model.segment(picture, prompts)


def test_watching_a_run_leaves_gradients_as_they_were(model, picture):
    with torch.no_grad():
        states = [torch.is_grad_enabled() for _ in model.start(picture, "red", steps=3)]
    assert states == [False] * 6
    steps = iter(model.start(picture, "red", steps=3))
    next(steps)
    next(steps)
    assert torch.is_grad_enabled()


def test_a_server_in_inference_mode_gets_the_same_mask_and_its_mode_back(model, picture):
    expected = model.segment(picture, "red", steps=3).alpha
    with torch.inference_mode():
        run = model.start(picture, "red", steps=3)
        assert all(torch.is_inference_mode_enabled() for _ in run)
        np.testing.assert_array_equal(run.result().alpha, expected)


def test_prompts_that_name_every_rival_are_compared_with_nothing(model, picture):
    said = [" ".join(["red", *RIVALS[:12]]), " ".join(["blue", *RIVALS[12:]])]
    run = model.start(picture, said, presence=0.0)
    assert run.scene.rivals is None
    assert model.segment(picture, said, presence=0.0).alpha.shape == (2, *picture.shape[:2])


def test_fourier_begins_where_the_warm_start_ended(model, picture):
    first, second, *_ = model.start(picture, "red", alpha="fourier", steps=1)
    assert iou((first.alpha[0] > 0.5).numpy(), (second.alpha[0] > 0.5).numpy()) > 0.8


def test_a_long_prompt_is_cut_and_that_is_said(model, picture):
    run = model.start(picture, "red " * 10_000)
    assert any("was cut" in note for note in run.notes)
    assert all(len(note) < 300 for note in run.notes)


def test_the_package_imports_lazily():
    import subprocess
    import sys

    code = "import sys, peekaboo; print('torch' in sys.modules, sorted(peekaboo.__all__))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("False")
    assert len(peekaboo.__all__) <= 10
    with pytest.raises(AttributeError):
        _ = peekaboo.nothing


def test_the_same_prompts_are_encoded_once_while_that_is_asked_for_and_not_after(model, picture, monkeypatch):
    calls = []
    encode = model.denoiser.encode_prompt
    monkeypatch.setattr(model.denoiser, "encode_prompt", lambda prompts: calls.append(prompts) or encode(prompts))
    alone = model.segment(picture, "red", preset="draft")
    once = len(calls)
    with model.same_prompts():
        results = [model.segment(picture, "red", preset="draft") for _ in range(3)]
        assert len(calls) == 2 * once
    for result in results:
        np.testing.assert_array_equal(result.alpha, alone.alpha)
    model.segment(picture, "red", preset="draft")
    assert len(calls) == 3 * once


def test_a_thing_that_fills_most_of_the_picture_is_found_whole(model):
    rgb = np.full((64, 64, 3), 127, np.uint8)
    rgb[4:60, 4:60] = (230, 12, 12)  # 77 % of the picture: the median of any map is the thing's
    mask = model.segment(rgb, "red", preset="draft").mask[0]
    truth = np.zeros((64, 64), bool)
    truth[4:60, 4:60] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_colours_carry_the_mask_to_the_things_edges(model, picture):
    truth = picture[..., 0] > 128
    with_it, without = (model.start(picture, "red", preset="draft", grabcut=on) for on in (True, False))
    for run in (with_it, without):
        assert run.alphas().shape[1:] == run.grid
        assert not run.alphas().any()
        for _ in run:
            pass
    assert without.alphas().shape[1:] == without.grid
    assert with_it.alphas().shape[1:] == tuple(2 * side for side in with_it.grid)
    assert iou(with_it.result().mask[0], truth) > 0.98


def test_the_papers_preset_is_left_without_it(model, picture):
    run = model.start(picture, "red", preset="paper", steps=3)
    *_, last = run
    torch.testing.assert_close(run.alphas(), last.alpha)
