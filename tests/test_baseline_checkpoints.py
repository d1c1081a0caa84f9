"""LSeg and CLIPpy of the evaluation's baselines: their authors' checkpoints, read safely and put into parts of
transformers."""

import sys
import types

import numpy as np
import pytest
import torch

import originals
import tiny
from peekaboo.errors import ModelError
from peekaboo.evaluation.baselines import _checkpoint, clippy, lseg

PROMPTS = ["a", "b c", "dog"]


@pytest.fixture(scope="module")
def original_lseg() -> originals.LSeg:
    return originals.lseg()


@pytest.fixture(scope="module")
def original_clippy() -> originals.Clippy:
    return originals.clippy()


def test_lseg_is_its_original(original_lseg):
    """The same logits from transformers' parts, loaded by the original's names, as from the original, on a wide
    picture."""
    words = tiny.tokenizer()
    weights = lseg.from_original(originals.names_of(original_lseg, "net."))
    mine = lseg.LSeg(weights, words, "other", 96, "tiny")
    pixels = torch.rand(1, 3, 64, 96)
    ids = words(PROMPTS, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(
            mine.logits(pixels, PROMPTS), original_lseg(2 * pixels - 1, ids, words.eos_token_id), atol=2e-4, rtol=1e-4
        )
    assert mine.size(300, 1000) == (32, 96)
    assert mine.size(500, 400) == (96, 64)


def test_clippy_is_its_original(original_clippy):
    words = tiny.t5_tokenizer()
    mine = clippy.Clippy(
        clippy.from_original(originals.names_of(original_clippy, "module.")), words, "rest", "{}", "tiny"
    )
    rgb = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    pixels = (pixels - torch.tensor(clippy.MEAN).view(1, 3, 1, 1)) / torch.tensor(clippy.SPREAD).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = original_clippy(pixels, [words(prompt)["input_ids"] for prompt in PROMPTS])
        torch.testing.assert_close(mine.logits(rgb, PROMPTS), expected, atol=1e-4, rtol=1e-4)


def test_every_weight_of_the_originals_has_its_place(original_lseg, original_clippy):
    """Nothing is lost in renaming but what nobody asks, and no weight goes to two places."""
    weights = lseg.from_original(original_lseg.state_dict())
    kept = sum(v.numel() for v in [*weights.pixels.values(), *weights.texts.values(), weights.head, weights.bias])
    asked = {
        name: value
        for name, value in original_lseg.state_dict().items()
        if not name.startswith(("pretrained.model.head.", "clip_pretrained.visual.", "clip_pretrained.logit_scale"))
    }
    assert kept == sum(value.numel() for value in asked.values())
    moved = clippy.from_original(original_clippy.state_dict())
    kept = sum(v.numel() for v in [*moved.pixels.values(), *moved.texts.values(), moved.dense])
    total = sum(value.numel() for value in original_clippy.state_dict().values())
    assert kept == total - 1 - sum(p.numel() for p in original_clippy.visual.trunk.head.parameters())
    assert moved.scale == pytest.approx(np.exp(3.0))


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("scratch.head1.weight", "none of LSeg"),
        ("scratch.refinenet2.out_conv.bias", "lacks 1 weights, such as neck.fusion_stage.layers.2.projection.bias"),
        ("pretrained.model.blocks.1.attn.qkv.weight", "lacks 3 weights"),
        ("clip_pretrained.ln_final.bias", "lacks 1 weights, such as text_model.final_layer_norm.bias"),
    ],
)
def test_an_incomplete_checkpoint_names_what_it_lacks(original_lseg, gone, told):
    state = {name: value for name, value in original_lseg.state_dict().items() if name != gone}
    with pytest.raises(ModelError, match=told):
        lseg.LSeg(lseg.from_original(state), tiny.tokenizer(), "other", 96, "tiny")


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_checkpoints_are_read_without_running_code(tmp_path, monkeypatch):
    """A Lightning file names its callbacks' classes, which are stood in for; a pickle that names anything else is
    refused."""
    monkeypatch.chdir(tmp_path)
    lightning = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    lightning.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": lightning.__name__})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("pytorch_lightning.callbacks"))
    monkeypatch.setitem(sys.modules, lightning.__name__, lightning)
    keeper = lightning.ModelCheckpoint()
    keeper.best = 0.5
    state = {"net.x": torch.arange(3.0)}
    torch.save(
        {"state_dict": state, "callbacks": {lightning.ModelCheckpoint: {"kept": keeper}}, "hyper_parameters": {"a": 1}},
        "whole.ckpt",
    )
    torch.save({"state_dict": state, "extra": Bomb()}, "bomb.ckpt")
    torch.save(state, "bare.pt")
    safe = set(torch.serialization.get_safe_globals())
    read = _checkpoint.read_checkpoint(tmp_path / "whole.ckpt")
    assert list(read) == ["net.x"]
    assert torch.equal(read["net.x"], torch.arange(3.0))
    assert list(_checkpoint.read_checkpoint(tmp_path / "bare.pt")) == ["net.x"]
    with pytest.raises(ModelError, match="could run any code"):
        _checkpoint.read_checkpoint(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "exploded").exists()
    assert set(torch.serialization.get_safe_globals()) == safe
    (tmp_path / "noise.ckpt").write_bytes(b"no checkpoint at all")
    with pytest.raises(ModelError, match="damaged"):
        _checkpoint.read_checkpoint(tmp_path / "noise.ckpt")
    with pytest.raises(ModelError, match=r"must hold one checkpoint of X, but it holds bare\.pt"):
        _checkpoint.find_checkpoint(tmp_path, "X", "it")
