"""The adapter against diffusers itself, and every way a model can be wrong."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import tiny
from peekaboo import Peekaboo
from peekaboo.denoisers import adapt, load_pipeline
from peekaboo.denoisers.base import Denoiser, epsilon_from
from peekaboo.denoisers.load import pick_device
from peekaboo.denoisers.steady import steady
from peekaboo.errors import ModelError


@pytest.fixture(scope="module")
def pipe():
    return tiny.stable_diffusion()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def test_the_adapter_has_the_protocol_and_reads_the_pipelines_own_sizes(pipe):
    denoiser = adapt(pipe)
    assert isinstance(denoiser, Denoiser)
    assert denoiser.factor == 4
    assert denoiser.native_area == 32 * 32
    assert denoiser.timesteps == 1000
    other = adapt(tiny.stable_diffusion(vae_blocks=4, latent_channels=6, sample_size=(8, 16)))
    assert other.factor == 8
    assert other.native_area == 64 * 128
    assert other.encode(torch.rand(1, 3, 64, 72)).shape == (1, 6, 8, 9)


def test_a_wrapper_that_hands_everything_on_is_a_denoiser(pipe):
    """On Python 3.12 and later, isinstance does not see what __getattr__ finds."""

    class Wrapper:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    wrapped = Wrapper(adapt(pipe))
    assert adapt(wrapped) is wrapped
    assert adapt(pipe) is not pipe  # a pipeline has an encode_prompt and a device of its own


def test_encoding_is_the_pipelines_vae_scaled_and_differentiable(pipe):
    image = torch.rand(2, 3, 32, 48, requires_grad=True)
    latents = adapt(pipe).encode(image)
    expected = pipe.vae.encode(2 * image - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    latents.sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in pipe.vae.parameters())


def test_noise_is_added_as_the_scheduler_does(pipe):
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    t = torch.tensor([10, 800])
    torch.testing.assert_close(adapt(pipe).add_noise(latents, noise, t), pipe.scheduler.add_noise(latents, noise, t))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_invert_to_the_noise(kind):
    pipe = tiny.stable_diffusion(prediction_type=kind)
    latents, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([50, 400, 900])
    noisy = pipe.scheduler.add_noise(latents, noise, t)
    truth = {
        "epsilon": noise,
        "v_prediction": pipe.scheduler.get_velocity(latents, noise, t),
        "sample": latents,
    }
    a = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(epsilon_from(truth[kind], noisy, a, kind), noise, atol=1e-4, rtol=1e-4)
    predicted = adapt(pipe).predict(noisy, t, adapt(pipe).encode_prompt(["a b c"] * 3))
    assert predicted.shape == noisy.shape
    assert not predicted.requires_grad


def test_an_unknown_prediction_type_is_named():
    with pytest.raises(ModelError, match="flow"):
        epsilon_from(torch.zeros(1), torch.zeros(1), torch.ones(1), "flow")


def test_what_is_cut_from_a_long_prompt_is_known(pipe):
    denoiser = adapt(pipe)
    assert denoiser.clipped("abcdefghij") == ""
    assert denoiser.clipped("abcdefghij klm").replace(" ", "") == "klm"
    assert denoiser.encode_prompt(["word " * 10_000]).shape == (1, 12, 16)


def test_parts_that_lack_or_do_not_fit_are_refused(pipe):
    with pytest.raises(ModelError, match="no vae, unet"):
        Peekaboo(object())
    with pytest.raises(ModelError, match="9 channels"):
        Peekaboo(tiny.stable_diffusion(in_channels=9))
    sizes = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    with pytest.raises(ModelError, match="no text_encoder_2, tokenizer_2"):
        Peekaboo(tiny.stable_diffusion(addition_embed_type="text_time", **sizes))
    with pytest.raises(ModelError, match="no adapter"):
        Peekaboo(tiny.stable_diffusion(addition_embed_type="image", encoder_hid_dim=16))


def test_a_folder_loads_and_gives_the_same_predictions(pipe, folder):
    loaded = adapt(load_pipeline(folder, "cpu"))
    denoiser = adapt(pipe)
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    for embedding in (denoiser.encode_prompt(["x y"]), loaded.encode_prompt(["x y"])):
        torch.testing.assert_close(loaded.predict(noisy, t, embedding), denoiser.predict(noisy, t, embedding))


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",)])
def test_a_folder_of_half_precision_files_loads(pipe, folder, tmp_path, parts):
    """As `save_pretrained(variant="fp16")` leaves it."""
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    for part in parts:
        for file in (half / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    loaded = adapt(load_pipeline(half, "cpu"))
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    embedding = loaded.encode_prompt(["x y"])
    torch.testing.assert_close(loaded.predict(noisy, t, embedding), adapt(pipe).predict(noisy, t, embedding))


def test_a_hub_model_of_half_precision_files_is_asked_for_by_that_name(pipe, monkeypatch):
    asked = []

    def fetch(name, variant=None, **options):
        asked.append(variant)
        if variant is None:
            raise OSError("Could not find the necessary `safetensors` weights in {...} (variant=None)")
        return pipe

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fetch)
    assert load_pipeline("somebody/half", "cpu") is pipe
    assert asked == [None, "fp16"]


def test_half_precision_loads_and_segments(folder):
    model = Peekaboo.from_pretrained(folder, "cpu", "bfloat16")
    assert model.denoiser.dtype is torch.bfloat16
    image = np.random.default_rng(0).random((40, 56, 3))
    result = model.segment(image, "a", steps=2, warm_start=2)
    assert result.alpha.shape == (1, 40, 56)
    assert np.isfinite(result.alpha).all()


FIRST_CALL = """
import sys, torch
from peekaboo.denoisers.steady import steady
steady()
x = torch.rand(8192, generator=torch.Generator().manual_seed(0)) + 0.1
sys.exit(not torch.equal(torch.exp(x), torch.exp(x)))
"""


def test_the_first_call_of_a_process_gives_the_same_numbers_as_the_next():
    """Without `steady`, one process in ten to one in two is wrong in its first call (two threads, two cores)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for _ in range(5):
        assert subprocess.run([sys.executable, "-c", FIRST_CALL], env=environment).returncode == 0


def test_kernels_are_chosen_before_anything_is_computed(pipe):
    for begin in (lambda: adapt(pipe), lambda: pick_device("cpu")):
        steady.cache_clear()
        begin()
        assert steady.cache_info().currsize == 1


def refuse(name, says, **options):
    with pytest.raises(ModelError) as caught:
        load_pipeline(name, **options)
    text = str(caught.value)
    assert says in text, text
    assert "\n" not in text
    assert text.endswith(".")


def test_pickles_are_refused_with_the_reason(tmp_path, pipe):
    for name in ("model.ckpt", "model.pt", "model.bin"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        refuse(tmp_path / name, "can run any code")
    pipe.save_pretrained(tmp_path / "old", safe_serialization=False)
    refuse(tmp_path / "old", "can run any code")


def test_missing_and_broken_models_are_named(tmp_path, folder):
    refuse("no-such-model", "There is no model 'no-such-model'")
    refuse(tmp_path, "model_index.json")
    (tmp_path / "notes.txt").write_text("x")
    refuse(tmp_path / "notes.txt", "expected a .safetensors file")
    (tmp_path / "noise.safetensors").write_bytes(b"not a checkpoint")
    refuse(tmp_path / "noise.safetensors", "cannot be loaded")
    for part in ("unet", "vae/config.json", "text_encoder/model.safetensors", "tokenizer"):
        broken = tmp_path / "broken"
        shutil.copytree(folder, broken)
        target = broken / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        refuse(broken, "incomplete or damaged")
        shutil.rmtree(broken)
    broken = tmp_path / "cut"
    shutil.copytree(folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refuse(broken, "incomplete or damaged")


def test_a_hub_id_without_network_is_one_sentence():
    refuse("nobody/nothing", "could not be fetched")


def test_devices_and_dtypes_are_checked(folder):
    refuse(folder, "'abacus'", device="abacus")
    refuse(folder, "'float3'", dtype="float3")


def test_another_scheduler_kind_is_refused(pipe):
    from diffusers import FlowMatchEulerDiscreteScheduler

    other = tiny.stable_diffusion()
    other.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ModelError, match="FlowMatchEuler"):
        Peekaboo(other)


def test_the_model_index_needs_no_code_of_ours(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"


def views(model, image):
    return model.encode(image), model.encode(image.flip(-1))


def test_attention_is_read_where_there_is_any_and_leaves_the_unet_as_it_was(toy):
    from peekaboo import attention, evidence

    assert attention.words_of(toy, ["red"]) is None
    model = adapt(tiny.stable_diffusion())
    words = attention.words_of(model, ["ab", "c"])
    assert [len(w) for w in words] == [2, 1]
    before = dict(model.unet.attn_processors)
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    maps = evidence.attention_map(
        model,
        views(model, image),
        model.encode_prompt(["ab", "c"]),
        words,
        (24, 40),
        torch.Generator().manual_seed(0),
    )
    assert maps.shape == (2, 24, 40)
    assert 0 <= maps.min() < maps.max() <= 1
    assert model.unet.attn_processors == before
    mirrored = evidence.attention_map(
        model,
        views(model, image.flip(-1)),
        model.encode_prompt(["ab", "c"]),
        words,
        (24, 40),
        torch.Generator().manual_seed(0),
    )
    assert (maps - mirrored).abs().max() > 0.01


def test_a_unet_whose_attention_cannot_be_read_is_segmented_without(monkeypatch):
    """Whatever hides the layers (a compiled network, say): the map is then taken place by place."""
    from peekaboo import evidence
    from peekaboo.denoisers.stable_diffusion import StableDiffusion

    model = adapt(tiny.stable_diffusion())
    rgb = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    plain = Peekaboo(model).segment(rgb, "ab", preset="draft", pooling=0.0)
    pooled = Peekaboo(model).segment(rgb, "ab", preset="draft")
    original = StableDiffusion.predict

    def hidden(self, noisy, t, embeddings):
        self.unet.set_attn_processor({n: getattr(p, "inner", p) for n, p in self.unet.attn_processors.items()})
        return original(self, noisy, t, embeddings)

    monkeypatch.setattr(StableDiffusion, "predict", hidden)
    words = [[1, 2]]
    image = torch.rand(1, 3, 24, 24)
    found = evidence.attention_map(
        model, views(model, image), model.encode_prompt(["ab"]), words, (24, 24), torch.Generator()
    )
    assert found is None
    unread = Peekaboo(model).segment(rgb, "ab", preset="draft")
    assert np.allclose(unread.alpha, plain.alpha, atol=1e-6)
    assert not np.allclose(unread.alpha, pooled.alpha, atol=1e-3)
