"""Reading every kind of picture, refusing the rest in one sentence, and sizes there and back."""

import io
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peekaboo.errors import ImageError, PeekabooError
from peekaboo.guides import read_guide
from peekaboo.images import MIN_SIDE, model_size, read_image, to_model
from peekaboo.refine import upsample


@pytest.fixture(scope="module")
def gradient() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([4 * x, 6 * y, 128 + 0 * x], axis=-1).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_a_path_a_pil_image_and_arrays_are_the_same_picture(tmp_path, gradient):
    path = saved(tmp_path / "a.png", Image.fromarray(gradient))
    for given_as in (path, str(path), Image.open(path), gradient, gradient.astype(np.float64) / 255):
        np.testing.assert_array_equal(read_image(given_as).rgb, gradient)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode, gradient):
    rgb = Image.fromarray(gradient)
    if mode in {"I;16", "I"}:
        image = Image.fromarray(gradient[..., 0].astype(np.uint16) * 257).convert(mode)
    elif mode == "F":
        image = Image.fromarray(gradient[..., 0].astype(np.float32) / 255)
    else:
        image = rgb.convert(mode)
    picture = read_image(image)
    assert picture.rgb.shape == (40, 60, 3)
    assert picture.rgb.dtype == np.uint8
    if mode in {"I;16", "I", "F"}:
        np.testing.assert_allclose(picture.rgb[..., 1], gradient[..., 0], atol=1)


def test_cmyk_jpeg_keeps_its_colours(tmp_path, gradient):
    path = saved(tmp_path / "c.jpg", Image.fromarray(gradient).convert("CMYK"), quality=95)
    assert np.abs(read_image(path).rgb.astype(int) - gradient).mean() < 6


def test_exif_orientation_is_applied(tmp_path, gradient):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    path = saved(tmp_path / "turned.jpg", Image.fromarray(gradient), exif=exif, quality=100, subsampling=0)
    picture = read_image(path)
    assert picture.size == (60, 40)
    assert np.abs(picture.rgb.astype(int) - np.rot90(gradient, -1)).mean() < 4


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path, gradient):
    frames = [Image.fromarray(gradient), Image.fromarray(255 - gradient)]
    path = saved(tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    picture = read_image(path)
    np.testing.assert_array_equal(picture.rgb, gradient)
    assert "animated with 2 frames" in picture.notes[0]


@pytest.mark.parametrize(("bits", "noted"), [(8, False), (10, True), (12, True), (14, True), (16, False)])
def test_grey_of_fewer_bits_in_a_file_of_sixteen_is_seen_whole(tmp_path, bits, noted):
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16)
    path = saved(tmp_path / "camera.tif", Image.fromarray(np.tile(ramp, (20, 1))))
    picture = read_image(path)
    assert np.abs(picture.rgb[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert any(f"as one of {bits} bits" in note for note in picture.notes) == noted


def test_pages_are_no_animation(tmp_path, gradient):
    pages = [Image.fromarray(gradient), Image.fromarray(255 - gradient)]
    picture = read_image(saved(tmp_path / "scan.tif", pages[0], save_all=True, append_images=pages[1:]))
    np.testing.assert_array_equal(picture.rgb, gradient)
    assert "holds 2 pictures; the first one is used" in picture.notes[0]


@pytest.mark.parametrize(("mode", "straight"), [("La", "LA"), ("RGBa", "RGBA")])
def test_premultiplied_colours_are_a_picture(mode, straight):
    image = Image.new(straight, (12, 10), "white").convert(mode)
    assert (read_image(image).rgb == 255).all()
    assert read_guide(image).shape == (10, 12, 1 if straight == "LA" else 3)


def test_a_closed_picture_is_refused(tmp_path, gradient):
    image = Image.open(saved(tmp_path / "a.png", Image.fromarray(gradient)))
    image.close()
    with pytest.raises(ImageError, match="damaged"):
        read_image(image)
    with pytest.raises(ImageError, match="cannot be read"):
        read_guide(image)


def test_transparency_is_seen_on_white_and_kept(gradient):
    rgba = np.dstack([gradient, np.full((40, 60), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    picture = read_image(rgba)
    assert (picture.rgb[:10] == 255).all()
    np.testing.assert_array_equal(picture.rgb[10:], gradient[10:])
    np.testing.assert_array_equal(picture.opacity, rgba[..., 3])
    assert "transparent" in picture.notes[0]


def test_an_opaque_palette_with_transparency_colour_is_plain(tmp_path):
    image = Image.fromarray(np.tile(np.arange(16, dtype=np.uint8), (16, 1)), "P")
    image.putpalette([v for i in range(256) for v in (i * 10 % 256, 0, 0)])
    path = saved(tmp_path / "p.png", image, transparency=3)
    picture = read_image(path)
    assert (picture.rgb[:, 3] == 255).all()
    assert (picture.opacity[:, 3] == 0).all()


def one_sentence(error: PeekabooError) -> str:
    text = str(error)
    assert text.endswith((".", "?"))
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def bomb(path: Path, side: int = 20_000) -> Path:
    """A valid PNG header that promises side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p, g: p / "absent.png", "There is no file"),
        (lambda p, g: p, "is a folder"),
        (lambda p, g: text_file(p / "notes.png"), "not an image"),
        (lambda p, g: truncated(p / "half.png", g), "damaged or truncated"),
        (lambda p, g: truncated(p / "half.jpg", g), "damaged or truncated"),
        (
            lambda p, g: saved(p / "dot.png", Image.new("RGB", (1, 1))),
            "1×1 pixels; each side must be at least 8",
        ),
        (lambda p, g: bomb(p / "bomb.png"), "limit of 150 megapixels"),
        (lambda p, g: bomb(p / "large.png", 12_600), "limit of 150 megapixels"),
        (lambda p, g: np.zeros((3, 40, 60), np.uint8), "HW or HWC with 1, 3 or 4 channels"),
        (lambda p, g: np.full((40, 60, 3), 7.0), "must be in [0, 1]"),
        (lambda p, g: np.full((40, 60, 3), np.nan), "NaN"),
        (lambda p, g: np.zeros((40, 60, 3), np.int32), "int32"),
        (lambda p, g: 42, "int"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path, gradient, make, says):
    with pytest.raises(ImageError) as caught:
        read_image(make(tmp_path, gradient))
    assert says in one_sentence(caught.value)


def text_file(path: Path) -> Path:
    path.write_text("no picture")
    return path


def truncated(path: Path, gradient: np.ndarray) -> Path:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG" if path.suffix == ".png" else "JPEG")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    return path


@given(st.integers(MIN_SIDE, 6000), st.integers(MIN_SIDE, 6000), st.sampled_from([4, 8, 16]))
def test_model_size_keeps_area_and_aspect(height, width, multiple):
    native = 16 * multiple
    h, w = model_size(height, width, native**2, multiple)
    assert h % multiple == 0
    assert w % multiple == 0
    assert min(h, w) >= 4 * multiple
    if max(height / width, width / height) < 4:
        assert 0.75 < h * w / native**2 < 1.35
        assert abs(math.log(w / h) - math.log(width / height)) < math.log(1 + 2.6 * multiple / min(h, w))


def test_a_square_stays_native():
    assert model_size(1000, 1000, 512 * 512, 8) == (512, 512)
    assert model_size(700, 700, 64 * 64, 4) == (64, 64)


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 90), st.integers(8, 90))
def test_resizing_there_and_back_keeps_place_and_range(height, width):
    """A half-plane goes to the model's size and comes back where it was."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, width // 2 :] = 255
    size = model_size(height, width, 64 * 64, 4)
    small = to_model(rgb, size)
    assert small.shape == (1, 3, *size)
    assert 0 <= small.min() <= small.max() <= 1
    back = upsample(small[:, 0], rgb, cell=4.0)
    assert back.shape == (1, height, width)
    assert back.dtype == np.float32
    assert 0 <= back.min() <= back.max() <= 1
    wrong = (back[0] > 0.5) != (rgb[..., 0] > 127)
    assert wrong.mean() <= 1.01 / width  # at most the column of the border


def test_upsampling_moves_edges_to_those_of_the_picture():
    rgb = np.zeros((256, 256, 3), np.uint8)
    rgb[:, 120:] = (200, 180, 40)
    coarse = torch.zeros(1, 16, 16)
    coarse[..., 8:] = 1.0  # the border is at 128, eight pixels off
    truth = rgb[..., 0] > 0
    fine = upsample(coarse, rgb, cell=2.0)[0] > 0.5
    assert (fine != truth).mean() < 0.6 * 8 / 256  # 8 pixels off before


def test_a_very_long_strip_stays_within_four_times_the_area():
    h, w = model_size(8, 100_000, 64 * 64, 4)
    assert h * w <= 4 * 64 * 64
    assert model_size(100_000, 8, 64 * 64, 4) == (w, h)


def test_upsampling_in_strips_gives_what_one_piece_gives(monkeypatch):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (200, 64, 3), np.uint8)
    alpha = torch.rand(2, 16, 8)
    whole = upsample(alpha, rgb, cell=1.0)
    monkeypatch.setattr("peekaboo.refine.STRIP_PIXELS", 64 * 50)
    np.testing.assert_allclose(upsample(alpha, rgb, cell=1.0), whole, atol=2e-3)


def test_guides_of_any_kind_are_stretched_to_the_unit_range(tmp_path):
    depth = np.linspace(3, 9, 48).reshape(6, 8)
    np.save(tmp_path / "depth.npy", depth)
    expected = (depth - 3) / 6
    np.testing.assert_allclose(read_guide(tmp_path / "depth.npy")[..., 0], expected, atol=1e-6)
    np.testing.assert_allclose(read_guide(depth)[..., 0], expected, atol=1e-6)
    grey = Image.fromarray((expected * 255).astype(np.uint8))
    grey.save(tmp_path / "depth.png")
    np.testing.assert_allclose(read_guide(tmp_path / "depth.png")[..., 0], expected, atol=1e-2)
    assert (read_guide(np.full((4, 4), 2.5)) == 0).all()


def test_a_guide_is_seen_as_the_picture_is(tmp_path):
    ramp = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    palette = Image.fromarray(59 - ramp, mode="P")
    palette.putpalette([value for index in range(256) for value in 3 * [max(0, 59 - index)]])
    np.testing.assert_allclose(read_guide(palette)[..., 0], ramp / 59, atol=1e-6)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path / "turned.png", Image.fromarray(ramp), exif=exif)
    np.testing.assert_allclose(read_guide(turned)[..., 0], np.rot90(ramp, -1) / 59, atol=1e-6)
    assert read_guide(Image.fromarray(ramp).convert("RGBA")).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("guide", "says"),
    [
        ("absent.npy", "no guide file"),
        (np.zeros((2, 2, 2, 2)), "HW or HWC"),
        (np.array([[np.nan, 1.0]]), "NaN"),
        (np.array([["a"]]), "numbers"),
        ("a" * 300, "cannot be opened"),
        (torch.rand(2, 2), "a path, a PIL image or a NumPy array"),
    ],
)
def test_a_bad_guide_is_refused(guide, says):
    with pytest.raises(ImageError, match=says):
        read_guide(guide)


def test_a_pickled_guide_is_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="cannot be read"):
        read_guide(tmp_path / "evil.npy")
