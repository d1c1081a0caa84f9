"""Step 3: the denoiser, a stock UNet2DConditionModel, and its text encoder, on the latents of composed scenes.

    python step3_denoiser.py [--device cuda] [--scenes N] [--fresh] [--on]

It resumes from its checkpoint; without one it starts from the released weights, where they fit, or from random ones. With
--on, a finished checkpoint is where another run begins.

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
from common import BUNDLED, Run, batches, half, start_from_released, to_pixels, trapezoid
from config import Config, cache_folder
from muon import Muon, is_matrix
from scenes import Pack
from step2_vae import load_trained
from text import build_text_encoder, build_tokenizer, transplant, words

GAP_TIMESTEP = 600


def build_unet(cfg: Config) -> UNet2DConditionModel:
    d = cfg.denoiser
    return UNet2DConditionModel(
        sample_size=cfg.size // 4,
        in_channels=cfg.vae.latent_channels,
        out_channels=cfg.vae.latent_channels,
        block_out_channels=d.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=d.layers,
        cross_attention_dim=d.text_width,
        attention_head_dim=d.channels[-1] // d.heads_dim,  # diffusers' name for the number of heads
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
        self.unet = build_unet(cfg).to(device)
        if not fresh and start_from_released(self.unet, "unet"):
            print(
                f"text_encoder: {transplant(self.text, self.tokenizer, pack, BUNDLED)} tokens carried over", flush=True
            )
        for network in (self.unet, self.vae):
            network.to(memory_format=torch.channels_last)
        self.unet.set_attn_processor(AttnProcessor())  # on a CPU, faster than the fused attention's backward pass
        self.scheduler = build_scheduler(cfg)
        names = [concept.name for concept in pack.every_concept]
        self.aligner = Aligner(cfg.denoiser.channels[-1], cfg.denoiser.text_width, names, self.tokenizer).to(device)
        self.networks = nn.ModuleDict({"unet": self.unet, "text": self.text})

    def embed(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.cfg.denoiser.text_tokens,
            return_tensors="pt",
        )
        return self.text(tokens.input_ids.to(self.device))[0]  # (B, tokens, width)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, H/4, W/4) of unit variance."""
        return self.vae.encode(to_pixels(pictures, self.device)).latent_dist.sample() * self.scale

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.cfg.denoiser.prediction_type == "epsilon":
            return noise
        return self.scheduler.get_velocity(latents, noise, t)

    def weigh(self, cover: Tensor) -> Tensor:
        """Weights (B, 1, H/4, W/4) of mean one: captions speak of objects, so objects count more than backgrounds."""
        pooled = F.avg_pool2d(cover.to(self.device), self.cfg.size // self.unet.config.sample_size)
        weight = 1 + (self.cfg.denoiser.object_weight - 1) * pooled
        return weight / weight.mean()

    def loss(self, batch: Kept, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the prediction, t logit-normal: the middle of the schedule is where captions matter; and
        the loss of alignment, on a share of the batch."""
        d, latents = self.cfg.denoiser, batch.latents
        t = (torch.randn(len(latents), device=self.device).sigmoid() * 1000).long().clamp(0, 999)
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, t)
        prediction = self.unet(noisy, t, embedding).sample
        error = (batch.weight * (prediction.float() - self.target(latents, noise, t)).square()).mean()
        some = slice(round(d.align_share * len(latents)))
        if not d.align:
            return error, error.new_zeros(())
        null = self.embed([""]).expand(len(latents[some]), -1, -1)
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
        for embedding in (self.embed(captions), self.embed(captions[1:] + captions[:1])):
            prediction = self.unet(noisy, t, embedding).sample
            losses.append(weight * F.mse_loss(prediction, self.target(latents, noise, t)).item())
        return losses[0], losses[1] - losses[0]


class Kept(NamedTuple):
    """An encoded batch: latents (B, C, h, w), a caption each, the names of what each shows, and the loss's weights
    (B, 1, h, w)."""

    latents: Tensor
    captions: list[str]
    names: list[list[str]]
    weight: Tensor


class Replay:
    """Encoded scenes of the last batches, to be trained on again with fresh noise: cheaper than composing new ones."""

    def __init__(self, capacity: int, share: float) -> None:
        self.capacity, self.share = capacity, share
        self.kept: list[Kept] = []

    def again(self) -> Kept | None:
        """A mixture of two kept batches of one shape, with probability `share` once there are enough."""
        if len(self.kept) < self.capacity // 2 or torch.rand(()) >= self.share:
            return None
        one = self.kept[int(torch.randint(len(self.kept), ()))]
        alike = [batch for batch in self.kept if batch.latents.shape == one.latents.shape]
        other = alike[int(torch.randint(len(alike), ()))]
        order = torch.randperm(2 * len(one.latents))[: len(one.latents)]
        captions, names = one.captions + other.captions, one.names + other.names
        latents, weight = (torch.cat([getattr(b, part) for b in (one, other)])[order] for part in ("latents", "weight"))
        return Kept(latents, [captions[i] for i in order], [names[i] for i in order], weight)

    def keep(self, batch: Kept) -> None:
        self.kept = [*self.kept[-self.capacity + 1 :], batch]


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


def train(cfg: Config, device: str, fresh: bool = False, on: bool = False) -> None:
    torch.set_flush_denormal(True)  # a CPU is many times slower on denormal numbers
    d = cfg.denoiser
    run = Run("denoiser", cfg.checkpoint_seconds)
    state = run.load()
    trainer = Trainer(cfg, device, fresh=fresh or state is not None)
    networks, ema = trainer.networks, copy.deepcopy(trainer.networks).requires_grad_(False)
    trained = nn.ModuleDict({**networks, "aligner": trainer.aligner})
    optimisers_ = optimisers(cfg, trained)
    step, total = 0, d.scenes // d.batch
    if state is not None:
        networks.load_state_dict(state["networks"])
        ema.load_state_dict(state["ema"])
        trainer.aligner.load_state_dict(state["aligner"])
        for optimiser, saved in zip(optimisers_, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step = state["step"]
        if on and step == state.get("total", step):
            networks.load_state_dict(state["ema"])
            step = 0
    square = dataclasses.replace(cfg, shapes=((cfg.size, cfg.size),))
    first = next(batches(square, 192, seed=10_001, workers=0))
    watched, watched_latents = first.captions, trainer.encode(first.pictures)
    stream, replay = batches(cfg, d.batch, seed=cfg.seed + step), Replay(d.replay, d.replay_share)
    mean = aligned = 0.0
    while step < total:
        again = replay.again()
        with half(device):
            if again is None:
                batch = next(stream)
                latents = trainer.encode(batch.pictures).float()
                again = Kept(latents, batch.captions, batch.names, trainer.weigh(batch.cover))
                replay.keep(again)
            captions = ["" if torch.rand(()) < d.caption_dropout else caption for caption in again.captions]
            error, aligning = trainer.loss(again, trainer.embed(captions))
            loss = error + d.align * aligning
        for optimiser in optimisers_:
            for group in optimiser.param_groups:
                group["lr"] = d.lr * trapezoid(step, total, d.warmup, d.decay)
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in optimisers_:
            optimiser.step()
        step += 1
        with torch.no_grad():
            weight = 1 - min(d.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.parameters()), list(networks.parameters()), weight)
        mean = error.item() if mean == 0 else 0.98 * mean + 0.02 * error.item()
        aligned = aligning.item() if aligned == 0 else 0.98 * aligned + 0.02 * aligning.item()
        if step % 50 == 0 or step == total:
            with half(device):
                at_600, gap = trainer.gap(watched_latents, watched)
            run.log(step=step, scenes=step * d.batch, loss=mean, align=aligned, loss_600=at_600, gap=gap)
        if run.due() or step == total:
            run.save(
                {
                    "networks": networks.state_dict(),
                    "ema": ema.state_dict(),
                    "aligner": trainer.aligner.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers_],
                    "step": step,
                    "total": total,
                    "scale": trainer.scale,
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, help="instead of the configuration's")
    parser.add_argument("--fresh", action="store_true", help="start from random weights, not from the released ones")
    parser.add_argument("--on", action="store_true", help="begin another run from a finished one's average weights")
    options = parser.parse_args()
    cfg = Config()
    if options.scenes:
        cfg = dataclasses.replace(cfg, denoiser=dataclasses.replace(cfg.denoiser, scenes=options.scenes))
    train(cfg, options.device, options.fresh, options.on)


if __name__ == "__main__":
    main()
