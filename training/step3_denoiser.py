"""Step 3: the denoiser, a stock UNet2DConditionModel, and its text encoder, on the latents of composed scenes.

    python step3_denoiser.py [--device cuda] [--workers N] [--minutes M] [--set denoiser.batch=1024] [--fresh] [--on]

It resumes from its checkpoint; without one it starts from the released weights, where they fit, or from random ones. With
--on, a finished checkpoint is where another run begins. With --minutes the run is as long as the clock says, not config.py.

On a CPU, composing scenes and training on them share the cores, so every scene is trained on twice, on average. A GPU trains far
faster than scenes can be composed: it never waits for them, and trains on those that there are.

The figure to watch is the conditioning gap: the noise-prediction loss at t = 600 with every caption exchanged for
another's, minus the loss with the right captions. It grows while the loss hardly moves.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from align import Aligner, middle
from common import BUNDLED, Batch, Length, Run, Source, batches, half, start_from_released, to_pixels, trapezoid
from config import Config, cache_folder, changed
from muon import Muon, is_matrix
from norm import faster_norms
from scenes import Pack
from step2_vae import load_trained
from text import build_text_encoder, build_tokenizer, transplant, words

GAP_TIMESTEP = 600


def build_unet(cfg: Config) -> UNet2DConditionModel:
    d = cfg.denoiser
    return UNet2DConditionModel(
        sample_size=cfg.size // 2 ** (len(cfg.vae.channels) - 1),
        in_channels=cfg.vae.latent_channels,
        out_channels=cfg.vae.latent_channels,
        block_out_channels=d.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in d.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(d.attention)),
        layers_per_block=d.layers,
        cross_attention_dim=d.text_width,
        # diffusers' name for the number of heads
        attention_head_dim=tuple(width // d.heads_dim for width in d.channels),
        addition_embed_type="text",  # the pooled caption joins the time embedding
        addition_embed_type_num_heads=d.text_width // d.heads_dim,
    )


def build_scheduler(cfg: Config) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=cfg.denoiser.prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def load_tokenizer(cfg: Config, pack: Pack) -> CLIPTokenizer:
    """The run's tokenizer, built once and kept beside the checkpoints: token numbers must never shift under the weights."""
    folder = cache_folder() / "runs" / "tokenizer"
    if not folder.exists():
        d = cfg.denoiser
        build_tokenizer(words(pack.every_concept), d.text_tokens, d.vocabulary).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


class Trainer:
    """The frozen VAE, the two networks in training, and the loss."""

    def __init__(self, cfg: Config, device: str, fresh: bool = False) -> None:
        self.cfg, self.device = cfg, device
        torch.manual_seed(cfg.seed)
        vae, self.scale = load_trained(cfg)
        self.vae: AutoencoderKL = vae.to(device)
        pack = self.pack = Pack(cache_folder() / "data.npz")
        self.tokenizer = load_tokenizer(cfg, pack)
        self.text: CLIPTextModel = build_text_encoder(cfg.denoiser, self.tokenizer, pack, cfg.seed).to(device)
        self.preparation = Preparation(cfg, self.tokenizer)
        self.unet = build_unet(cfg).to(device)
        if not fresh and start_from_released(self.unet, "unet"):
            print(
                f"text_encoder: {transplant(self.text, self.tokenizer, pack, BUNDLED)} tokens carried over", flush=True
            )
        for network in (self.unet, self.vae):
            network.to(memory_format=torch.channels_last)
        if device == "cpu":
            self.unet.set_attn_processor(AttnProcessor())  # there, faster than the fused attention's backward pass
            for network in (self.unet, self.vae):
                faster_norms(network)
        self.scheduler = build_scheduler(cfg)
        names = [concept.name for concept in pack.every_concept]
        self.aligner = Aligner(cfg.denoiser.channels[-1], cfg.denoiser.text_width, names, self.tokenizer).to(device)
        self.networks = nn.ModuleDict({"unet": self.unet, "text": self.text})

    def tokens(self, captions: list[str]) -> Tensor:
        """Token numbers (B, tokens) int64."""
        return self.preparation.tokens(captions).to(self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.text(tokens)[0]  # (B, tokens, width)

    def drop(self, tokens: Tensor) -> Tensor:
        """The tokens with a share of the captions replaced by the empty one."""
        dropped = torch.rand(len(tokens), 1, device=self.device) < self.cfg.denoiser.caption_dropout
        return torch.where(dropped, self.tokens([""]), tokens)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, H/4, W/4) of unit variance."""
        return self.vae.encode(to_pixels(pictures, self.device)).latent_dist.sample() * self.scale

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.cfg.denoiser.prediction_type == "epsilon":
            return noise
        return self.scheduler.get_velocity(latents, noise, t)

    def snr_weight(self, t: Tensor) -> Tensor:
        """min-SNR-γ weights (B,) of mean one over the timesteps (Hang et al. 2023, arXiv 2303.09556); ones without a γ."""
        gamma = self.cfg.denoiser.min_snr
        if not gamma:
            return torch.ones(len(t), device=self.device)
        alpha_bar = self.scheduler.alphas_cumprod.to(self.device)
        snr = alpha_bar / (1 - alpha_bar)
        weights = snr.clamp(max=gamma) / (snr if self.cfg.denoiser.prediction_type == "epsilon" else snr + 1)
        return (weights / weights.mean())[t]

    def keep(self, batch: Prepared) -> Kept:
        """The batch as it is trained on, again and again."""
        tokens, weight = (tensor.to(self.device, non_blocking=True) for tensor in (batch.tokens, batch.weight))
        return Kept(self.encode(batch.pictures).float(), tokens, batch.names, weight)

    def loss(self, batch: Kept, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the prediction, t logit-normal: the middle of the schedule is where captions matter; and
        the loss of alignment, on a share of the batch."""
        d, latents = self.cfg.denoiser, batch.latents
        t = (torch.randn(len(latents), device=self.device).sigmoid() * 1000).long().clamp(0, 999)
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, t)
        prediction = self.unet(noisy, t, embedding).sample
        errors = batch.weight * (prediction.float() - self.target(latents, noise, t)).square()
        error = (self.snr_weight(t)[:, None, None, None] * errors).mean()
        some = slice(round(d.align_share * len(latents)))
        if not d.align:
            return error, error.new_zeros(())
        null = self.embed(self.tokens([""])).expand(len(latents[some]), -1, -1)
        features = middle(self.unet, noisy[some], t[some], null)
        signal = self.scheduler.alphas_cumprod.to(self.device)[t[some]].sqrt()
        return error, self.aligner(features, self.text, batch.names[some], signal, d.align_others)

    @torch.no_grad()
    def gap(self, latents: Tensor, captions: list[str]) -> tuple[float, float]:
        """(noise-prediction loss at t = 600, how much worse it gets with captions rolled by one)."""
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        t = torch.full((len(latents),), GAP_TIMESTEP, device=self.device)
        noisy = self.scheduler.add_noise(latents, noise, t)
        # the error of v is the error of epsilon divided by sqrt(alpha_bar)
        alpha_bar = float(self.scheduler.alphas_cumprod[GAP_TIMESTEP])
        weight = alpha_bar if self.cfg.denoiser.prediction_type == "v_prediction" else 1.0
        losses = []
        tokens = self.tokens(captions)
        for told in (tokens, tokens.roll(-1, dims=0)):
            prediction = self.unet(noisy, t, self.embed(told)).sample
            losses.append(weight * F.mse_loss(prediction, self.target(latents, noise, t)).item())
        return losses[0], losses[1] - losses[0]


class Prepared(NamedTuple):
    """A composed batch: pictures uint8 (B, H, W, 3), the tokens (B, tokens) of a caption each, the names of what each shows, and the
    loss's weights (B, 1, H/4, W/4)."""

    pictures: Tensor
    tokens: Tensor
    names: list[list[str]]
    weight: Tensor


class Preparation:
    """What can be made of a batch where it is composed: tokens of its captions, weights of what it shows."""

    def __init__(self, cfg: Config, tokenizer: CLIPTokenizer) -> None:
        self.d, self.tokenizer = cfg.denoiser, tokenizer
        self.factor = 2 ** (len(cfg.vae.channels) - 1)  # pixels a latent

    def __call__(self, batch: Batch) -> Prepared:
        return Prepared(batch.pictures, self.tokens(batch.captions), batch.names, self.weigh(batch.cover))

    def tokens(self, captions: list[str]) -> Tensor:
        """Token numbers (B, tokens) int64."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.d.text_tokens}
        return self.tokenizer(captions, **options, return_tensors="pt").input_ids

    def weigh(self, cover: Tensor) -> Tensor:
        """Weights (B, 1, H/4, W/4) of mean one: captions speak of objects, so objects count more than backgrounds."""
        weight = 1 + (self.d.object_weight - 1) * F.avg_pool2d(cover, self.factor)
        return weight / weight.mean()


class Kept(NamedTuple):
    """An encoded batch: latents (B, C, h, w), the tokens (B, tokens) of a caption each, the names of what each shows, and the
    loss's weights (B, 1, h, w)."""

    latents: Tensor
    tokens: Tensor
    names: list[list[str]]
    weight: Tensor


def optimisers(cfg: Config, networks: nn.ModuleDict) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices and AdamW for the rest."""
    d = cfg.denoiser
    named = list(networks.named_parameters())
    matrices = [weight for name, weight in named if d.muon and is_matrix(name, weight)]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for _, weight in named if id(weight) not in chosen]
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=d.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ]
    return [*result, Muon(matrices, lr=d.lr)] if matrices else result


def train(
    cfg: Config, device: str, fresh: bool = False, on: bool = False, workers: int = 1, minutes: float | None = None
) -> None:
    torch.set_flush_denormal(True)  # a CPU is many times slower on denormal numbers
    d = cfg.denoiser
    run = Run("denoiser", cfg.checkpoint_seconds)
    state = run.load()
    trainer = Trainer(cfg, device, fresh=fresh or state is not None)
    networks, ema = trainer.networks, copy.deepcopy(trainer.networks).requires_grad_(False)
    trained = nn.ModuleDict({**networks, "aligner": trainer.aligner})
    optimisers_ = optimisers(cfg, trained)
    step, before, behind = 0, 0, 0.0
    if state is not None:
        networks.load_state_dict(state["networks"])
        ema.load_state_dict(state["ema"])
        trainer.aligner.load_state_dict(state["aligner"])
        for optimiser, saved in zip(optimisers_, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, before, behind = state["step"], state["composed"], state.get("done", 0.0)
        if on and state["finished"]:
            networks.load_state_dict(state["ema"])
            step, before, behind = 0, 0, 0.0
    square = dataclasses.replace(cfg, shapes=((cfg.size, cfg.size),))
    first = next(batches(square, trainer.pack, 192, seed=10_001, workers=0))
    watched, watched_latents = first.captions, trainer.encode(first.pictures)
    stream = batches(cfg, trainer.pack, min(d.batch, d.compose), cfg.seed + step, workers, trainer.preparation)
    source = Source(stream, trainer.keep, d.batch, d.replay, d.replay_share if device == "cpu" else None)
    mean = torch.zeros(2, device=device)  # of the two losses
    with half(device):
        next(source)  # the clock starts when there is something to train on
    length = Length(d.scenes // d.batch, minutes, behind)
    while (done := length.done(step)) < 1:
        with half(device):
            batch = next(source)
            error, aligning = trainer.loss(batch, trainer.embed(trainer.drop(batch.tokens)))
            loss = error + d.align * aligning
        for optimiser in optimisers_:
            for group in optimiser.param_groups:
                group["lr"] = d.lr * trapezoid(step, done, d.warmup, d.decay)
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in optimisers_:
            optimiser.step()
        step += 1
        done = length.done(step)
        with torch.no_grad():
            weight = 1 - min(d.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.parameters()), list(networks.parameters()), weight)
            mean.lerp_(torch.stack([error.detach(), aligning.detach()]), 1 if step == 1 else 0.02)
        composed = before + source.composed
        if step % 50 == 0 or done >= 1:
            with half(device):
                at_600, gap = trainer.gap(watched_latents, watched)
            losses = dict(zip(("loss", "align"), mean.tolist(), strict=True))
            run.log(step=step, scenes=step * d.batch, composed=composed, **losses, loss_600=at_600, gap=gap)
        if run.due() or done >= 1:
            run.save(
                {
                    "networks": networks.state_dict(),
                    "ema": ema.state_dict(),
                    "aligner": trainer.aligner.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers_],
                    "step": step,
                    "scenes": step * d.batch,
                    "composed": composed,
                    "done": done,
                    "finished": done >= 1,
                    "scale": trainer.scale,
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    parser.add_argument("--scenes", type=int, help="instead of the configuration's")
    parser.add_argument("--minutes", type=float, help="the run's length, instead of a number of scenes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another value of config.py")
    parser.add_argument("--fresh", action="store_true", help="start from random weights, not from the released ones")
    parser.add_argument("--on", action="store_true", help="begin another run from a finished one's average weights")
    options = parser.parse_args()
    cfg = changed(Config(), options.set + ([f"denoiser.scenes={options.scenes}"] if options.scenes else []))
    train(cfg, options.device, options.fresh, options.on, options.workers, options.minutes)


if __name__ == "__main__":
    main()
