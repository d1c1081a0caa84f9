"""Score distillation against closed forms: a linear encoder and a Gaussian denoiser, float64."""

import math

import pytest
import torch

from peekaboo import distill, loss, optimize
from peekaboo.scene import Scene
from peekaboo.settings import preset
from toys import Toy


def predictions(toy, latents, prompts, t, noise):
    embeddings = toy.encode_prompt([*prompts, ""])
    return distill.predict(toy, latents, embeddings[:-1], embeddings[-1:], t, noise)


@pytest.fixture
def drawn(toy):
    torch.manual_seed(0)
    latents = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    t = torch.tensor([100, 500, 900])
    noise = torch.randn(3, 1, 4, 3, 5, dtype=torch.float64)
    return latents, t, noise


def closed_form(toy, latents, mean, t, noise):
    """ε̂ of every draw and latent, written out: (D, N, C, h, w)."""
    a = toy.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * latents[None] + (1 - a).sqrt() * noise
    return (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * toy.spread**2 + 1 - a)


def test_the_guidance_convention(toy, drawn):
    """ε̂ = ε_∅ + s(ε_p − ε_∅): at s = 0 the prompt has no say, at s = 1 it is plain conditioning."""
    p = predictions(toy, drawn[0], ["red", "green"], *drawn[1:])
    torch.testing.assert_close(distill.guided(p, 0.0), p.null)
    torch.testing.assert_close(distill.guided(p, 1.0), p.prompt)
    torch.testing.assert_close(distill.guided(p, 100.0), p.null + 100 * (p.prompt - p.null))


def test_predictions_are_the_denoisers_own(toy, drawn):
    latents, t, noise = drawn
    p = predictions(toy, latents, ["red", "green"], t, noise)
    means = torch.stack([toy.mean("red"), toy.mean("green")])[None, :, :, None, None]
    torch.testing.assert_close(p.prompt, closed_form(toy, latents, means, t, noise))
    nothing = toy.mean("").view(1, 1, -1, 1, 1)
    torch.testing.assert_close(p.null, closed_form(toy, latents, nothing, t, noise))


def test_one_picture_for_all_prompts_shares_the_null_prediction(toy, drawn):
    latents, t, noise = drawn
    together = predictions(toy, latents[:1], ["red", "green"], t, noise)
    assert toy.calls == [3 * 2 + 3]
    apart = predictions(toy, latents[:1].repeat(2, 1, 1, 1), ["red", "green"], t, noise)
    for name in ("prompt", "null", "noise"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name))


def test_sds_and_csd_are_the_written_sums(toy, drawn):
    latents, t, noise = drawn
    p = predictions(toy, latents, ["red", "green"], t, noise)
    w = (1 - toy.alphas_cumprod[t]).view(-1, 1, 1, 1, 1)
    sds = sum(w[d] * (p.null[d] + 7.5 * (p.prompt[d] - p.null[d]) - noise[d]) for d in range(3)) / 3
    torch.testing.assert_close(distill.sds(p, 7.5), sds)
    csd = sum(w[d] * (p.prompt[d] - p.null[d]) for d in range(3)) / 3
    torch.testing.assert_close(distill.csd(p), csd)
    # of a Gaussian, the classifier score points from the null mean to the prompt's, at any place and noise
    a = toy.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    scale = w * (1 - a).sqrt() * a.sqrt() / (a * toy.spread**2 + 1 - a)
    for n, name in enumerate(["red", "green"]):
        direction = (toy.mean("") - toy.mean(name)).view(-1, 1, 1)
        torch.testing.assert_close(csd[n], (scale.mean() * direction).expand(4, 3, 5))


@pytest.mark.parametrize("gravity", [0.0, 0.05])
@pytest.mark.parametrize("estimator", ["sds", "csd"])
def test_the_gradient_on_theta_against_the_chain_rule_by_hand(toy_scene, toy, gravity, estimator):
    r"""∂L/∂θ = α(1−α)·[Σ_c (x−b)_c·(Eᵀg)_c + λ], with Eᵀ the transpose of the linear encoder, written out."""
    settings = preset("paper", gravity=gravity, estimator=estimator, guidance_scale=12.0, draws=2)
    theta = torch.randn(1, 24, 40, dtype=torch.float64, requires_grad=True)
    alpha = torch.sigmoid(theta)
    got = loss.alpha_gradient(toy_scene, settings, alpha.detach(), torch.Generator().manual_seed(3))
    alpha.backward(got)

    generator = torch.Generator().manual_seed(3)
    colour = torch.rand(3, generator=generator)
    mixed = alpha[:, None] * toy_scene.image + (1 - alpha[:, None]) * colour.view(1, 3, 1, 1)
    latents = toy.encode(mixed).detach()
    t = distill.draw_timesteps(2, 0.02, 0.98, 1000, generator)
    noise = distill.draw_noise(2, latents, generator)
    prompt = closed_form(toy, latents, toy.mean("red").view(-1, 1, 1), t, noise)
    null = closed_form(toy, latents, toy.mean("").view(-1, 1, 1), t, noise)
    w = (1 - toy.alphas_cumprod[t]).view(-1, 1, 1, 1, 1)
    g = w * (null + 12.0 * (prompt - null) - noise) if estimator == "sds" else w * (prompt - null)
    g = g.mean(dim=0)
    spread = g.repeat_interleave(4, 2).repeat_interleave(4, 3) / 16  # transpose of 4×4 average pooling
    pulled = 2 * torch.einsum("cd,bchw->bdhw", toy.matrix, spread)  # transpose of M·(2x − 1)
    on_alpha = ((toy_scene.image - colour.view(1, 3, 1, 1)) * pulled).sum(dim=1) + gravity
    torch.testing.assert_close(theta.grad, alpha.detach() * (1 - alpha.detach()) * on_alpha)


def test_the_complement_is_scored_with_the_opposite_sign(toy_scene):
    """With α = ½ everywhere both sides are one picture, and ∂(1−α) = −∂α: the complement doubles the gradient."""
    alpha = torch.full((1, 24, 40), 0.5, dtype=torch.float64)
    plain = preset("paper", gravity=0.0, estimator="csd")
    one = loss.alpha_gradient(toy_scene, plain, alpha, torch.Generator().manual_seed(1))
    both = loss.alpha_gradient(toy_scene, plain.with_changes(complement=1.0), alpha, torch.Generator().manual_seed(1))
    torch.testing.assert_close(both, 2 * one)


def test_v_prediction_and_epsilon_are_one_model(drawn):
    latents, t, noise = drawn
    a, b = Toy("epsilon"), Toy("v_prediction")
    pa, pb = (predictions(toy, latents, ["red", "blue"], t, noise) for toy in (a, b))
    torch.testing.assert_close(pa.prompt, pb.prompt)
    torch.testing.assert_close(distill.sds(pa, 100.0), distill.sds(pb, 100.0))


def test_the_gain_is_evidence_for_the_right_prompt(toy):
    latents = toy.mean("red").view(1, -1, 1, 1).expand(1, 4, 6, 6).clone()
    t = distill.draw_timesteps(16, 0.3, 0.7, 1000, torch.Generator().manual_seed(0))
    noise = distill.draw_noise(16, latents, torch.Generator().manual_seed(0))
    gain = distill.error_gain(predictions(toy, latents, ["red", "green", ""], t, noise)).mean(dim=(0, 2, 3))
    assert gain[0] > 0 > gain[1]
    torch.testing.assert_close(gain[2], torch.zeros((), dtype=torch.float64))


def test_timesteps_are_stratified_and_in_range():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        t = distill.draw_timesteps(8, 0.2, 0.6, 1000, generator)
        assert ((t - 200) // 50).clamp(0, 7).tolist() == sorted(((t - 200) // 50).clamp(0, 7).tolist())
        assert t.min() >= 200
        assert t.max() <= 600
        assert (t.diff() >= 0).all()
    single = torch.cat([distill.draw_timesteps(1, 0.02, 0.98, 1000, generator) for _ in range(2000)])
    assert single.min() < 40
    assert single.max() > 960
    assert abs(single.double().mean() - 500) < 20


@pytest.mark.parametrize(("count", "channels", "size"), [(24, 4, (7, 10)), (12, 4, (4, 4)), (5, 3, (3, 2))])
def test_orthogonal_draws_have_exact_moments_within_a_block(count, channels, size):
    latents = torch.zeros(1, channels, *size)
    noise = distill.draw_orthogonal_noise(count, latents, torch.Generator().manual_seed(0))
    assert noise.shape == (count, 1, channels, *size)
    tall = math.isqrt(count // channels)
    block = noise[:, 0, :, :tall, : count // channels // tall].flatten(1)
    torch.testing.assert_close(block.T @ block / count, torch.eye(block.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.square().mean(dim=0), torch.ones_like(noise[0]), atol=1e-5, rtol=0)
    again = distill.draw_orthogonal_noise(count, latents, torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


def test_orthogonal_draws_are_each_white_noise():
    """Over many seeds every number of a draw has mean 0, variance 1, the kurtosis of a coordinate on a sphere, and no companions."""
    latents = torch.zeros(1, 4, 40, 60)
    draw = distill.draw_orthogonal_noise(24, latents, torch.Generator().manual_seed(0))[3, 0]
    blocks = draw.view(4, 20, 2, 20, 3).permute(1, 3, 0, 2, 4).reshape(400, 24)
    assert abs(float(draw.mean())) < 0.03
    assert abs(float(draw.pow(4).mean()) - 3 * 24 / 26) < 0.2
    covariance = blocks.T @ blocks / len(blocks)
    assert float((covariance - torch.eye(24)).abs().max()) < 0.25


def test_fewer_draws_than_channels_are_independent():
    latents = torch.zeros(1, 4, 3, 3)
    drawn = [
        f(3, latents, torch.Generator().manual_seed(0)) for f in (distill.draw_orthogonal_noise, distill.draw_noise)
    ]
    assert torch.equal(*drawn)


def test_the_loop_finds_the_red_square(toy_scene):
    settings = preset("paper", learning_rate=2.0 / optimize.PAPER_PIXELS, gravity=0.02, blur="none", steps=60)
    *_, last = optimize.run(toy_scene, settings)
    truth = torch.zeros(24, 40, dtype=torch.bool)
    truth[4:16, 8:24] = True
    found = last.alpha[0] > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert last.index == last.total == 60


def test_steps_report_the_mask_change(toy_scene):
    steps = list(optimize.run(toy_scene, preset("paper", steps=3)))
    assert [s.index for s in steps] == [1, 2, 3]
    assert steps[0].change == 0
    assert steps[1].change == pytest.approx(float((steps[1].alpha - steps[0].alpha).abs().mean()))
    assert steps[0].seconds < steps[2].seconds


def test_the_denoiser_gets_no_gradient_but_the_encoder_carries_one(toy_scene, toy):
    alpha = torch.full((1, 24, 40), 0.5, dtype=torch.float64)
    encoded = []
    original = toy.encode
    toy.encode = lambda images: encoded.append(original(images)) or encoded[-1]
    seen = []
    predict = toy.predict
    toy.predict = lambda noisy, t, e: seen.append(noisy) or predict(noisy, t, e)
    loss.alpha_gradient(toy_scene, preset("paper"), alpha, torch.Generator().manual_seed(0))
    assert encoded[0].requires_grad
    assert not seen[0].requires_grad


def test_not_a_number_stops_with_the_iteration_named(toy_scene, toy):
    from peekaboo.errors import NumericalError

    predict = toy.predict
    toy.predict = lambda noisy, t, e: predict(noisy, t, e) * float("nan" if len(toy.calls) > 2 else "1")
    with pytest.raises(NumericalError, match="iteration 3 of 9"):
        list(optimize.run(toy_scene, preset("paper", steps=9)))


def test_several_prompts_share_timestep_and_noise(toy, toy_scene):
    """Two equal prompts get equal gradients from equal alphas: nothing differs between them, not even the noise."""
    scene = Scene(toy, toy_scene.image, toy.encode_prompt(["red", "red"]), toy_scene.null, None)
    alpha = torch.rand(1, 24, 40, dtype=torch.float64).repeat(2, 1, 1)
    gradient = loss.alpha_gradient(scene, preset("paper"), alpha, torch.Generator().manual_seed(0))
    torch.testing.assert_close(gradient[0], gradient[1])


def test_the_papers_rate_is_scaled_to_the_grid():
    """Fourier: the paper's own rate on its own grid. Raster: a pixel's share of the sum, on any grid. Adam: as it is."""
    paper = preset("paper")
    assert optimize.learning_rate(paper.with_changes(alpha="fourier"), 256 * 256) == pytest.approx(1e-5)
    assert optimize.learning_rate(paper.with_changes(alpha="fourier"), 64 * 64) == pytest.approx(16e-5)
    assert optimize.learning_rate(paper, 64 * 64) == optimize.learning_rate(paper, 256 * 256) == pytest.approx(0.65536)
    assert optimize.learning_rate(preset("default"), 64 * 64) == preset("default").learning_rate


def test_rivals_share_no_word_with_the_prompts():
    from peekaboo import evidence

    everything = evidence.rivals_of(["a unicorn"])
    assert len(everything) == len(evidence.RIVALS)
    left = evidence.rivals_of(["two Dogs on the left", "a sports car"])
    assert set(everything) - set(left) == {"a dog", "a car"}


def test_gain_over_rivals_is_the_gain_over_nothing_less_their_own(toy, drawn):
    """|ε_r − ε|² − |ε_p − ε|² of each draw with a rival of its own: what nothing predicts cancels."""
    latents, t, noise = drawn
    prompts, rivals = toy.encode_prompt(["red", "blue"]), toy.encode_prompt(["green", "blue", "red"])
    null = toy.encode_prompt([""])
    got = distill.error_gain(distill.predict(toy, latents, prompts, rivals, t, noise))
    over_nothing = distill.error_gain(distill.predict(toy, latents, prompts, null, t, noise))
    own = torch.stack(
        [
            distill.error_gain(
                distill.predict(toy, latents, rivals[d : d + 1].expand(2, -1, -1), null, t[d : d + 1], noise[d : d + 1])
            )[0]
            for d in range(3)
        ]
    )
    torch.testing.assert_close(got, over_nothing - own)
    assert got[1, 1].abs().max() == 0  # the rival is the prompt


def test_the_warm_start_asks_the_rivals(toy_scene, toy):
    """On red against blue, "red" against the rival "red" tells nothing; against "blue" it finds the red."""
    import dataclasses

    settings = preset("draft", cut=0.5)
    size = (24, 40)
    maps = {}
    for name in ("red", "blue"):
        scene = dataclasses.replace(toy_scene, rivals=toy.encode_prompt([name, name]))
        *_, start = optimize.first_maps(scene, settings, size, lambda x: x, torch.Generator().manual_seed(0))
        maps[name] = start[0]
    assert maps["red"].std() == 0
    assert maps["blue"][4:16, 8:24].mean() > maps["blue"][18:, 26:].mean() + 3


def test_first_map_and_presence_share_their_draws(toy_scene, toy, monkeypatch):
    """The score of a run that has a first map costs no pass of the denoiser; without one it asks `DRAWS` times a view."""
    from peekaboo import evidence
    from peekaboo.presence import presence

    asked = []
    predict = type(toy).predict
    monkeypatch.setattr(
        type(toy), "predict", lambda self, noisy, t, e: asked.append(len(noisy)) or predict(self, noisy, t, e)
    )
    alpha = torch.ones(len(toy_scene.embeddings), 24, 40)
    first, *_, said = evidence.hear(toy_scene, preset("default"))
    assert (first.shape[1], said.shape[1]) == (6, 24)
    torch.testing.assert_close(evidence.testimony(toy_scene, preset("default")), said)
    before = sum(asked)
    presence(toy_scene, alpha, preset("default"))
    assert sum(asked) == before > 0
    presence(toy_scene, alpha, preset("paper"))
    assert sum(asked) == before + 2 * evidence.DRAWS * (len(alpha) + 1)


def test_opposite_noises_of_the_two_views_cancel(toy_scene, toy):
    """The toy's predictions are linear in the noise, so what the two views say together is what no noise at all would say."""
    from peekaboo import distill, evidence

    *_, said = evidence.hear(toy_scene, preset("default"))
    generator = torch.Generator().manual_seed(preset("default").seed)
    order = [i for part in evidence.parts(24) for i in range(24)[part]]
    t = distill.draw_timesteps(24, *evidence.BAND, toy.timesteps, generator)[order]
    still = torch.zeros(24, 1, *toy_scene.views[0].shape[1:], dtype=torch.float64)
    calm = [
        evidence.gains(toy, view, toy_scene.embeddings, toy_scene.null, t, still).flip(-1 if mirrored else ())
        for mirrored, view in enumerate(toy_scene.views)
    ]
    assert (said[0] - said[1]).abs().max() > 0.1
    torch.testing.assert_close(said.mean(dim=0), torch.stack(calm).mean(dim=0).to(said.dtype), atol=1e-5, rtol=0)


def test_the_parts_of_the_draws_each_span_the_schedule_and_leave_none_out():
    from peekaboo import evidence

    for draws in (1, 7, 8, 24, 25):
        taken = [i for part in evidence.parts(draws) for i in range(draws)[part]]
        assert sorted(taken) == list(range(draws))
    first = range(24)[evidence.parts(24)[0]]
    assert (first[0], first[-1]) == (0, 20)
    assert evidence.parts(0) == []


def test_no_single_place_of_a_draw_outweighs_the_others():
    from peekaboo import evidence

    said = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loud = said.clone()
    loud[0, 1, 0, 3, 3] = 1e4
    calm, shouted = evidence.gain_map(said, (8, 8)), evidence.gain_map(loud, (8, 8))
    most = evidence.LOUDEST * loud[0, 1].std() / 8  # of two views with four draws each
    assert 0 < shouted[0, 3, 3] - calm[0, 3, 3] < most + 1
    torch.testing.assert_close(evidence.gain_map(said.clamp(-1, 1), (8, 8))[0], said.clamp(-1, 1).mean(1).mean(0)[0])


def test_pooling_is_the_weighted_mean_of_the_neighbourhood():
    """Against the sum written out; and what lies outside the weights has no say, however loud."""
    from peekaboo import evidence

    torch.manual_seed(0)
    maps, weights = torch.randn(2, 9, 11), torch.rand(2, 9, 11)
    sigma = 1.5
    got = evidence.pooled(maps, weights, sigma)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    near = torch.exp(-((y - 4) ** 2 + (x - 5) ** 2) / (2 * sigma**2)) * ((y - 4).abs() <= 4) * ((x - 5).abs() <= 4)
    near = near / torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2)).sum() ** 2
    expected = weights[:, 4, 5] * (near * maps * weights).sum((1, 2)) / ((near * weights).sum((1, 2)) + 0.01)
    torch.testing.assert_close(got[:, 4, 5], expected, atol=1e-5, rtol=1e-4)
    loud = torch.where(weights[:1] > 0.5, 1.0, 1e3)
    kept = evidence.pooled(loud, (weights[:1] > 0.5).float(), 2.0)
    assert kept.max() <= 1
    assert kept[weights[:1] <= 0.5].abs().max() == 0
