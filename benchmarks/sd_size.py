"""The cost of a preset on the architecture of Stable Diffusion 1.5 (860 M UNet): `make bench-sd`. Random weights time the same as
real ones. Writes benchmarks/sd-size-cuda.md or sd-size-cpu.md.

    python benchmarks/sd_size.py [--device cuda] [--side 512]

Needs nothing but the package: no data, no weights. FLOPs are counted exactly, two a multiply-add: those of the UNet, of the VAE's
encoder and of its backward pass; the text encoder, the blur and GrabCut are left out. The share of the throughput is those FLOPs a
second, of what a large bfloat16 product of matrices reaches on the same device at the same time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from counting import Counting
from peekaboo import Peekaboo, Settings, preset
from peekaboo.denoisers.load import bundled_folder, multiplies_bfloat16

FOLDER = Path(__file__).parent
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
    with torch.device(device):  # random numbers for a billion weights take a CPU half a minute
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


@dataclass
class Cost:
    """Of one run: seconds, FLOPs of its passes, and the most memory it took, GB."""

    seconds: float
    flops: float
    memory: float


def matmul_throughput(device: torch.device, side: int) -> float:
    """FLOP/s of the best of ten products of two (side, side) matrices in bfloat16."""
    a, b = torch.randn(2, side, side, device=device).bfloat16()
    best = float("inf")
    for _ in range(11):  # the first warms up
        wait(device)
        clock = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - clock)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """GB: of the GPU since its count was reset, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(counter: Counting, settings: Settings, image: np.ndarray, each: dict[str, float], share: float) -> Cost:
    """One run. With a `share` under one, a descent without a warm start is done for that share of its steps only, and multiplied."""
    device = counter.inner.device
    before = dict(counter.passes)
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run = Peekaboo(counter).start(image, "a cat", preset=settings)
    clock = time.perf_counter()
    marks, counts = [0.0], [dict(counter.passes)]

    def flops(start: dict[str, float], end: dict[str, float]) -> float:
        return sum(each[part] * (end[part] - start[part]) for part in each)

    for _ in run:
        wait(device)
        marks.append(time.perf_counter() - clock)
        counts.append(dict(counter.passes))
        if share < 1 and settings.warm_start == 0 and len(marks) > max(2, share * settings.steps):
            times = (settings.steps - 1) / (len(marks) - 2)
            return Cost(
                marks[1] + times * (marks[-1] - marks[1]),
                flops(before, counts[1]) + times * flops(counts[1], counts[-1]),
                peak_memory(device),
            )
    run.result()
    wait(device)
    return Cost(time.perf_counter() - clock, flops(before, counter.passes), peak_memory(device))


def timed_table(device: torch.device, side: int) -> list[str]:
    """Seconds an image: `paper` as first published (float32, 300 steps) beside `draft` and `default` as they run on the device."""
    gpu = device.type == "cuda"
    image = np.random.default_rng(0).random((side, side, 3))
    half = torch.float16 if gpu else torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    rows = [
        ("paper, 300 steps", preset("paper", steps=FIRST_CODE_STEPS), torch.float32),
        ("draft", preset("draft", presence=0.0), half),
        ("default", preset("default", presence=0.0), half),
    ]
    each, best = flops(side), matmul_throughput(device, 8192 if gpu else 2048)
    name = torch.cuda.get_device_name() if gpu else "CPU"
    lines = [
        f"| SD 1.5's architecture, {side}², {name} | precision | s/image | times faster | TFLOP | of the throughput | peak memory, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    base, counter, loaded = 0.0, None, None
    for title, settings, dtype in rows:
        if counter is None or loaded != dtype:
            counter = None  # frees the last one's weights first
            counter, loaded = Counting(Peekaboo(pipeline(side, str(device), dtype)).denoiser), dtype
        warm = settings if gpu and settings.warm_start else preset("paper", steps=2)
        measured(counter, warm, image, each, 1.0)
        cost = measured(counter, settings, image, each, 1.0 if gpu else MEASURED_STEPS / max(settings.steps, 1))
        base = base or cost.seconds
        lines.append(
            f"| `{title}` | {str(dtype).removeprefix('torch.')} | {cost.seconds:.2f} | {base / cost.seconds:.1f} "
            f"| {cost.flops / 1e12:.1f} | {100 * cost.flops / cost.seconds / best:.0f} % | {cost.memory:.2f} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Throughput: {best / 1e12:.1f} TFLOP/s, a bfloat16 product of square matrices, measured in the same run.",
    ]
    if not gpu:
        lines[-1] += (
            f" On the CPU, of `paper`'s {FIRST_CODE_STEPS} steps {MEASURED_STEPS} were timed and multiplied, and the memory is that "
            "of the process, the most since it began."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--side", type=int, help="pixels; 512 on a GPU, 128 on a CPU unless given")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    table = timed_table(device, options.side or (512 if device.type == "cuda" else 128))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}, {datetime.date.today()}."
    out: Path = options.out or FOLDER / f"sd-size-{device.type}.md"
    out.write_text("\n".join([*table, "", f"Random weights. {machine}", ""]))
    print("", *table, machine, sep="\n", flush=True)


if __name__ == "__main__":
    main()
