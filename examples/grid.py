"""Foregrounds × backgrounds, learnt together with the Peekaboo loss: `python examples/grid.py [--out grid.png]`.

The grid experiment of the paper's authors: every foreground is a picture with an alpha, every background a picture without, and
each cell of the grid lays one on the other and has a caption of its own, "a red apple on a blue background". The loss is score
distillation on all cells at once. What all cells of a row share can only be the foreground, and what all cells of a column share
only the background, without a word about masks. Each foreground starts from a sample of its own (`--paper`: from nothing), each
background from nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from peekaboo import Peekaboo
from peekaboo.alpha import Fourier, Raster
from peekaboo.bilateral import no_blur
from peekaboo.denoisers import Denoiser
from peekaboo.generate import make_canvas, pictures, split
from peekaboo.loss import LOSSES
from peekaboo.rgba import checkerboard, on, to_image
from peekaboo.scene import Scene
from peekaboo.settings import GenerateSettings, generate_preset

OUT = Path(__file__).parent / "out" / "grid.png"
FOREGROUNDS = ("a red apple", "a yellow banana")
BACKGROUNDS = ("a blue background", "a green background")


def blend(foregrounds: list[nn.Module], backgrounds: list[nn.Module]) -> Tensor:
    """All cells, row by row: α_i·x_i + (1−α_i)·b_j, (F·B, 3, H, W) in [0, 1]."""
    back = torch.stack([torch.sigmoid(canvas()) for canvas in backgrounds])
    return torch.cat([alpha * colour + (1 - alpha) * back for colour, alpha in map(split, foregrounds)])


def begin(denoiser: Denoiser, prompt: str, settings: GenerateSettings, generator: torch.Generator) -> nn.Module:
    """A foreground's canvas, four logits a pixel: from a sample of its own on several backgrounds, or from nothing."""
    size = (round(denoiser.native_area**0.5),) * 2
    start = None
    if settings.start != "noise":
        embeddings = denoiser.encode_prompt([prompt, ""])
        *_, (colour, alpha) = pictures(denoiser, embeddings, size, settings.with_changes(start="consensus", steps=0))
        start = torch.cat([colour, alpha[None]])
    return make_canvas(size, settings, start, generator, denoiser.device)


def behind(denoiser: Denoiser, settings: GenerateSettings, generator: torch.Generator) -> nn.Module:
    """A background's canvas, three logits a pixel, from nothing."""
    kind = Fourier if settings.alpha == "fourier" else Raster
    size = (round(denoiser.native_area**0.5),) * 2
    return kind(3, size, no_blur, generator, device=denoiser.device)


def learn(
    denoiser: Denoiser,
    foregrounds: list[nn.Module],
    backgrounds: list[nn.Module],
    embeddings: Tensor,
    settings: GenerateSettings,
    generator: torch.Generator,
) -> None:
    """Follow the score of every cell down to all pictures. embeddings: of the cells' captions, and last of nothing."""
    everything = nn.ModuleList([*foregrounds, *backgrounds])
    optimizer = torch.optim.Adam(everything.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        cells = blend(foregrounds, backgrounds)
        seen = cells.detach().requires_grad_(True)
        scene = Scene(denoiser, seen, embeddings[:-1], embeddings[-1:], None)
        value, scale = LOSSES[settings.estimator](scene, settings, seen, generator)
        (gradient,) = torch.autograd.grad(value, seen)
        optimizer.zero_grad(set_to_none=True)
        (scale * gradient * cells).sum().backward()
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1} of {settings.steps}", flush=True)


@torch.no_grad()
def sheet(foregrounds: list[nn.Module], backgrounds: list[nn.Module], side: int = 160) -> Image.Image:
    """The foregrounds on checks down the left, the backgrounds along the top, and the cells between them."""
    rows, columns = len(foregrounds), len(backgrounds)
    page = Image.new("RGB", (side * (columns + 1), side * (rows + 1)), "white")
    size = (side - 4, side - 4)
    for row, canvas in enumerate(foregrounds):
        page.paste(on(checkerboard(size, 13), to_image(*split(canvas), size)), (0, side * (row + 1)))
    opaque = torch.ones(foregrounds[0]().shape[-2:])
    for column, canvas in enumerate(backgrounds):
        page.paste(to_image(torch.sigmoid(canvas()), opaque, size).convert("RGB"), (side * (column + 1), 0))
    for index, cell in enumerate(blend(foregrounds, backgrounds)):
        row, column = divmod(index, columns)
        page.paste(to_image(cell, opaque, size).convert("RGB"), (side * (column + 1), side * (row + 1)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foregrounds", nargs="+", default=FOREGROUNDS)
    parser.add_argument("--backgrounds", nargs="+", default=BACKGROUNDS)
    parser.add_argument("--paper", action="store_true", help="Fourier images from nothing, as in the paper, and slower")
    parser.add_argument("--steps", type=int, help="unless given, 60, or 300 with --paper")
    parser.add_argument("--model", "-m", default="bundled", help="as for `peekaboo generate`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    start = time.perf_counter()
    denoiser = Peekaboo.from_pretrained(options.model).denoiser
    ours = {"steps": options.steps or 60, "guidance_scale": 15.0, "learning_rate": 0.05, "t_max": 0.8}
    theirs = {"steps": options.steps or 300, "guidance_scale": 30.0, "learning_rate": 2e-3}
    settings = generate_preset(*(("paper",) if options.paper else ()), **(theirs if options.paper else ours))
    settings = settings.with_changes(seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    foregrounds = [begin(denoiser, prompt, settings, generator) for prompt in options.foregrounds]
    backgrounds = [behind(denoiser, settings, generator) for _ in options.backgrounds]
    captions = [f"{front} on {back}" for front in options.foregrounds for back in options.backgrounds]
    learn(denoiser, foregrounds, backgrounds, denoiser.encode_prompt([*captions, ""]), settings, generator)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(foregrounds, backgrounds).save(options.out)
    print(f"{', '.join(captions)}\n{options.out}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
