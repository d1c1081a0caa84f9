"""Step 3: the denoiser, a stock UNet2DConditionModel, and its text encoder, on the latents of composed scenes.

    python step3_denoiser.py [--device cuda] [--scenes N]     # resumes from its checkpoint, else from the released weights

The figure to watch is the conditioning gap: the noise-prediction loss at t = 600 with every caption exchanged for
another's, minus the loss with the right captions. It grows while the loss hardly moves.
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from common import Run, batches, to_pixels, trapezoid
from config import Config, cache_folder
from scenes import Pack
from step2_vae import build as build_vae
from text import build_text_encoder, build_tokenizer, words

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


def load_tokenizer(cfg: Config) -> CLIPTokenizer:
    """The run's tokenizer, built once and kept beside the checkpoints: token numbers must never shift under the weights."""
    folder = cache_folder() / "runs" / "tokenizer"
    if not folder.exists():
        build_tokenizer(words(cache_folder() / "data.npz"), cfg.denoiser.text_tokens).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


class Trainer:
    """The frozen VAE, the two networks in training, and the loss."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.cfg, self.device = cfg, device
        torch.manual_seed(cfg.seed)
        vae_state = torch.load(cache_folder() / "runs" / "vae.pt", weights_only=True)
        self.vae: AutoencoderKL = build_vae(cfg).to(device).eval().requires_grad_(False)
        self.vae.load_state_dict(vae_state["vae"])
        self.scale: float = vae_state["scale"]
        self.tokenizer = load_tokenizer(cfg)
        pack = Pack(cache_folder() / "data.npz")
        self.text: CLIPTextModel = build_text_encoder(cfg.denoiser, self.tokenizer, pack, cfg.seed).to(device)
        self.unet = build_unet(cfg).to(device)
        self.unet.set_attn_processor(AttnProcessor())  # on a CPU, faster than the fused attention's backward pass
        self.scheduler = build_scheduler(cfg)
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

    def loss(self, latents: Tensor, embedding: Tensor) -> Tensor:
        """Mean squared error of the prediction, t logit-normal: the middle of the schedule is where captions matter."""
        t = (torch.randn(len(latents), device=self.device).sigmoid() * 1000).long().clamp(0, 999)
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, t)
        prediction = self.unet(noisy, t, embedding).sample
        return F.mse_loss(prediction.float(), self.target(latents, noise, t))

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


def train(cfg: Config, device: str) -> None:
    torch.set_flush_denormal(True)  # a CPU is many times slower on denormal numbers
    d = cfg.denoiser
    trainer, run = Trainer(cfg, device), Run("denoiser", cfg.checkpoint_seconds)
    networks, ema = trainer.networks, copy.deepcopy(trainer.networks).requires_grad_(False)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=d.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    step, total = 0, d.scenes // d.batch
    if state := run.load():
        networks.load_state_dict(state["networks"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    pictures, watched = next(batches(cfg, 192, seed=10_001, workers=0))
    watched_latents = trainer.encode(pictures)
    stream = batches(cfg, d.batch, seed=cfg.seed + step)
    mean = 0.0
    while step < total:
        pictures, captions = next(stream)
        captions = ["" if torch.rand(()) < d.caption_dropout else caption for caption in captions]
        with torch.autocast(device, torch.bfloat16):
            latents = trainer.encode(pictures).float()
            embedding = trainer.embed(captions)
            loss = trainer.loss(latents, embedding)
        for group in optimiser.param_groups:
            group["lr"] = d.lr * trapezoid(step, total, d.warmup)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            weight = 1 - min(d.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.parameters()), list(networks.parameters()), weight)
        mean = loss.item() if mean == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0 or step == total:
            with torch.autocast(device, torch.bfloat16):
                at_600, gap = trainer.gap(watched_latents, watched)
            run.log(step=step, scenes=step * d.batch, loss=mean, loss_600=at_600, gap=gap)
        if run.due() or step == total:
            run.save(
                {
                    "networks": networks.state_dict(),
                    "ema": ema.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "scale": trainer.scale,
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train(Config(), parser.parse_args().device)


if __name__ == "__main__":
    main()
