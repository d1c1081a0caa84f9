"""The cost of a preset on the architecture of Stable Diffusion 1.5 (860 M UNet, 512²): FLOPs counted exactly, and seconds with random
weights, which time the same as real ones. A part of `speed.py`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from peekaboo import Peekaboo, Settings, preset
from peekaboo.denoisers.load import bundled_folder

FIRST_CODE_STEPS = 300
"""What the paper's first implementation runs; the paper says 200."""
MEASURED_STEPS = 4
"""Of a long run on a CPU, that many steps are timed and multiplied: every step costs the same."""


def parts(side: int = 512) -> tuple[Any, Any]:
    """The UNet and the VAE of SD 1.5, on the current default device, with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=side // 8,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=side,
    )
    return unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)


def flops(side: int = 512) -> dict[str, float]:
    """FLOPs (two a multiply-add) of one UNet pass, one VAE encoding, and its backward pass down to the pixels. Nothing is computed:
    the networks have no data."""
    with torch.device("meta"):
        unet, vae = parts(side)
        latents, text = torch.empty(1, 4, side // 8, side // 8), torch.empty(1, 77, 768)
        image = torch.empty(1, 3, side, side, requires_grad=True)
        with FlopCounterMode(display=False) as one:
            unet(latents, torch.zeros(1), text)
        with FlopCounterMode(display=False) as two:
            latent = vae.encode(image).latent_dist.mean
        with FlopCounterMode(display=False) as three:
            latent.sum().backward()
    counts = (one, two, three)
    return dict(zip(("UNet", "VAE", "VAE backward"), (float(c.get_total_flops()) for c in counts), strict=True))


def flops_table(passes: dict[str, dict[str, float]]) -> list[str]:
    """TFLOP an image at SD 1.5's size of presets with the given passes an image."""
    each = flops()
    total = {name: sum(each[part] * count for part, count in counts.items()) for name, counts in passes.items()}
    kinds = ", ".join(f"{part} {value / 1e12:.2f}" for part, value in each.items())
    lines = [
        f"| SD 1.5, 512² (TFLOP a pass: {kinds}) | UNet passes | VAE passes | backward | TFLOP an image | `paper` / this |",
        "|---|---|---|---|---|---|",
    ]
    for name, counts in passes.items():
        row = " | ".join(f"{counts[part]:.0f}" for part in each)
        lines.append(f"| `{name}` | {row} | {total[name] / 1e12:.0f} | {total['paper'] / total[name]:.1f} |")
    return lines


def pipeline(side: int, device: str, dtype: torch.dtype) -> Any:
    """A StableDiffusionPipeline of that architecture with random weights, and the bundled model's words."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet, vae = parts(side)
    words = CLIPTokenizer.from_pretrained(bundled_folder() / "tokenizer", model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        **{f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, dtype)


def timed(model: Peekaboo, settings: Settings, image: np.ndarray, share: float) -> float:
    """Seconds of one run, its descent done for the first `share` of its steps only and multiplied."""
    run = model.start(image, "a cat", preset=settings)
    clock = time.perf_counter()
    marks = [0.0]
    for _ in run:
        marks.append(time.perf_counter() - clock)
        if settings.warm_start == 0 and len(marks) > max(2, share * settings.steps):
            per_step = (marks[-1] - marks[1]) / (len(marks) - 2)
            return marks[1] + per_step * (settings.steps - 1)
    run.result()
    return time.perf_counter() - clock


def timed_table(device: str, side: int) -> list[str]:
    """Seconds an image: `paper` as first published (float32, 300 steps) beside `draft` and `default` as they run on the device."""
    gpu = device == "cuda"
    image = np.random.default_rng(0).random((side, side, 3))
    half = torch.float16 if gpu else torch.float32
    published = preset("paper", steps=FIRST_CODE_STEPS)
    rows = [
        ("paper, 300 steps", published, torch.float32),
        ("draft", preset("draft"), half),
        ("default", preset("default"), half),
    ]
    name = torch.cuda.get_device_name() if gpu else "CPU"
    lines = [
        f"| SD 1.5's architecture, {side}², {name} | precision | s/image | times faster | peak memory, GB |",
        "|---|---|---|---|---|",
    ]
    base, loaded = 0.0, None
    for title, settings, dtype in rows:
        if loaded is None or loaded[0] != dtype:
            loaded = (dtype, Peekaboo(pipeline(side, device, dtype)))
            timed(loaded[1], preset("draft", warm_start=1), image, 1.0)  # warm up
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(
            loaded[1], settings, image, 1.0 if gpu else MEASURED_STEPS / settings.steps if settings.steps else 1.0
        )
        base = base or seconds
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if gpu else "not measured"
        precision = str(dtype).removeprefix("torch.")
        lines.append(f"| `{title}` | {precision} | {seconds:.2f} | {base / seconds:.1f} | {memory} |")
    if not gpu:
        lines += ["", f"On the CPU, of `paper`'s {FIRST_CODE_STEPS} steps {MEASURED_STEPS} were timed and multiplied."]
    return lines
