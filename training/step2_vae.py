"""Step 2: the variational autoencoder, a stock AutoencoderKL, on composed scenes.

python step2_vae.py [--device cuda] [--fresh]     # resumes from its checkpoint, else from the released weights
"""

from __future__ import annotations

import argparse
import itertools
import json

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from common import BUNDLED, Length, Run, batches, half, start_from_released, to_pixels, trapezoid
from config import Config, cache_folder, changed
from norm import faster_norms
from scenes import Pack


def build(cfg: Config) -> AutoencoderKL:
    channels = cfg.vae.channels
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=cfg.vae.latent_channels,
        norm_num_groups=16,
        sample_size=cfg.size,
        mid_block_add_attention=False,
    )


def load_trained(cfg: Config) -> tuple[AutoencoderKL, float]:
    """The autoencoder and its latent scale: of the checkpoint if there is one (finished or not), else the released one."""
    vae, state = build(cfg).eval().requires_grad_(False), Run("vae", cfg.checkpoint_seconds).load()
    if state is not None:
        vae.load_state_dict(state["vae"])
        return vae, state["scale"]
    if not start_from_released(vae, "vae"):
        raise SystemExit("There is no autoencoder yet: run step 2 first.")
    return vae, json.loads((BUNDLED / "vae" / "config.json").read_text())["scaling_factor"]


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(cfg: Config, vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """L1 on pixels and on their differences, plus a light KL. Returns the loss and the plain L1."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    l1 = F.l1_loss(y, x)
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    return l1 + cfg.vae.edges * edge + cfg.vae.kl * posterior.kl().mean(), l1


def latent_scale(vae: AutoencoderKL, x: Tensor) -> float:
    """The factor that gives latents unit variance."""
    with torch.no_grad():
        return 1 / vae.encode(x).latent_dist.sample().std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fresh", action="store_true", help="start from random weights, not from the released ones")
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    parser.add_argument("--minutes", type=float, help="the run's length, instead of a number of scenes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another value of config.py")
    options = parser.parse_args()
    cfg, device = changed(Config(), options.set), options.device
    torch.manual_seed(cfg.seed)
    torch.set_flush_denormal(True)  # a CPU is many times slower on denormal numbers
    vae = build(cfg).to(device).to(memory_format=torch.channels_last)
    if device == "cpu":
        faster_norms(vae)
    if not options.fresh:
        start_from_released(vae, "vae")
    optimiser = torch.optim.AdamW(vae.parameters(), lr=cfg.vae.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    run, first, before = Run("vae", cfg.checkpoint_seconds), 0, 0.0
    if state := run.load():
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        first, before = state["step"], state.get("done", 0.0)
    pack = Pack(cache_folder() / "data.npz")
    stream = batches(cfg, pack, cfg.vae.batch, seed=cfg.seed + first, workers=options.workers)
    x = to_pixels(next(stream).pictures, device)
    length = Length(cfg.vae.scenes // cfg.vae.batch, options.minutes, before)
    scale = latent_scale(vae, x)
    for step in itertools.count(first):
        done = length.done(step)
        if done >= 1 or step % 100 == 0:
            scale = latent_scale(vae, x)
            if run.due() or done >= 1:
                run.save(
                    {
                        "vae": vae.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step,
                        "done": done,
                        "scale": scale,
                    }
                )
        if done >= 1:
            break
        x = to_pixels(next(stream).pictures, device)
        with half(device):
            loss, l1 = reconstruction_loss(cfg, vae, x)
        for group in optimiser.param_groups:
            group["lr"] = cfg.vae.lr * trapezoid(step, done, warmup=100)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            run.log(step=step, scenes=step * cfg.vae.batch, loss=loss.item(), l1=l1.item(), scale=scale)


if __name__ == "__main__":
    main()
