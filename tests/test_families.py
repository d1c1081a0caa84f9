"""Every family of models: the network is asked what diffusers' own pipeline asks it, and answers in predicted noise."""

import inspect

import numpy as np
import pytest
import torch

import tiny
from peekaboo import Peekaboo, attention, evidence
from peekaboo.denoisers import adapt, load_pipeline
from peekaboo.denoisers.base import Denoiser
from peekaboo.denoisers.flow import stable_diffusion_schedule
from peekaboo.denoisers.latents import packed, unpacked
from peekaboo.denoisers.load import file_family, overflows
from peekaboo.errors import ModelError

FAMILIES = {
    "sd": tiny.stable_diffusion,
    "sdxl": tiny.stable_diffusion_xl,
    "sd3": tiny.stable_diffusion_3,
    "sd3 without T5": lambda: tiny.stable_diffusion_3(t5=False),
    "flux dev": tiny.flux,
    "flux schnell": lambda: tiny.flux(guidance=False),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request):
    return FAMILIES[request.param]()


def asked(network, ask):
    """What a network is called with while `ask` runs, by name; the first call's."""
    calls = []
    signature = inspect.signature(network.forward)

    def note(_, args, kwargs):
        calls.append({k: v for k, v in signature.bind(*args, **kwargs).arguments.items() if v is not None})

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        ask()
    finally:
        hook.remove()
    return calls[0]


def flat(call):
    """The tensors of a call by name, those in dictionaries too."""
    given = {**call, **(call.get("added_cond_kwargs") or {})}
    return {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}


def test_a_network_is_asked_what_diffusers_asks_it(pipe):
    """The same latents, timestep, embeddings, pooled embeddings, sizes, places and guidance."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    denoiser = adapt(pipe)
    assert isinstance(denoiser, Denoiser)
    noisy, t = torch.randn(1, 4, 8, 12), torch.tensor([400])
    ours = asked(denoiser.network, lambda: denoiser.predict(noisy, t, denoiser.encode_prompt(["ab c"])))
    size = {"height": 8 * 4, "width": 12 * 4}
    options = {"guidance_scale": 1.0, "output_type": "latent", **size}
    if hasattr(pipe, "transformer"):
        at_once = pipe.scheduler
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)  # leaves the noise levels that it is told
        sigma = float(ours["timestep"]) / (1 if "img_ids" in ours else 1000)
        theirs = asked(pipe.transformer, lambda: pipe("ab c", latents=ours["hidden_states"], sigmas=[sigma], **options))
        pipe.scheduler = at_once
    else:
        theirs = asked(pipe.unet, lambda: pipe("ab c", latents=noisy, timesteps=[400], **options))
    ours, theirs = flat(ours), flat(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value.float(), theirs[name].float().expand_as(value), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("make", [tiny.stable_diffusion_3, tiny.flux])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_a_flow_that_knows_the_picture_predicts_its_noise(make, size, monkeypatch):
    """A perfect velocity ε − z, at x = (1−σ)z + σε, is the noise that was added, whatever the sides."""
    denoiser = adapt(make())
    latents, noise = torch.randn(2, 3, 4, *size)
    t = torch.tensor([20, 500, 980])
    seen = {}

    def velocity(x, sigma, embeddings, pooled):
        seen.update(x=x, sigma=sigma)
        pad = (0, x.shape[-1] - size[1], 0, x.shape[-2] - size[0])
        return torch.nn.functional.pad(noise - latents, pad)

    monkeypatch.setattr(denoiser, "velocity", velocity)
    embeddings = denoiser.encode_prompt(["a"] * 3)
    predicted = denoiser.predict(denoiser.add_noise(latents, noise, t), t, embeddings)
    torch.testing.assert_close(predicted, noise, atol=1e-4, rtol=1e-4)
    sigma = seen["sigma"].view(-1, 1, 1, 1)
    expected = (1 - sigma) * latents + sigma * noise
    torch.testing.assert_close(seen["x"][..., : size[0], : size[1]], expected, atol=1e-5, rtol=1e-5)
    ratio = denoiser.alphas_cumprod[t] / (1 - denoiser.alphas_cumprod[t])
    torch.testing.assert_close((1 - seen["sigma"]) ** 2 / seen["sigma"] ** 2, ratio)
    assert all(side % 2 == 0 for side in seen["x"].shape[-2:])


def test_the_schedule_is_stable_diffusions():
    torch.testing.assert_close(stable_diffusion_schedule(), tiny.diffusion().alphas_cumprod, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pooled_width", [3, 8, 20])
def test_what_is_packed_comes_back(pooled_width):
    embeddings, pooled = torch.randn(2, 5, 8), torch.randn(2, pooled_width)
    both = packed(embeddings, pooled)
    assert both.shape == (2, 5 + -(-pooled_width // 8), 8)
    for one, other in zip(unpacked(both, pooled_width), (embeddings, pooled), strict=True):
        assert torch.equal(one, other)


def test_every_family_segments_and_generates(pipe):
    model = Peekaboo(pipe)
    rgb = np.random.default_rng(0).integers(0, 255, (30, 44, 3), np.uint8)
    result = model.segment(rgb, ["a dog", "b"], presence=0)
    assert result.alpha.shape == (2, 30, 44)
    assert np.isfinite(result.alpha).all()
    assert result.alpha.std() > 0
    again = model.segment(rgb, ["a dog", "b"], presence=0)
    assert np.array_equal(result.alpha, again.alpha)
    other = model.segment(rgb, ["x y z", "b"], presence=0)
    assert not np.allclose(result.alpha[0], other.alpha[0])  # the prompt is heard
    assert model.generate("a b", height=20, width=28, start_steps=2).image.size == (28, 20)


def test_every_family_loads_from_a_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    loaded, denoiser = adapt(load_pipeline(tmp_path / "model", "cpu")), adapt(pipe)
    assert type(loaded) is type(denoiser)
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    answers = [d.predict(noisy, t, d.encode_prompt(["x y"])) for d in (loaded, denoiser)]
    torch.testing.assert_close(*answers)
    assert overflows(tmp_path / "model") == ("Flux" in type(pipe).__name__)


@pytest.mark.parametrize("make", [tiny.stable_diffusion_xl, tiny.stable_diffusion_3, tiny.flux])
def test_the_pooled_prompt_counts(make):
    denoiser = adapt(make())
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    embeddings, pooled = unpacked(denoiser.encode_prompt(["x y"]), denoiser.pooled_width)
    plain, other = (denoiser.predict(noisy, t, packed(embeddings, p)) for p in (pooled, pooled + 1))
    assert not torch.allclose(plain, other)


def test_sdxl_has_zeros_for_the_empty_prompt_where_it_was_trained_so():
    pipe = tiny.stable_diffusion_xl()
    told = adapt(pipe).encode_prompt(["a", "", "b"])
    assert told[[0, 2]].abs().amin(dim=0).any()
    assert not told[1].any()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert adapt(pipe).encode_prompt([""]).any()


def test_sdxls_vae_is_asked_in_float32_where_it_would_overflow():
    pipe = tiny.stable_diffusion_xl()
    image = torch.rand(1, 3, 32, 32)
    expected = adapt(pipe).encode(image)
    pipe.to(torch.float16)
    denoiser = adapt(pipe)
    assert (denoiser.vae.dtype, pipe.vae.dtype, denoiser.dtype) == (torch.float32, torch.float16, torch.float16)
    image.requires_grad_(True)
    torch.testing.assert_close(denoiser.encode(image), expected, atol=2e-3, rtol=2e-3)
    denoiser.encode(image).sum().backward()
    assert image.grad.abs().sum() > 0
    pipe.vae.register_to_config(force_upcast=False)
    assert adapt(pipe).vae is pipe.vae


def test_what_is_cut_from_a_long_prompt_is_what_no_encoder_reads(pipe):
    denoiser = adapt(pipe)
    fits = {"Flux": 511, "StableDiffusion3": 255}.get(type(denoiser).__name__, 10)
    if type(denoiser).__name__ == "StableDiffusion3" and pipe.text_encoder_3 is None:
        fits = 10
    words = max(4, fits // 2)  # T5's tokenizer counts a blank before every letter
    letters = " ".join("abcdefghij"[i % 10] for i in range(fits))
    assert denoiser.clipped("abc") == ""
    cut = denoiser.clipped(letters + " " + letters)
    assert cut
    assert (letters + " " + letters).replace(" ", "").endswith(cut.replace(" ", ""))
    assert words <= len((letters + letters).replace(" ", "")) - len(cut.replace(" ", "")) <= fits
    assert max(denoiser.own_tokens(letters + " " + letters)) < denoiser.encode_prompt(["a"]).shape[1] - 1


def products(monkeypatch, denoiser, noisy, t, embeddings):
    """Queries and keys (B, heads, n, width) of every joint attention, patches before tokens, as the model itself computes them."""
    from diffusers.models import attention_processor
    from diffusers.models.transformers import transformer_flux

    seen = []
    count = unpacked(embeddings, denoiser.pooled_width)[0].shape[1]
    plain = attention_processor.F.scaled_dot_product_attention
    dispatch = transformer_flux.dispatch_attention_fn

    def of_sd3(query, key, value, **options):
        seen.append((query, key))
        return plain(query, key, value, **options)

    def of_flux(query, key, value, **options):
        both = [torch.cat([x[:, count:], x[:, :count]], dim=1).transpose(1, 2) for x in (query, key)]
        seen.append(tuple(both))
        return dispatch(query, key, value, **options)

    with monkeypatch.context() as patch:
        if type(denoiser).__name__ == "Flux":
            patch.setattr(transformer_flux, "dispatch_attention_fn", of_flux)
        else:
            patch.setattr(attention_processor.F, "scaled_dot_product_attention", of_sd3)
        output = denoiser.predict(noisy, t, embeddings)
    return output, seen, count


@pytest.mark.parametrize("make", [tiny.stable_diffusion_3, tiny.flux])
def test_joint_attention_is_read_as_the_model_computes_it(make, monkeypatch):
    denoiser = adapt(make())
    before = dict(denoiser.network.attn_processors)
    noisy, t = torch.randn(2, 4, 6, 10), torch.tensor([100, 500])
    embeddings = denoiser.encode_prompt(["dog"]).expand(2, -1, -1)
    plain, seen, count = products(monkeypatch, denoiser, noisy, t, embeddings)
    tokens = denoiser.own_tokens("dog")
    with attention.recording(denoiser.network, tokens) as paid:
        torch.testing.assert_close(denoiser.predict(noisy, t, embeddings), plain)
    assert len(paid) == 2  # of Flux's three layers, the last has no tokens of its own
    for share, (query, key) in zip(paid, seen, strict=False):
        scores = query[:, :, :-count] @ key[:, :, -count:].transpose(2, 3) * query.shape[-1] ** -0.5
        assert share.shape == (3 * 5,)
        torch.testing.assert_close(share, scores.softmax(dim=-1)[..., tokens].mean(dim=(0, 1, 3)))
    assert dict(denoiser.network.attn_processors) == before


def test_attention_makes_a_map_in_every_family(pipe):
    denoiser = adapt(pipe)
    words = attention.words_of(denoiser, ["ab", "c"])
    image = torch.rand(1, 3, 28, 36)
    views = denoiser.encode(image), denoiser.encode(image.flip(-1))
    maps = evidence.attention_map(
        denoiser, views, denoiser.encode_prompt(["ab", "c"]), words, (28, 36), torch.Generator().manual_seed(0)
    )
    assert maps.shape == (2, 28, 36)
    assert 0 <= maps.min() < maps.max() <= 1


def refuse(pipe, says):
    with pytest.raises(ModelError) as caught:
        adapt(pipe)
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_what_is_no_text_to_image_model_of_a_family_is_refused():
    refuse(tiny.stable_diffusion_xl(projection_class_embeddings_input_dim=5 * 8 + 24), "refiner")
    refuse(tiny.flux(in_channels=32), "32 channels where 16")
    refuse(tiny.stable_diffusion_3(in_channels=8), "8 channels where 4")
    pipe = tiny.stable_diffusion_3()
    pipe.scheduler = tiny.diffusion()
    refuse(pipe, "DDPMScheduler has no sigmas")
    pipe = tiny.flux()
    pipe.text_encoder_2 = None
    refuse(pipe, "FluxPipeline has no text_encoder_2")
    pipe.transformer = torch.nn.Linear(1, 1)
    refuse(pipe, "A Linear has no adapter")


def test_a_strip_longer_than_sd3_has_places_for_is_one_sentence():
    model = Peekaboo(tiny.stable_diffusion_3(pos_embed_max_size=4))
    assert model.segment(np.zeros((16, 16, 3), np.uint8), "a").alpha.shape == (1, 16, 16)
    with pytest.raises(ModelError, match="no more than 32 pixels a side"):
        model.segment(np.zeros((16, 64, 3), np.uint8), "a")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "StableDiffusionPipeline"),
        ("conditioner.embedders.1.model.ln_final.weight", "StableDiffusionXLPipeline"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "StableDiffusion3Pipeline"),
        ("double_blocks.0.img_attn.qkv.weight", "FluxPipeline"),
    ],
)
def test_one_file_is_loaded_as_the_family_that_its_weights_name(name, family, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    save_file({name: torch.zeros(1)}, tmp_path / "model.safetensors")
    assert file_family(tmp_path / "model.safetensors") == family
    pipe = tiny.stable_diffusion()
    loaded = []

    def load(path, **options):
        loaded.append(path)
        return pipe

    monkeypatch.setattr(f"diffusers.{family}.from_single_file", load)
    assert load_pipeline(tmp_path / "model.safetensors", "cpu") is pipe
    assert loaded == [tmp_path / "model.safetensors"]
