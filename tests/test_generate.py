"""Pictures with transparency: the algebra in closed form, a denoiser whose answer is known, and files on the command line."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import tiny
from peekaboo import GenerateSettings, Peekaboo, consensus, generate, rgba
from peekaboo.cli import app
from peekaboo.errors import NumericalError, OutputError, PromptError, SettingsError
from peekaboo.evaluation import iou
from peekaboo.settings import generate_preset
from toys import Toy

SIZE = (24, 32)


class Disc(Toy):
    """Under "a red disc", z is the latent of red within a disc, nearly for certain, and anything at all around it; under any
    other prompt anything anywhere. The best prediction is Gaussian in every place, as the toy's."""

    WIDE = 1.0

    def inside(self, shape) -> torch.Tensor:
        y, x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape)
        return (y[:, None] ** 2 + x[None] ** 2) < (min(shape) / 3) ** 2

    def predict(self, noisy, t, embeddings):
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        known = self.inside(noisy.shape[-2:]) & (embeddings[:, 0].abs().sum(dim=-1) > 0)[:, None, None]
        spread = torch.where(known, 0.01, self.WIDE)[:, None]
        mean = torch.where(known[:, None], embeddings[:, 0, :, None, None], 0.0)
        return (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * spread**2 + 1 - a)


@given(st.integers(2, 7), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_triangulation_recovers_what_was_blended(count, seed):
    """αx and α from pictures of one thing on K known backgrounds, exactly."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(3, 5, 6, generator=generator, dtype=torch.float64)
    alpha = torch.rand(5, 6, generator=generator, dtype=torch.float64)
    backgrounds = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    pictures = consensus.blend(alpha * colour, alpha, backgrounds)
    premultiplied, found = consensus.triangulate(pictures, backgrounds)
    torch.testing.assert_close(found, alpha)
    torch.testing.assert_close(premultiplied, alpha * colour)


def test_opposite_colours_are_grey_together():
    colours = consensus.opposite_colours(6, torch.Generator().manual_seed(0))
    assert colours.shape == (6, 3)
    torch.testing.assert_close(colours.mean(dim=0), torch.full((3,), 0.5))
    assert consensus.opposite_colours(5, torch.Generator()).shape == (5, 3)


def test_stretching_makes_clear_clear_and_full_full_and_leaves_the_clean_alone():
    clean = torch.zeros(20, 20)
    clean[5:15, 5:15] = 1
    torch.testing.assert_close(consensus.stretch(clean), clean)
    hazy = 0.3 + 0.4 * clean
    torch.testing.assert_close(consensus.stretch(hazy), clean)


def test_the_consensus_finds_the_disc_its_colour_and_nothing_else():
    toy = Disc()
    embeddings = toy.encode_prompt(["a red", ""])
    *_, (premultiplied, alpha) = consensus.sample(
        toy, embeddings[:1], embeddings[1:], SIZE, 12, 6, 1.0, torch.Generator().manual_seed(0)
    )
    truth = toy.inside((6, 8)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert alpha[truth].min() > 0.9
    assert alpha[~truth].mean() < 0.05
    assert alpha[~truth].max() < 0.5
    assert premultiplied[0][truth].min() > 0.85
    assert premultiplied[1:, truth].max() < 0.15


@pytest.mark.parametrize("alpha", ["raster", "fourier"])
def test_the_descent_alone_paints_what_the_prompt_says(alpha):
    """From nothing: red in the disc, on any background."""
    rate = {"raster": 0.2, "fourier": 5e-3}[alpha]
    made = generate_preset("paper", alpha=alpha, steps=60, guidance_scale=1.0, learning_rate=rate, t_max=0.6)
    *_, last = generate.run(Disc(), "a red", SIZE, made)
    truth = Disc().inside((6, 8)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    on_green = last.alpha * last.colour + (1 - last.alpha) * torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    red = on_green[0] - on_green[1]
    assert red[truth].mean() > 0.5
    assert red[truth].mean() > red[~truth].mean() + 0.4


def test_the_gradient_is_that_of_the_loss_by_hand(toy):
    """sds at guidance s: w(t)(ε̂ − ε) pulled back through the linear encoder, mean over the backgrounds."""
    s = generate_preset("paper", draws=1, guidance_scale=3.0)
    composites = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    embeddings = toy.encode_prompt(["red", ""])
    got = generate.composite_gradient(toy, embeddings, composites.clone(), s, torch.Generator().manual_seed(2))
    from peekaboo import distill

    generator = torch.Generator().manual_seed(2)
    latents = toy.encode(composites)
    t = distill.draw_timesteps(1, s.t_min, s.t_max, 1000, generator)
    noise = distill.draw_noise(1, latents, generator)[0]
    a = toy.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = toy.add_noise(latents, noise.expand_as(latents), t.expand(2))
    prompt, null = (toy.predict(noisy, t.expand(2), e[None].expand(2, -1, -1)) for e in embeddings)
    score = (1 - a) * (null + 3.0 * (prompt - null) - noise)
    spread = score.repeat_interleave(4, 2).repeat_interleave(4, 3) / 16
    expected = 2 * torch.einsum("cd,bchw->bdhw", toy.matrix, spread) / 2
    torch.testing.assert_close(got, expected)


def test_straight_colours_have_no_halo():
    """A half-transparent rim keeps the thing's own colour, and the colour goes on outside, however far."""
    alpha = torch.zeros(9, 40)
    alpha[3:6, 3:6] = 1
    alpha[3:6, 6] = 0.5
    red = torch.tensor([0.8, 0.1, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(rgba.straight(red * alpha, alpha), red.expand(3, 9, 40), atol=1e-4, rtol=1e-3)
    image = rgba.to_image(rgba.straight(red * alpha, alpha), alpha, (36, 160))
    pixels = np.asarray(image)
    assert np.abs(pixels[..., :3].astype(int) - [204, 26, 51]).max() <= 1
    empty = rgba.straight(torch.zeros(3, 4, 4), torch.zeros(4, 4))
    assert torch.isfinite(empty).all()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_saving_keeps_the_colours_under_what_is_transparent(model, tmp_path, suffix):
    made = model.generate("a red", start_steps=3)
    made.save(tmp_path / f"red{suffix}")
    with Image.open(tmp_path / f"red{suffix}") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(made.image))


def test_a_server_in_inference_mode_gets_the_same_picture(model):
    expected = model.generate("a red", start_steps=3, steps=2).image
    with torch.inference_mode():
        assert model.generate("a red", start_steps=3, steps=2).image.tobytes() == expected.tobytes()


@pytest.fixture
def model() -> Peekaboo:
    return Peekaboo(Disc())


def test_any_size_and_aspect(model):
    for height, width, expected in ((None, None, (32, 32)), (40, 100, (40, 100)), (200, None, (200, 200))):
        made = model.generate("a red", height=height, width=width, start_steps=3)
        assert made.image.mode == "RGBA"
        assert made.image.size == expected[::-1]
        assert made.steps == 4  # the last is the cut


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(model):
    one, two, other = (model.generate("a red", start_steps=4, steps=2, seed=s).image.tobytes() for s in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.parametrize("start", ["sample", "consensus"])
def test_a_sample_of_the_disc_is_the_disc(start):
    """Both ways of sampling: red inside, and, of the way that cuts, nothing outside."""
    made = Peekaboo(Disc()).generate("a red", start=start, start_guidance=1.0, seed=1)
    pixels = np.asarray(made.image).astype(int)
    truth = Disc().inside((8, 8)).repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
    inside = pixels[truth]
    assert (inside[:, 0] - inside[:, 1]).mean() > 100
    assert iou(pixels[..., 3] > 127, truth) > 0.8


def test_a_plain_sample_is_what_diffusers_own_loop_makes():
    """DDPM on the denoiser's schedule is diffusers' own on the same betas: here, of a random Stable Diffusion."""
    from peekaboo import sampling
    from peekaboo.denoisers import adapt

    pipe = tiny.stable_diffusion()
    denoiser = adapt(pipe)
    told = denoiser.encode_prompt(["a b", ""])
    *_, ours = sampling.sample(denoiser, told[:1], told[1:], (32, 48), 7, 3.0, torch.Generator().manual_seed(4))
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, steps_offset=1)
    generator = torch.Generator().manual_seed(4)
    options = {"height": 32, "width": 48, "num_inference_steps": 7, "guidance_scale": 3.0, "output_type": "pt"}
    noise = torch.randn(1, 1, 4, 8, 12, generator=generator)[0]
    theirs = pipe("a b", latents=noise, generator=generator, **options)
    torch.testing.assert_close(ours, theirs.images[0], atol=2e-3, rtol=1e-3)


def test_where_nothing_is_found_nothing_is_cut_out(model, monkeypatch):
    monkeypatch.setattr("peekaboo.pipeline.Run.alphas", lambda run: torch.zeros(1, *run.grid))
    made = model.generate("a red", start_steps=3)
    assert made.image.getextrema()[3] == (255, 255)
    assert "could not be told from the rest" in made.record["notes"][0]


def test_a_negative_prompt_has_a_say():
    model = Peekaboo(Toy())
    plain = model.generate("red", start_steps=4)
    away = model.generate("red", start_steps=4, negative_prompt="green")
    assert plain.image.tobytes() != away.image.tobytes()


def test_steps_are_seen_and_a_run_can_be_left(model):
    seen = []
    model.generate("a red", start_steps=3, steps=2, on_step=seen.append)
    assert [(d.index, d.total) for d in seen] == [(n, 6) for n in range(1, 7)]
    making = model.start_generation("a red", start_steps=3)
    next(iter(making))
    record = making.result().record
    assert (record["steps_done"], record["steps_asked"], record["interrupted"]) == (1, 4, True)
    assert model.start_generation("a red").result().image.getextrema()[3] == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [{"backgrounds": 1}, {"start": "noise", "steps": 0}, {"estimator": "clip"}, {"t_min": 0.9}, {"nothing": 1}],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(SettingsError):
        generate_preset("default", **changes)


def test_bad_input_is_refused(model, tmp_path):
    with pytest.raises(PromptError):
        model.generate("  ")
    with pytest.raises(PromptError, match="one prompt"):
        model.generate(["a red", "a blue"])
    for size in ({"height": 3}, {"width": 10_000}, {"height": 0, "width": 64}, {"height": 64, "width": 0}):
        with pytest.raises(SettingsError, match="8 to 4096"):
            model.generate("a red", **size)
    with pytest.raises(SettingsError, match="paper"):
        model.generate("a red", preset="papers")
    with pytest.raises(OutputError, match=r"\.png or \.webp"):
        model.generate("a red", start_steps=2).save(tmp_path / "red.jpg")
    assert isinstance(generate_preset("paper"), GenerateSettings)


def test_not_a_number_stops_with_the_step_named():
    toy = Disc()
    toy.predict = lambda noisy, t, e: torch.full_like(noisy, float("nan"))
    with pytest.raises(NumericalError, match="step 1 of 4"):
        Peekaboo(toy).generate("a red", start_steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.stable_diffusion().save_pretrained(path, safe_serialization=True)
    return path


def cli(*arguments, code=0):
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    assert result.exit_code == code, (result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


def test_the_command_writes_a_picture_its_record_and_an_animation(folder, tmp_path):
    out, movie = tmp_path / "a" / "apple.png", tmp_path / "a" / "apple.webp"
    fast = ["-m", folder, "--set", "start_steps=3", "--set", "steps=1", "--preview"]
    done = cli("a red apple", "-o", out, *fast, "--timelapse", movie, "--json", "--height", 48, "--width", 40)
    image = Image.open(out)
    assert (image.mode, image.size) == ("RGBA", (40, 48))
    record = json.loads(image.text["peekaboo"])
    assert record == json.loads(done.stdout)
    assert record["prompt"] == "a red apple"
    assert record["settings"]["start_steps"] == 3
    # three steps, the cut, one step of descent; WebP keeps one of frames that are alike, as they are where nothing is found to be cut out
    assert Image.open(movie).n_frames in (4, 5)
    assert sorted(p.name for p in out.parent.iterdir()) == ["apple.png", "apple.webp"]


def test_the_papers_way_runs_on_a_real_architecture(folder, tmp_path):
    cli("a", "-o", tmp_path / "a.webp", "-m", folder, "--preset", "paper", "--set", "steps=2", "-q")
    assert Image.open(tmp_path / "a.webp").mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["a", "-o", "a.jpg"], "transparency"),
        (["", "-o", "a.png"], "empty"),
        (["a", "-o", "a.png", "--timelapse", "a.gif"], ".webp"),
        (["a", "-o", "a.png", "--set", "steps=x"], "steps"),
        (["a", "-o", "a.webp", "--timelapse", "./a.webp"], "give them two names"),
        (["a", "-o", "a.png", "--negative", "\udcff"], "no text in UTF-8"),
        (["a", "-o", "a.png", "--height", "2"], "8 to 4096"),
        (["a", "-o", "a.png", "-m", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_sentence_and_writes_nothing(folder, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    model = [] if "-m" in arguments else ["-m", str(folder)]
    assert part in cli(*arguments, *model, code=2).stderr
    assert not list(tmp_path.iterdir())
