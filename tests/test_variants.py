"""The paper's variants by name: alpha model, guide and loss, on the toy and on tiny networks of real architectures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tiny
from peekaboo import Peekaboo, loss, preset
from peekaboo.cli import app
from peekaboo.clip import Clip
from peekaboo.depth import Depth
from peekaboo.errors import ModelError, SettingsError
from peekaboo.scene import Scene
from peekaboo.settings import VARIANTS

CPU = torch.device("cpu")


@pytest.fixture
def picture() -> np.ndarray:
    rgb = np.zeros((48, 80, 3), np.uint8)
    rgb[..., 2] = 230
    rgb[10:36, 16:48] = (230, 12, 12)
    return rgb


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    return tiny.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def depth_folder(tmp_path_factory) -> Path:
    return tiny.depth(tmp_path_factory.mktemp("depth"))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("base", ["paper", "default"])
def test_every_variant_runs_by_name_and_only_composes(toy, picture, clip_folder, depth_folder, name, base):
    networks = {"clip_model": str(clip_folder), "depth_model": str(depth_folder)}
    result = Peekaboo(toy).segment(picture, "red", preset=base, variant=name, steps=2, **networks)
    assert result.alpha.shape == (1, 48, 80)
    assert np.isfinite(result.alpha).all()
    changed = {k for k, v in result.settings.as_dict().items() if v != getattr(preset(base, steps=2, **networks), k)}
    assert changed <= {"alpha", "blur", "estimator"}
    assert changed == {k for k, v in VARIANTS[name].items() if v != getattr(preset(base), k)}


def test_an_unknown_variant_is_named(toy, picture):
    for given in ("paper", preset("paper")):
        with pytest.raises(SettingsError, match="rgb-bilateral"):
            Peekaboo(toy).segment(picture, "red", preset=given, variant="ruster")


def test_the_clip_loss_against_the_chain_rule_by_hand(toy_scene):
    r"""A judge that is linear in the picture, s(x̂) = Σ w·x̂ / n: the gradient on alpha is −Σ_c w_c (x − b)_c + λ."""
    w = torch.randn(3, 24, 40, dtype=torch.float64)
    scene = Scene(
        toy_scene.denoiser,
        toy_scene.image,
        toy_scene.embeddings,
        toy_scene.null,
        None,
        lambda pictures: (w * pictures).sum(dim=(1, 2, 3)) / (24 * 40),
    )
    alpha = torch.rand(1, 24, 40, dtype=torch.float64)
    settings = preset("paper", "clip", gravity=0.02)
    got = loss.alpha_gradient(scene, settings, alpha, torch.Generator().manual_seed(5))
    colour = torch.rand(3, generator=torch.Generator().manual_seed(5)).view(3, 1, 1)
    torch.testing.assert_close(got[0], -(w * (toy_scene.image[0] - colour)).sum(dim=0) + 0.02)
    alike = torch.full_like(alpha, 0.5)  # both sides are one picture: the complement doubles the pull
    plain = settings.with_changes(gravity=0.0)
    both = loss.alpha_gradient(scene, plain.with_changes(complement=1.0), alike, torch.Generator().manual_seed(5))
    one = loss.alpha_gradient(scene, plain, alike, torch.Generator().manual_seed(5))
    torch.testing.assert_close(both, 2 * one)


def test_the_clip_loss_without_a_judge_is_refused(toy_scene):
    with pytest.raises(SettingsError, match="clip_model"):
        loss.alpha_gradient(toy_scene, preset("paper", "clip"), torch.rand(1, 24, 40), torch.Generator())


@pytest.mark.parametrize("siglip", [False, True])
def test_similarities_are_the_models_own_and_carry_a_gradient(tmp_path, siglip):
    """On pictures of the model's own size, what the image processor would have given, and what the model makes of it."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = tiny.clip(tmp_path, siglip=siglip)
    clip = Clip.from_pretrained(str(folder), CPU)
    rgb = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    pictures = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=[Image.fromarray(p) for p in rgb], return_tensors="pt").pixel_values
    torch.testing.assert_close(clip.see(pictures), inputs, atol=1e-5, rtol=1e-4)
    model = AutoModel.from_pretrained(folder).eval()
    length = 12
    text = AutoTokenizer.from_pretrained(folder)(
        ["a", "b"], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        own = model(**text, pixel_values=inputs)
    expected = (own.image_embeds * own.text_embeds).sum(dim=-1)
    pictures.requires_grad_(True)
    similarity = clip.judge(["a", "b"])(pictures)
    torch.testing.assert_close(similarity.detach(), expected, atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(similarity.sum(), pictures)
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0
    assert clip.judge(["a"])(torch.rand(1, 3, 20, 44)).shape == (1,)  # any other size and aspect


def test_the_clip_variant_raises_the_similarity(toy, picture, clip_folder):
    """The loop does what its loss says: the composite grows more like the prompt, on any background colour."""
    from peekaboo.scene import composite

    model = Peekaboo(toy)
    options = {"clip_model": str(clip_folder), "gravity": 0.0, "learning_rate": 1e-4}
    first, *_, last = model.start(picture, "red", preset="paper", variant="clip", steps=40, **options)
    judge = Clip.from_pretrained(str(clip_folder), CPU).judge(["red"])
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, size=last.alpha.shape[-2:], mode="bilinear", antialias=True)
    colours = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (
            sum(float(judge(composite(step.alpha.float(), image, c))) for c in colours) for step in (first, last)
        )
    assert after > before


def test_depth_is_the_networks_and_stops_the_blur(toy, picture, depth_folder):
    depth = Depth.from_pretrained(str(depth_folder), CPU)(picture)
    assert depth.dtype == np.float32
    assert depth.ndim == 2
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 40, picture.shape), 0, 255).astype(np.uint8)
    model = Peekaboo(toy)
    options = {"variant": "depth-bilateral", "steps": 2, "depth_model": str(depth_folder)}
    by_network = model.segment(noisy, "red", **options)
    by_its_map = model.segment(noisy, "red", guide=Depth.from_pretrained(str(depth_folder), CPU)(noisy), **options)
    assert by_network.alpha.tobytes() == by_its_map.alpha.tobytes()
    by_another = model.segment(noisy, "red", guide=np.arange(80.0)[None].repeat(48, axis=0), **options)
    assert by_network.alpha.tobytes() != by_another.alpha.tobytes()


def test_a_missing_network_is_one_sentence_that_says_what_to_do(toy, picture, tmp_path):
    model = Peekaboo(toy)
    with pytest.raises(ModelError, match=r"depth network .* --depth FILE"):
        model.segment(picture, "red", variant="depth-bilateral")
    with pytest.raises(ModelError, match=r"image-text model .* --clip-model"):
        model.segment(picture, "red", variant="clip", clip_model=str(tmp_path))
    model.segment(picture, "red", variant="depth-bilateral", guide=np.eye(5), steps=1)  # a map needs no network


@pytest.fixture
def photo(tmp_path, picture) -> Path:
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.stable_diffusion().save_pretrained(path, safe_serialization=True)
    return path


def segment(photo, model_folder, *options, code=0):
    fast = ["--set", "steps=1", "--set", "warm_start=1", "-q"]
    arguments = ["segment", str(photo), "-p", "a", "-m", str(model_folder), "-o", str(photo.parent / "out"), *fast]
    result = CliRunner().invoke(app, [*arguments, *map(str, options)])
    assert result.exit_code == code, (result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_variants_on_the_command_line(photo, model_folder, clip_folder, depth_folder, tmp_path):
    import json

    np.save(tmp_path / "depth.npy", np.arange(40.0)[None].repeat(24, axis=0))
    record = tmp_path / "out" / "photo" / "run.json"
    for options, expected in [
        (["--variant", "fourier"], ("fourier", "none", "csd")),
        (["--depth", tmp_path / "depth.npy"], ("raster", "depth", "csd")),
        (["--depth", tmp_path / "depth.npy", "--set", "alpha=fourier"], ("fourier", "depth", "csd")),
        (["--depth-model", depth_folder], ("raster", "depth", "csd")),
        (["--variant", "clip", "--clip-model", clip_folder], ("raster", "rgb", "clip")),
    ]:
        segment(photo, model_folder, *options)
        settings = json.loads(record.read_text())["settings"]
        assert (settings["alpha"], settings["blur"], settings["estimator"]) == expected


def test_what_does_not_go_together_is_refused_before_any_work(photo, model_folder, depth_folder, tmp_path):
    np.save(tmp_path / "depth.npy", np.eye(8))
    depth = ["--depth", tmp_path / "depth.npy"]
    assert "depth-bilateral" in segment(photo, model_folder, "--variant", "raster", *depth, code=2)
    assert "one of them" in segment(photo, model_folder, "--guide", photo, *depth, code=2)
    assert "--depth-model goes with" in segment(
        photo, model_folder, "--variant", "clip", "--depth-model", depth_folder, code=2
    )
    assert "cannot be loaded" in segment(photo, model_folder, "--variant", "depth-bilateral", code=2)
    assert not list(tmp_path.glob("out/**/*.png"))
