"""What a Segmentation makes of its alphas, and that files are written whole or not at all."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peekaboo.errors import OutputError, PromptError
from peekaboo.files import check_writable, distinct, slug, write_all
from peekaboo.images import Picture
from peekaboo.result import Segmentation, run_lengths
from peekaboo.settings import preset


@pytest.fixture
def result() -> Segmentation:
    rng = np.random.default_rng(0)
    alpha = np.zeros((3, 30, 40), np.float32)
    alpha[0, 5:15, 10:30] = 0.9
    alpha[0, 5:15, 30] = 0.3
    alpha[1, 20:, :] = 1.0
    picture = Picture(rng.integers(0, 255, (30, 40, 3), np.uint8))
    score = np.array([0.9, 0.8, 0.1], np.float32)
    return Segmentation(alpha, score, ["a sheep", "a Sheep!", "羊 / \\ ."], preset(), picture, {"model": "x"})


def test_mask_and_found_follow_the_threshold(result):
    assert result.mask.dtype == bool
    assert result.mask[0].sum() == 200
    assert result.found.tolist() == [True, True, False]


def test_cutout_is_the_picture_with_straight_alpha(result):
    for cutout in (result.cutout(0), result.cutout(0, decontaminate=False)):
        np.testing.assert_array_equal(np.asarray(cutout)[..., 3], np.round(result.alpha[0] * 255))
    np.testing.assert_array_equal(np.asarray(cutout)[..., :3], result.picture.rgb)
    opaque = np.asarray(result.cutout(1))
    np.testing.assert_array_equal(opaque[20:, :, :3], result.picture.rgb[20:])


def test_a_cutout_is_asked_for_by_number_or_by_prompt(result):
    assert np.array_equal(result.cutout("a Sheep!"), result.cutout(1))
    assert np.array_equal(result.cutout(-2), result.cutout(np.int64(1)))
    for wrong in ("a cow", 3, -4):
        with pytest.raises(PromptError, match=r"there are 0 \('a sheep'\), 1"):
            result.cutout(wrong)


def test_cutout_keeps_what_was_transparent_transparent(result):
    opacity = np.full((30, 40), 255, np.uint8)
    opacity[:10] = 0
    picture = Picture(result.picture.rgb, opacity)
    other = Segmentation(result.alpha, result.score, result.prompts, result.settings, picture)
    alpha = np.asarray(other.cutout(0))[..., 3]
    assert (alpha[:10] == 0).all()
    assert (alpha[10:15, 10:30] == 230).all()


def test_overlay_shows_each_mask_in_its_own_colour(result):
    overlay = np.asarray(result.overlay()).astype(int)
    assert overlay.shape == (30, 40, 3)
    assert tuple(overlay[5, 20]) == (255, 64, 64)
    assert tuple(overlay[20, 3]) == (64, 160, 255)


def decode(rle) -> np.ndarray:
    values = np.repeat(np.arange(len(rle["counts"])) % 2, rle["counts"])
    return values.reshape(rle["size"], order="F").astype(bool)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_run_lengths_decode_to_the_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    np.testing.assert_array_equal(decode(run_lengths(mask)), mask)


def test_coco_has_one_annotation_for_each_thing_found(result):
    coco = result.to_coco(image_id=7, first_id=3)
    assert coco["images"] == [{"id": 7, "width": 40, "height": 30}]
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2]
    first = coco["annotations"][0]
    assert (first["id"], first["image_id"], first["area"], first["bbox"]) == (3, 7, 200, [10, 5, 20, 10])
    np.testing.assert_array_equal(decode(first["segmentation"]), result.mask[0])
    json.dumps(coco)


def test_saving_writes_every_file_at_the_pictures_size(result, tmp_path):
    record = result.save(tmp_path / "out")
    assert [r["files"]["mask"] for r in record["results"]] == [
        "a-sheep/mask.png",
        "a-sheep-2/mask.png",
        "羊/mask.png",
    ]
    assert record == json.loads((tmp_path / "out" / "run.json").read_text())
    for row in record["results"]:
        for kind, mode in (("alpha", "L"), ("mask", "L"), ("cutout", "RGBA"), ("overlay", "RGB")):
            image = Image.open(tmp_path / "out" / row["files"][kind])
            assert (image.mode, image.size) == (mode, (40, 30))
    mask = np.asarray(Image.open(tmp_path / "out" / "a-sheep" / "mask.png"))
    np.testing.assert_array_equal(mask, result.mask[0] * 255)
    assert record["settings"]["gravity"] == result.settings.gravity
    assert not list(tmp_path.rglob("*.partial"))


@given(st.text(max_size=300))
def test_a_slug_is_a_safe_file_name(text):
    name = slug(text)
    assert 0 < len(name.encode()) <= 60
    assert name == Path(name).name
    assert not set(name) & set('/\\:*?"<>|. \0')


def test_names_that_clash_get_a_suffix():
    assert distinct(["a", "A", "a", "b", "a-2"]) == ["a", "A-2", "a-3", "b", "a-2-2"]


def test_a_disk_that_fills_up_midway_leaves_everything_as_it_was(tmp_path, monkeypatch):
    before = {tmp_path / name: b"before" for name in ("a", "b", "c")}
    write_all(before)
    calls = []
    original = Path.write_bytes

    def full(self, data):
        calls.append(self)
        original(self, data[:3])
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_all(dict.fromkeys(before, b"after all"))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_in_the_way_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        write_all({tmp_path / name: b"new" for name in "abc"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"in the way; choose another --out"):
        check_writable(tmp_path / "file" / "out")
