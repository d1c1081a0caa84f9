"""The evaluation's baselines: one protocol, and each against its own original."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import originals
import tiny
from peekaboo import attention
from peekaboo.errors import ImageError, ModelError, PromptError, SettingsError
from peekaboo.evaluation.baselines import METHODS, _shared, make
from toys import Toy

PROMPTS = ["a", "b c", "dog"]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rgb = np.random.default_rng(0).integers(0, 80, (40, 64, 3), np.uint8)
    rgb[8:30, 12:36] += np.array([150, 30, 0], np.uint8)
    return rgb


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory) -> str:
    return str(tiny.clipseg(tmp_path_factory.mktemp("clipseg")))


@pytest.fixture(scope="module")
def groupvit_folder(tmp_path_factory) -> str:
    return str(tiny.groupvit(tmp_path_factory.mktemp("groupvit")))


@pytest.fixture(scope="module")
def weights(tmp_path_factory, clipseg_folder, groupvit_folder) -> dict:
    """What each method is loaded with, as a user would: folders and files."""
    root = tmp_path_factory.mktemp("weights")
    tiny.stable_diffusion().save_pretrained(root / "sd", safe_serialization=True)
    tiny.tokenizer().save_pretrained(root / "clip")
    tiny.t5_tokenizer().save_pretrained(root / "t5")
    torch.save({"state_dict": originals.names_of(originals.lseg(), "net."), "epoch": 200}, root / "demo_e200.ckpt")
    torch.save({"state_dict": originals.names_of(originals.clippy(), "module."), "epoch": 10}, root / "clippy_5k.pt")
    return {
        "whole-image": {},
        "clipseg": {"model": clipseg_folder},
        "groupvit": {"model": groupvit_folder},
        "cross-attention": {"model": root / "sd"},
        "diffedit": {"model": str(root / "sd"), "draws": 4},
        "lseg": {"model": root / "demo_e200.ckpt", "tokenizer": str(root / "clip"), "side": 96},
        "clippy": {"model": str(root / "clippy_5k.pt"), "tokenizer": str(root / "t5")},
    }


@pytest.fixture(scope="module")
def made(weights) -> dict:
    """Every method."""
    assert set(weights) == set(METHODS)
    return {name: make(name, device="cpu", **weights[name]) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_one_protocol(made, picture, name):
    """The picture's own size, several prompts as one by one, the same bytes twice, any aspect."""
    alpha = made[name](picture, PROMPTS)
    assert alpha.shape == (3, 40, 64)
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert made[name](picture, PROMPTS).tobytes() == alpha.tobytes()
    alone = np.concatenate([made[name](picture, [prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(alone, alpha, atol=2e-4)
    assert made[name](np.ascontiguousarray(picture[:, :17].swapaxes(0, 1)), ["a"]).shape == (1, 17, 40)
    if name != "whole-image":
        assert alpha[0].std() > 0
        assert not np.array_equal(alpha[0], alpha[2])


@pytest.mark.parametrize("name", ["clipseg", "groupvit", "cross-attention", "diffedit", "lseg", "clippy"])
def test_half_precision_runs(made, weights, picture, name):
    half = make(name, device="cpu", dtype="bfloat16", **weights[name])(picture, PROMPTS)
    assert half.dtype == np.float32
    assert np.isfinite(half).all()
    assert np.abs(half - made[name](picture, PROMPTS)).mean() < 0.1


def test_the_methods_are_found_by_their_files_and_nothing_heavy_is_imported():
    names = ["clippy", "clipseg", "cross-attention", "diffedit", "groupvit", "lseg", "whole-image"]
    assert set(names) <= set(METHODS)
    code = "import sys, peekaboo.evaluation.baselines as b; print(*b.METHODS, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [*METHODS, "False"]


def test_what_cannot_be_asked_is_told(picture):
    with pytest.raises(SettingsError, match=r"no baseline 'sam'; the baselines are clippy"):
        make("sam")
    with pytest.raises(SettingsError, match=r"diffedit has no option 'drawz'; it has draws, strength"):
        make("diffedit", drawz=3)
    with pytest.raises(SettingsError, match="at least 1"):
        make("diffedit", draws=0)
    with pytest.raises(SettingsError, match="otsu"):
        make("cross-attention", threshold="mean")
    with pytest.raises(PromptError, match="empty"):
        make("whole-image")(picture, [])
    with pytest.raises(PromptError, match="empty"):
        make("whole-image")(picture, ["a", " "])
    with pytest.raises(ImageError, match="uint8"):
        make("whole-image")(picture.astype(np.int32), ["a"])


@pytest.mark.parametrize("name", [m for m in METHODS if m != "whole-image"])
def test_missing_weights_are_one_sentence(tmp_path, name):
    for model in (str(tmp_path), "nobody/nothing-of-this-name"):
        with pytest.raises(ModelError) as told:
            make(name, model=model, device="cpu")
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 600
    if name in ("lseg", "clippy"):
        with pytest.raises(ModelError, match=r"no weights that load by themselves; get .*github\.com"):
            make(name, device="cpu")
    elif name in ("clipseg", "groupvit"):  # offline here
        with pytest.raises(ModelError, match=r"cannot be loaded .* local folder"):
            make(name, device="cpu")


def test_a_network_without_its_tokenizer_is_refused(tmp_path, clipseg_folder):
    import shutil

    shutil.copytree(clipseg_folder, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*token*"):
        file.unlink()
    for file in (tmp_path / "bare").glob("vocab*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        make("clipseg", model=str(tmp_path / "bare"), device="cpu")


def test_the_whole_image():
    assert (
        make("whole-image")(np.zeros((9, 12, 3), np.uint8), ["a", "b"]).tobytes() == np.ones((2, 9, 12), "f4").tobytes()
    )


def test_clipseg_is_the_models_own_decision(made, picture, clipseg_folder):
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPSegForImageSegmentation

    square = picture[:32, :32]
    network = CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval()
    pixels = AutoImageProcessor.from_pretrained(clipseg_folder)(
        Image.fromarray(square), return_tensors="pt"
    ).pixel_values
    tokens = AutoTokenizer.from_pretrained(clipseg_folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = network(pixel_values=pixels.repeat(3, 1, 1, 1), **tokens).logits
    size = tuple(logits.shape[-2:])
    alpha = make("clipseg", model=clipseg_folder, device="cpu")(square, PROMPTS)
    expected = _shared.resize(torch.sigmoid(logits), (32, 32)).numpy()
    assert size[0] == size[1]
    np.testing.assert_allclose(alpha, expected, atol=1e-5)


def test_groupvit_has_the_pixels_where_its_segmentation_logits_prefer_the_prompt(picture, groupvit_folder):
    from transformers import AutoImageProcessor, AutoTokenizer, GroupViTModel

    square = picture[4:36, 8:40]
    network = GroupViTModel.from_pretrained(groupvit_folder).eval()
    pixels = AutoImageProcessor.from_pretrained(groupvit_folder)(
        Image.fromarray(square), return_tensors="pt"
    ).pixel_values
    texts = [*PROMPTS, "rest"]
    tokens = AutoTokenizer.from_pretrained(groupvit_folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = network(pixel_values=pixels, **tokens, output_segmentation=True).segmentation_logits[0]
    alpha = make("groupvit", model=groupvit_folder, device="cpu", background="rest")(square, PROMPTS)
    for i in range(3):
        pair = torch.stack([logits[3], logits[i]])
        mask = alpha[i] > 0.5
        decided = (pair[0] - pair[1]).abs() > 1e-4
        assert np.array_equal(mask[decided], pair.argmax(dim=0).bool().numpy()[decided])
    assert 0 < (alpha > 0.5).mean() < 1


def test_otsu_and_the_ramp_around_it():
    values = torch.tensor([[0.0, 0.1, 0.2, 4.0, 4.2, 4.4], [1.0, 5.0, 5.0, 5.0, 5.0, 5.2]])
    torch.testing.assert_close(_shared.otsu(values), torch.tensor([2.1, 3.0]))
    maps = torch.tensor([[[0.0, 1.0], [2.0, 6.0]], [[3.0, 3.0], [3.0, 3.0]]])
    alpha = _shared.around(maps, torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(alpha, torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))


class Attentive(Toy):
    """A toy whose UNet is one cross-attention of identity projections: red pixels look at the word "red", as its
    softmax says."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import Attention

        super().__init__()
        attention = Attention(query_dim=4, cross_attention_dim=4, heads=1, dim_head=4, bias=False, out_bias=False)
        for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
            layer.weight = nn.Parameter(2 * torch.eye(4))
        self.network = Layers(attention.requires_grad_(False))

    def own_tokens(self, prompt):
        """One token a word, between start and end."""
        return list(range(1, 1 + len(prompt.split())))

    def encode_prompt(self, prompts):
        """Start and end are no colour; each word is its own."""
        none = torch.zeros(4, dtype=self.dtype)
        return torch.stack([torch.stack([none, *map(self.mean, p.split()), none]) for p in prompts])

    def predict(self, noisy, t, embeddings):
        seen = noisy.float().flatten(2).transpose(1, 2)
        self.network.attention(seen, encoder_hidden_states=embeddings.float())
        return noisy


class Layers(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    @property
    def attn_processors(self):
        return {"attention.processor": self.attention.processor}

    def set_attn_processor(self, processors):
        self.attention.set_processor(processors.pop("attention.processor"))


def test_cross_attention_finds_what_the_words_attend():
    """A red square on blue, in whole cells of the latents: each word has its own cells, whatever the noise."""
    model, rgb = Attentive(), np.zeros((24, 40, 3), np.uint8)
    rgb[..., 2], rgb[4:16, 8:24] = 255, (255, 0, 0)
    truth = (rgb[..., 0] > 0)[2::4, 2::4]
    before = model.network.attention.processor
    for threshold in ("otsu", 0.5):
        found = make("cross-attention", model=model, band=(0.01, 0.1), threshold=threshold)
        red, blue = found(rgb, ["red", "blue"])[:, 2::4, 2::4] > 0.5
        assert np.array_equal(red, truth)
        assert np.array_equal(blue, ~truth)
    assert model.network.attention.processor is before


def test_cross_attention_keeps_the_softmax_and_leaves_the_unet_as_it_was():
    pipe = tiny.stable_diffusion()
    denoiser = _shared.load_denoiser(pipe, None, None)
    before = dict(pipe.unet.attn_processors)
    noisy, t = torch.randn(2, 4, 6, 10), torch.tensor([100, 500])
    embeddings = denoiser.encode_prompt(["dog"]).expand(2, -1, -1)
    inputs = {}
    layers = {n: m for n, m in pipe.unet.named_modules() if n.endswith("attn2")}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, layer in layers.items()
    ]
    plain = denoiser.predict(noisy, t, embeddings)
    [hook.remove() for hook in hooks]
    tokens = denoiser.own_tokens("dog")
    assert tokens == [1, 2, 3]
    assert denoiser.own_tokens("abcdefghijklmnop") == list(range(1, 11))  # 12 positions, 2 of them start and end
    with attention.recording(pipe.unet, tokens) as paid:
        assert torch.equal(denoiser.predict(noisy, t, embeddings), plain)
    assert len(paid) == len(layers) == len(inputs)
    for share, (name, layer) in zip(paid, [(n, layers[n]) for n in inputs], strict=True):
        q = layer.to_q(inputs[name]).unflatten(-1, (layer.heads, -1))
        k = layer.to_k(embeddings).unflatten(-1, (layer.heads, -1))
        scores = torch.einsum("bnhc,bkhc->bhnk", q, k) / q.shape[-1] ** 0.5
        torch.testing.assert_close(share, scores.softmax(dim=-1)[..., tokens].mean(dim=(0, 1, 3)))
    assert all(pipe.unet.attn_processors[name] is old for name, old in before.items())
    with pytest.raises(RuntimeError), attention.recording(pipe.unet, tokens):
        raise RuntimeError
    assert all(pipe.unet.attn_processors[name] is old for name, old in before.items())


def test_the_grids_of_the_layers():
    assert attention.grid(60, (6, 10)) == (6, 10)
    assert attention.grid(15, (6, 10)) == (3, 5)
    assert attention.grid(2 * 3, (6, 10)) == (2, 3)  # halves are rounded up
    with pytest.raises(ModelError, match="halving"):
        attention.grid(7, (6, 10))


def test_cross_attention_needs_attention_to_read(toy):
    with pytest.raises(ModelError, match="no attention that could be read"):
        make("cross-attention", model=toy)


class Local(Toy):
    """A toy in which the prompt changes the prediction only in the left `columns` of eight."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.seen = columns, []

    def predict(self, noisy, t, embeddings):
        self.seen.append(t)
        where = torch.zeros(8, dtype=noisy.dtype)
        where[: self.columns] = 1
        return noisy + embeddings[:, 0, :, None, None] * where


def test_diffedit_by_hand():
    """The difference is d in a share s of the map and 0 elsewhere: its mean is d·s, so the map is 1 / 3s there, at most
    1."""
    rgb = np.zeros((32, 32, 3), np.uint8)
    for columns, inside in [(1, 1.0), (4, 2 / 3), (6, 4 / 9)]:
        model = Local(columns)
        alpha = make("diffedit", model=model)(rgb, ["red"])
        assert alpha.shape == (1, 32, 32)
        np.testing.assert_allclose(alpha[0, :, 1], inside, atol=1e-6)
        np.testing.assert_allclose(alpha[0, :, -1], 0, atol=1e-6)
        assert torch.cat(model.seen).tolist() == [500] * 20  # ten draws, with the prompt and without
    assert make("diffedit", model=Toy())(rgb, ["grey"]).max() == 0  # what means as little as nothing
