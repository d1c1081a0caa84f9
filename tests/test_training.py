"""The parts of training/ that decide what the bundled model sees: splits, captions, scenes, and the optimiser's maths."""

import io
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from captions import Mention, caption, colour_name, one_colour, phrase, place
from config import CaptionConfig, Config, DataConfig
from muon import Muon, is_matrix, orthogonal
from scenes import Pack, compose
from step1_data import drawn, split
from step4_clip import disturbance
from vocabulary import Concept, build, spoken
from wordnet import WordNet

SHEEP = Concept("sheep", "Animals & Nature", True, ["ovine"], ["animal"], ["wool"], "sheep", ["noto/sheep"])
APPLE = Concept("apple", "Food & Drink", True, [], ["fruit"], [], "apples", ["noto/apple"])
PLAIN = CaptionConfig(synonym=0, kind=0, keyword=0, colour=0, position=0, frame=0)


# ---------------------------------------------------------------- what is held out


def test_one_file_in_eight_is_held_out_and_the_unseen_style_whole():
    cfg = DataConfig()
    keys = [f"twemoji/thing-{i}" for i in range(4000)]
    share = np.mean([split(cfg, "icon", key) == "test" for key in keys])
    assert 0.11 < share < 0.14
    assert {split(cfg, "icon", f"{cfg.unseen_style}/thing-{i}") for i in range(50)} == {"test"}


def test_a_sister_drawing_of_a_test_file_is_never_trained_on():
    cfg = DataConfig()
    for i in range(500):
        for family in cfg.families:
            kinds = {split(cfg, "icon", f"{icon_set}/thing-{i}") for icon_set in family}
            assert kinds == {"train"} or "train" not in kinds
    assert any(drawn(f"noto/thing-{i}") for i in range(50))


# ---------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0.9, 0.1, 0.1), "red"),
        ((1.0, 0.55, 0.1), "orange"),
        ((0.95, 0.85, 0.1), "yellow"),
        ((0.2, 0.7, 0.2), "green"),
        ((0.2, 0.4, 0.9), "blue"),
        ((0.5, 0.2, 0.8), "purple"),
        ((1.0, 0.6, 0.75), "pink"),
        ((0.45, 0.28, 0.12), "brown"),
        ((0.05, 0.05, 0.06), "black"),
        ((0.97, 0.97, 0.95), "white"),
        ((0.5, 0.5, 0.52), "grey"),
    ],
)
def test_everyday_colours(rgb, name):
    assert colour_name(rgb) == name
    square = np.ones((8, 8, 4), np.float32)
    square[..., :3] = rgb
    assert one_colour(square, share=0.6) == name


def test_a_thing_of_two_colours_has_none():
    square = np.ones((8, 8, 4), np.float32)
    square[:4, :, :3], square[4:, :, :3] = (0.9, 0.1, 0.1), (0.2, 0.4, 0.9)
    assert one_colour(square, share=0.6) is None


def test_places_are_those_of_the_picture():
    assert place((0.2, 0.5)) == "on the left"
    assert place((0.8, 0.45)) == "on the right"
    assert place((0.5, 0.2)) == "at the top"
    assert place((0.55, 0.85)) == "at the bottom"
    assert place((0.5, 0.5)) == "in the middle"
    assert place((0.3, 0.3)) is None


def test_a_recoloured_thing_always_tells_its_colour():
    rng = np.random.default_rng(0)
    thing = Mention(APPLE, photo=False, colour="blue", recoloured=True)
    assert all("blue apple" in phrase(rng, PLAIN, thing) for _ in range(30))


def test_captions_vary_as_configured():
    rng = np.random.default_rng(0)
    said = Counter(caption(rng, PLAIN, [Mention(APPLE, False), Mention(SHEEP, False)]) for _ in range(400))
    assert "an apple and a sheep" not in said  # a plural takes no indefinite article
    assert said["an apple and sheep"] > 50
    assert not any(text.startswith("a apple") for text in said)
    positions = replace(PLAIN, position=1.0)
    texts = {phrase(rng, positions, Mention(SHEEP, False, centre=(0.1, 0.5))) for _ in range(60)}
    assert {"the left sheep", "the sheep on the left"} <= texts
    assert {phrase(rng, PLAIN, Mention(APPLE, False, count=2)) for _ in range(60)} == {"two apples", "apples"}
    kinds = {phrase(rng, replace(PLAIN, kind=1.0), Mention(APPLE, False)) for _ in range(60)}
    assert kinds == {"fruit", "a fruit", "the fruit"}


# ---------------------------------------------------------------- the pack and its scenes


def disc(colour: str) -> bytes:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((0, 0, 127, 127), fill=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def pack_path(tmp_path) -> Path:
    files = {
        ("icon", "noto/sheep", "train"): "white",
        ("icon", "fxemoji/sheep", "test"): "black",
        ("icon", "noto/apple", "train"): "red",
        ("icon", "twemoji/apple", "test"): "green",
        ("background", "meadow", "train"): "blue",
        ("background", "beach", "test"): "yellow",
    }
    blobs = [disc(colour) for colour in files.values()]
    records = [{"kind": kind, "key": key, "split": part} for kind, key, part in files]
    concepts = [
        Concept("sheep", "Animals & Nature", True, plural="sheep", keys=["noto/sheep", "fxemoji/sheep"]).record(),
        Concept("apple", "Food & Drink", False, plural="apples", keys=["noto/apple", "twemoji/apple"]).record(),
    ]
    path = tmp_path / "data.npz"
    texts = {"records": records, "concepts": concepts, "related": {}}
    np.savez(
        path,
        blob=np.frombuffer(b"".join(blobs), np.uint8),
        ends=np.cumsum([len(blob) for blob in blobs]),
        **{name: np.frombuffer(json.dumps(data).encode(), np.uint8) for name, data in texts.items()},
    )
    return path


def keys(pack: Pack) -> set[str]:
    return {sprite.key for sprites in pack.sprites.values() for sprite in sprites}


def test_training_and_test_files_never_meet(pack_path):
    assert keys(Pack(pack_path)) == {"noto/sheep", "noto/apple"}
    assert keys(Pack(pack_path, "test")) == {"fxemoji/sheep", "twemoji/apple"}
    assert keys(Pack(pack_path, "test", "known")) == {"twemoji/apple"}
    assert keys(Pack(pack_path, "test", "unseen")) == {"fxemoji/sheep"}
    assert len(Pack(pack_path).backgrounds) == len(Pack(pack_path, "test").backgrounds) == 1


def test_alphas_are_where_the_things_are(pack_path):
    pack, cfg = Pack(pack_path), Config()
    cfg = replace(cfg, scenes=replace(cfg.scenes, shadow=0))
    rng = np.random.default_rng(1)
    for _ in range(20):
        scene = compose(rng, pack, cfg, (96, 128), 1, "solid", clean=True, names=["apple"])
        assert scene.image.shape == (96, 128, 3)
        assert scene.alphas.shape == (1, 96, 128)
        inside, outside = scene.alphas[0] > 0.99, scene.alphas[0] < 0.01
        red = scene.image[inside].mean(axis=0)
        assert red[0] > red[1] + 60
        assert scene.image[outside].std(axis=0).max() < 2
        assert "apple" in scene.caption or "red" in scene.caption


def test_restyling_changes_the_colours_and_hardly_the_outline():
    from scenes import restyle

    rng, changed_ = np.random.default_rng(3), 0
    sprite = np.zeros((64, 64, 4), np.float32)
    sprite[12:52, 12:52] = (0.8, 0.3, 0.2, 1.0)
    sprite[12:52, 12:32, :3] = (0.2, 0.5, 0.8)
    for _ in range(40):
        other = restyle(rng, sprite.copy(), 64)
        assert other.shape == sprite.shape
        assert other.dtype == np.float32
        assert other.min() >= 0
        assert other.max() < 1.001
        assert np.abs(other[..., 3] - sprite[..., 3]).mean() < 0.12
        changed_ += np.abs(other - sprite).max() > 0.02
    assert changed_ > 30


def test_the_same_seed_gives_the_same_scene(pack_path):
    pack = Pack(pack_path)
    one, two = (compose(np.random.default_rng(5), pack, Config(), (64, 64)) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    assert one.caption == two.caption


def test_core_names_get_their_share(pack_path):
    pack, cfg = Pack(pack_path), Config()
    shares = dict(zip(pack.names, pack.shares(cfg.scenes), strict=True))
    total = cfg.scenes.core + (1 - cfg.scenes.core - cfg.scenes.people)
    assert shares["sheep"] == pytest.approx(cfg.scenes.core / total)


# ---------------------------------------------------------------- names


def wordnet(folder: Path) -> WordNet:
    """Five senses in the format of wndb(5WN): animal > dog > poodle; apple is a fruit."""
    (folder / "data.noun").write_text(
        "  1 licence\n"
        "00000010 05 n 01 animal 0 000 | a living thing\n"
        "00000020 05 n 02 dog 0 domestic_dog 0 001 @ 00000010 n 0000 | barks\n"
        "00000030 05 n 01 poodle 0 001 @ 00000020 n 0000 | curly\n"
        "00000040 13 n 01 fruit 0 000 | sweet\n"
        "00000050 13 n 01 apple 0 001 @ 00000040 n 0000 | round\n"
    )
    (folder / "index.noun").write_text(
        "  1 licence\n"
        "animal n 1 0 1 1 00000010\ndog n 1 1 @ 1 1 00000020\npoodle n 1 1 @ 1 0 00000030\n"
        "fruit n 1 0 1 1 00000040\napple n 1 1 @ 1 1 00000050\n"
    )
    return WordNet(folder)


def test_wordnet_gives_kinds_synonyms_and_relatives(tmp_path):
    words = wordnet(tmp_path)
    assert words.kinds("poodle", "Animals & Nature") == ["animal", "dog"]
    assert words.kinds("apples", "Food & Drink") == ["fruit"]
    assert words.synonyms("dog", "Animals & Nature") == ["domestic dog"]
    assert words.related({"dog": "Animals & Nature"}) == {"poodle": "dog"}


def test_every_icon_becomes_a_concept(tmp_path):
    files = {"icon": ["noto/dog", "noto/poodle", "noto/red-heart"], "stamp": [], "clip": ["animals/poodle_01.png"]}
    categories = {name: [] for name in ("Activities", "Objects", "Travel & Places", "People & Body")}
    categories |= {"Animals & Nature": ["dog", "poodle"], "Food & Drink": [], "Smileys & Emotion": ["red-heart"]}
    concepts = {c.name: c for c in build(files, categories, wordnet(tmp_path), {})}
    assert {"dog", "heart"} <= set(concepts)
    assert "noto/poodle" in concepts["dog"].keys
    assert concepts["dog"].core
    assert spoken("womans-boot") == "woman's boot"


# ---------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonal_flattens_the_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    both = orthogonal(torch.stack([matrix, 3 * matrix]))  # each of a batch, whatever its size
    flat = both[0]
    torch.testing.assert_close(both[1], flat, atol=0.02, rtol=0)
    values = torch.linalg.svdvals(flat)
    assert values.max() < 1.35
    assert values.min() > 0.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(flat.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_muon_descends():
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(3, 8, 3), torch.randn(4, 3, 8, 8)
    goal = torch.nn.Conv2d(3, 8, 3)(x).detach()
    optimiser = Muon([layer.weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (layer(x) - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert is_matrix("mid.conv1.weight", layer.weight)
    assert not is_matrix("mid.conv1.bias", layer.bias)


# ---------------------------------------------------------------- going on from a release


def released_text(folder: Path, pack: Pack, tokenizer, seed: int):
    """A text encoder with random weights, saved as a release with its tokenizer."""
    from config import DenoiserConfig
    from text import build_text_encoder

    encoder = build_text_encoder(DenoiserConfig(), tokenizer, pack, seed)
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return encoder


def test_a_run_goes_on_from_the_released_words(pack_path, tmp_path):
    """One vocabulary: every weight is carried over. Another: the words that the release had learnt keep their embeddings."""
    from config import DenoiserConfig
    from text import build_text_encoder, build_tokenizer, transplant, words

    pack, texts = Pack(pack_path), words([SHEEP, APPLE])
    old = build_tokenizer(texts, 24, 600)
    released = released_text(tmp_path / "released", pack, old, seed=1)
    (tmp_path / "released" / "vocabulary.json").write_text("{}")
    same = build_text_encoder(DenoiserConfig(), old, pack, 2)
    assert transplant(same, old, pack, tmp_path / "released") == len(old.get_vocab())
    for name, tensor in released.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name
    new = build_tokenizer([*texts, "zebra zebra zebra", "quagga"], 24, 620)
    other = build_text_encoder(DenoiserConfig(), new, pack, 2)
    transplant(other, new, pack, tmp_path / "released")
    sheep_old, sheep_new = old("sheep").input_ids[1], new("sheep").input_ids[1]
    before, after = (e.get_input_embeddings().weight for e in (released, other))
    assert torch.equal(after[sheep_new], before[sheep_old])
    assert sheep_old != sheep_new or old.get_vocab() != new.get_vocab()


ONE_LEVEL, BOTH_LEVELS = (False, True), (True, True)  # that read the caption


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        (1, 2, ONE_LEVEL, ONE_LEVEL),
        (2, 3, ONE_LEVEL, ONE_LEVEL),
        (1, 3, BOTH_LEVELS, BOTH_LEVELS),
        (2, 2, ONE_LEVEL, BOTH_LEVELS),
        (1, 3, ONE_LEVEL, BOTH_LEVELS),
    ],
)
def test_a_larger_unet_begins_as_the_released_one(old, new, before, after):
    from grow import grow
    from step3_denoiser import build_unet

    def unet(layers: int, attention: tuple[bool, ...], channels: tuple[int, ...] = (32, 64)):
        denoiser = replace(Config().denoiser, layers=layers, channels=channels, attention=attention)
        return build_unet(replace(Config(), denoiser=denoiser)).eval()

    torch.manual_seed(0)
    released, larger = unet(old, before), unet(new, after)
    noisy, t, text = torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), torch.randn(2, 24, 192)
    with torch.no_grad():
        goal = released(noisy, t, text).sample
        assert (larger(noisy, t, text).sample - goal).abs().max() > 1e-2
        assert grow(released.state_dict(), larger)
        torch.testing.assert_close(larger(noisy, t, text).sample, goal, atol=1e-5, rtol=0)
    larger(noisy, t, text).sample.square().sum().backward()
    still = [name for name, weight in larger.named_parameters() if weight.grad is None]
    assert not still  # the new layers have a gradient: they learn
    assert not grow(larger.state_dict(), released)  # nor does one shrink
    wider = unet(new, after, (32, 96))
    were = {name: weight.clone() for name, weight in wider.state_dict().items()}
    assert not grow(released.state_dict(), wider)
    assert all(torch.equal(weight, were[name]) for name, weight in wider.state_dict().items())


# ---------------------------------------------------------------- what is trained on, and for how long


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_made_ready_where_they_are_composed(pack_path, workers):
    from common import batches
    from step3_denoiser import Preparation
    from text import build_tokenizer, words

    pack, cfg = Pack(pack_path), replace(Config(), shapes=((32, 48),))
    tokenizer = build_tokenizer(words([SHEEP, APPLE]), cfg.denoiser.text_tokens, 600)
    batch = next(batches(cfg, pack, 4, seed=1, workers=workers))
    ready = next(batches(cfg, pack, 4, seed=1, workers=workers, prepare=Preparation(cfg, tokenizer)))
    assert torch.equal(ready.pictures, batch.pictures)
    assert ready.names == batch.names
    said = tokenizer.batch_decode(ready.tokens, skip_special_tokens=True)
    assert ready.tokens.shape == (4, 24)
    assert [text.split() for text in said] == [caption.lower().split() for caption in batch.captions]
    assert ready.weight.shape == (4, 1, 8, 12)
    assert float(ready.weight.mean()) == pytest.approx(1)
    cover = torch.nn.functional.avg_pool2d(batch.cover, 4)
    most, least = (ready.weight[cover == level].mean() for level in (cover.max(), cover.min()))
    assert float(most / least) == pytest.approx((1 + 2 * float(cover.max())) / (1 + 2 * float(cover.min())), rel=1e-4)


class Numbers(NamedTuple):
    """What `counted` keeps of a batch."""

    pictures: torch.Tensor
    captions: list[str]


def counted(batch) -> Numbers:
    return Numbers(batch.pictures, batch.captions)


def numbered(shapes: list[tuple[int, int]], limit: int = 1000):
    """A stream of batches of four; each picture is filled with the number that its caption says."""
    from common import Batch

    for i in range(limit):
        height, width = shapes[i % len(shapes)]
        numbers = torch.arange(4 * i, 4 * i + 4)
        pictures = numbers.view(4, 1, 1, 1).expand(4, height, width, 3)
        yield Batch(pictures, [str(n) for n in numbers.tolist()], [[]] * 4, torch.ones(4, 1, height, width))


@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_mixture_keeps_pictures_and_captions_together_and_shapes_apart(share):
    from common import Source

    torch.manual_seed(0)
    source = Source(numbered([(8, 8), (8, 8), (6, 10)]), counted, 8 if share is None else 4, 16, share)
    seen = []
    for _ in range(60):
        batch = next(source)
        assert len(batch.captions) == len(batch.pictures)
        assert batch.pictures[:, 0, 0, 0].tolist() == [int(text) for text in batch.captions]
        seen += batch.captions
    assert len(source.kept) <= 16
    if share == 0:
        assert seen == [str(i) for i in range(240)]  # every scene once, in order
    else:
        assert len(set(seen)) < len(seen)
    if share == 0.5:
        assert source.composed == pytest.approx(120, abs=40)
    if share is None:
        assert len(next(source).captions) == 8


def test_a_stream_that_breaks_is_heard_of():
    from common import Source

    def broken():
        yield from numbered([(8, 8)], 3)
        raise OSError("the pack is gone")

    source = Source(broken(), counted, 4, 16, 0.0)
    for _ in range(3):
        next(source)
    with pytest.raises(OSError, match="the pack is gone"):
        next(source)


def test_a_run_is_as_long_as_its_steps_or_its_minutes(monkeypatch):
    import common

    now = [100.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    assert common.Length(400).done(100) == 0.25
    timed = common.Length(400, minutes=2)
    now[0] += 30
    assert timed.done(399) == 0.25
    now[0] += 90
    assert timed.done(0) == 1.0
    assert common.Length(400, minutes=2, before=0.75).done(0) == 0.75
    assert common.Length(400, minutes=2, before=1.0).done(0) == 1.0


def test_set_changes_the_configuration_and_refuses_what_it_does_not_know():
    from config import changed

    cfg = changed(Config(), ["seed=9", "denoiser.lr=2e-3", "denoiser.min_snr=5", "denoiser.prediction_type=epsilon"])
    assert (cfg.seed, cfg.denoiser.lr, cfg.denoiser.min_snr) == (9, 2e-3, 5.0)
    assert cfg.denoiser.prediction_type == "epsilon"
    assert replace(cfg, seed=Config().seed, denoiser=Config().denoiser) == Config()
    for wrong in (
        "denoiser.speed=2",
        "lr=1",
        "denoiser.layers=two",
        "denoiser.layers=1.5",
        "denoiser",
        "denoiser=1",
        "seed.a=1",
    ):
        with pytest.raises(SystemExit, match=f"--set {wrong}: "):
            changed(Config(), [wrong])


# ---------------------------------------------------------------- precision and rate


@pytest.mark.parametrize("native", [True, False])
def test_half_precision_only_where_the_processor_multiplies_it(monkeypatch, native):
    from common import half

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native}, raising=False)
    matrix = torch.eye(4)
    with half("cpu"):
        assert (matrix @ matrix).dtype == (torch.bfloat16 if native else torch.float32)


def test_the_rate_rises_stays_and_falls_to_zero():
    from common import trapezoid

    rates = [trapezoid(step, step / 1000, warmup=100, decay=0.5) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99:501] == pytest.approx([1.0] * 402)
    assert rates[750] == pytest.approx(0.5)
    assert rates[1000] == 0.0


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize(("shape", "groups"), [((3, 12, 8, 10), 4), ((2, 64, 5, 5), 32), ((2, 6, 4, 4), 1)])
def test_the_faster_group_norm_is_group_norm(shape, groups, offset):
    """In float64, against PyTorch's own and by finite differences; in bfloat16, through the layer, to its precision."""
    from norm import GroupNormFunction, faster_norms

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + offset
    x = x.to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    goal = torch.nn.functional.group_norm(inputs[0], groups, inputs[1], inputs[2])
    torch.testing.assert_close(GroupNormFunction.apply(*inputs, groups, 1e-5), goal, atol=1e-4, rtol=1e-4)
    asked = torch.randn(shape, generator=generator, dtype=torch.float64)
    goals = torch.autograd.grad(goal, inputs, asked)
    found = torch.autograd.grad(GroupNormFunction.apply(*inputs, groups, 1e-5), inputs, asked)
    torch.testing.assert_close(found, goals, atol=1e-4, rtol=1e-4)
    layer = torch.nn.Sequential(torch.nn.GroupNorm(groups, shape[1])).bfloat16()
    half = x.bfloat16()
    before = layer(half)
    names = set(layer.state_dict())
    faster_norms(layer)
    assert set(layer.state_dict()) == names
    after = layer(half)
    assert type(layer[0]) is not torch.nn.GroupNorm
    assert after.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before, atol=0.06, rtol=0.02)


# ---------------------------------------------------------------- alignment


def test_the_middle_is_what_leaves_the_unets_middle_block():
    from align import middle
    from config import Config
    from step3_denoiser import build_unet

    torch.manual_seed(0)
    unet = build_unet(Config()).eval()
    noisy, t, text = torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), torch.randn(2, 24, 192)
    seen = []
    handle = unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        unet(noisy, t, text)
        handle.remove()
        torch.testing.assert_close(middle(unet, noisy, t, text), seen[0])


def test_alignment_learns_which_names_a_picture_speaks_of_wherever_they_are():
    from align import Aligner
    from config import DenoiserConfig
    from text import build_tokenizer

    torch.manual_seed(0)
    names = ["sheep", "red apple", "car", "boat"]
    tokenizer = build_tokenizer(names * 3, 12, 600)
    text = released_like_text(tokenizer)
    aligner = Aligner(8, DenoiserConfig().text_width, names, tokenizer)
    *looks, ground = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) * 3
    optimiser = torch.optim.Adam([*aligner.parameters(), *text.parameters()], lr=3e-3)

    def scene() -> tuple[torch.Tensor, list[list[str]]]:
        features, shown = ground.view(1, 8, 1, 1) + 0.1 * torch.randn(8, 8, 4, 4), []
        for picture in features:
            things = torch.randperm(4)[: int(torch.randint(1, 3, ()))].tolist()
            for thing in things:
                picture[:, torch.randint(4, ()), torch.randint(4, ())] = looks[thing]
            shown.append([names[i] for i in things])
        return features, shown

    losses = []
    for _ in range(120):
        features, shown = scene()
        loss = aligner(features, text, shown, torch.ones(8), others=4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    features = ground.view(1, 8, 1, 1) + 0.1 * torch.randn(4, 8, 4, 4)
    features[:, :, 3, 1] = torch.stack(looks)
    with torch.no_grad():
        best = aligner.logits(features, text, torch.arange(4)).argmax(dim=1)
    assert best.tolist() == [0, 1, 2, 3]


def released_like_text(tokenizer):
    """A text encoder of the denoiser's own size, random."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from config import DenoiserConfig

    width = DenoiserConfig().text_width
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def test_pictures_for_the_dual_encoder_are_disturbed_each_in_its_way():
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1, -1)
    torch.manual_seed(1)
    disturbed = disturbance()(pictures)
    assert disturbed.shape == pictures.shape
    assert 0 <= disturbed.min() <= disturbed.max() <= 1
    assert len({tuple(picture.flatten().tolist()) for picture in disturbed}) > 6
