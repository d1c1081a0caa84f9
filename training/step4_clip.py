"""Step 4: a small dual encoder, a stock CLIPModel, on composed scenes of one object: it judges what the denoiser makes.

    python step4_clip.py [--device cuda] [--workers N] [--minutes M] [--scenes N]    # resumes from its checkpoint, or goes on from the released weights
    python step4_clip.py --measure                        # retrieval among all names, on held-out pictures

The loss is CLIP's (Radford et al. 2021, arXiv 2103.00020), both ways; a pair of the same concept is nobody's negative.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from kornia import augmentation
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from common import Batch, Length, Run, Source, batches, half, start_from_released, to_pixels, trapezoid
from config import Config, cache_folder, changed
from muon import Muon, is_matrix
from scenes import Pack, compose
from step3_denoiser import load_tokenizer

TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "a drawing of a {}")


def build(cfg: Config, tokenizer: CLIPTokenizer) -> CLIPModel:
    c = cfg.clip
    shared = {"hidden_size": c.width, "intermediate_size": 4 * c.width, "num_attention_heads": c.width // 32}
    text = CLIPTextConfig(
        **shared,
        vocab_size=len(tokenizer),
        num_hidden_layers=c.text_layers,
        max_position_embeddings=cfg.denoiser.text_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**shared, num_hidden_layers=c.layers, image_size=cfg.size, patch_size=c.patch)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=c.width))


def scene_config(cfg: Config) -> Config:
    """One object a scene, of any size, in the native square."""
    square = (cfg.size, cfg.size)
    scenes = dataclasses.replace(cfg.scenes, close_up=cfg.clip.scale)
    return dataclasses.replace(cfg, shapes=(square,), close_up=square, scenes=scenes)


def tokens(tokenizer: CLIPTokenizer, texts: list[str], device: str) -> dict[str, Tensor]:
    """Padded to the longest: captions are short."""
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    return {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, names: list[str]) -> Tensor:
    """CLIP's loss on unit embeddings (B, D), pairs of one name left out of the negatives."""
    logits = scale * images @ texts.T
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    ids = torch.tensor([index[name] for name in names], device=logits.device)
    twins = (ids[:, None] == ids[None]) & ~torch.eye(len(ids), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(twins, float("-inf"))
    target = torch.arange(len(ids), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def disturbance() -> nn.Module:
    """Of pictures (B, 3, H, W) in [0, 1], another for each: light, colour, a piece gone. There are far fewer drawings than scenes, and a
    drawing must not be known by its very colours."""
    return augmentation.AugmentationSequential(
        augmentation.ColorJiggle(0.25, 0.25, 0.35, 0.03, p=0.8),
        augmentation.RandomGrayscale(p=0.05),
        augmentation.RandomErasing(scale=(0.02, 0.2), p=0.4),
    )


@torch.no_grad()
def name_embeddings(model: CLIPModel, tokenizer: CLIPTokenizer, names: list[str], device: str) -> Tensor:
    """Unit embeddings (N, D) of names, each the mean over TEMPLATES."""
    total = 0
    for template in TEMPLATES:
        rows = model.get_text_features(**tokens(tokenizer, [template.format(name) for name in names], device))
        total = total + F.normalize(getattr(rows, "pooler_output", rows), dim=-1)
    return F.normalize(total, dim=-1)


@torch.no_grad()
def image_embeddings(model: CLIPModel, pictures: Tensor, device: str) -> Tensor:
    """Unit embeddings (B, D) of pictures uint8 (B, H, W, 3) at the native size."""
    rows = model.get_image_features(pixel_values=to_pixels(pictures, device))
    return F.normalize(getattr(rows, "pooler_output", rows), dim=-1)


def held_out_pictures(
    cfg: Config, count: int = 500, core: bool = False, seed: int = 77
) -> tuple[Tensor, list[str], Pack]:
    """Clean scenes of one held-out thing: pictures uint8 (N, H, W, 3) and its name."""
    pack, rng = Pack(cache_folder() / "data.npz", "test", "known"), np.random.default_rng(seed)
    small = scene_config(cfg)
    names = pack.core if core else pack.names
    scenes = [compose(rng, pack, small, small.close_up, clean=True, names=names) for _ in range(count)]
    return torch.from_numpy(np.stack([s.image for s in scenes])), [s.names[0] for s in scenes], pack


def measure(cfg: Config, device: str) -> None:
    """How often the right name is the nearest of all names, and among the five nearest."""
    tokenizer, everything = load(cfg)
    model = build(cfg, tokenizer).to(device).eval()
    state = Run("clip", cfg.checkpoint_seconds).load()
    if state is None:
        raise SystemExit("There is no checkpoint yet: run step 4 without --measure first.")
    model.load_state_dict(state["ema"])
    names = [concept.name for concept in everything]
    table = name_embeddings(model, tokenizer, names, device)
    for core in (True, False):
        pictures, right, _ = held_out_pictures(cfg, core=core)
        order = (image_embeddings(model, pictures, device) @ table.T).argsort(dim=1, descending=True)[:, :5]
        hits = [[names[i] for i in row] for row in order.tolist()]
        top1 = np.mean([name == row[0] for name, row in zip(right, hits, strict=True)])
        top5 = np.mean([name in row for name, row in zip(right, hits, strict=True)])
        print(f"{'core' if core else 'all'} names: top-1 {top1:.3f}, top-5 {top5:.3f} of {len(names)} names")


def load(cfg: Config) -> tuple[CLIPTokenizer, list]:
    """The tokenizer that the denoiser has, and every concept."""
    pack = Pack(cache_folder() / "data.npz", "test")
    return load_tokenizer(cfg, pack), pack.every_concept


class Kept(NamedTuple):
    """Pictures uint8 (B, H, W, 3), a caption each, and the name of what each shows."""

    pictures: Tensor
    captions: list[str]
    names: list[str]


def train(cfg: Config, device: str, workers: int = 1, minutes: float | None = None) -> None:
    torch.manual_seed(cfg.seed)
    torch.set_flush_denormal(True)
    c = cfg.clip
    pack = Pack(cache_folder() / "data.npz")
    tokenizer = load_tokenizer(cfg, pack)
    model = build(cfg, tokenizer)
    start_from_released(model, "../bundled-clip")
    model = model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    matrices = [w for n, w in model.named_parameters() if is_matrix(n, w) and "patch_embedding" not in n]
    chosen = {id(w) for w in matrices}
    rest = [w for w in model.parameters() if id(w) not in chosen]
    optimisers = [torch.optim.AdamW(rest, lr=c.lr, betas=(0.9, 0.99), weight_decay=0.01), Muon(matrices, lr=c.lr)]
    run, step, behind = Run("clip", cfg.checkpoint_seconds), 0, 0.0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, behind = state["step"], state.get("done", 0.0)

    def keep(batch: Batch) -> Kept:
        return Kept(batch.pictures.to(device), batch.captions, [names[0] for names in batch.names])

    stream = batches(scene_config(cfg), pack, min(c.batch, 256), seed=cfg.seed + 31 + step, workers=workers)
    source = Source(stream, keep, c.batch, c.replay, 0.0 if device == "cpu" else None)
    next(source)  # the clock starts when there is something to train on
    length, mean = Length(c.scenes // c.batch, minutes, behind), torch.zeros((), device=device)
    disturb = disturbance()
    while (done := length.done(step)) < 1:
        batch = next(source)
        pixels = disturb((to_pixels(batch.pictures, device) + 1) / 2) * 2 - 1
        with half(device):
            out = model(**tokens(tokenizer, batch.captions, device), pixel_values=pixels)
        images, texts = out.image_embeds.float(), out.text_embeds.float()
        scale = model.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(images, texts, scale, batch.names)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = c.lr * trapezoid(step, done, c.warmup)
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        done = length.done(step)
        with torch.no_grad():
            weight = 1 - min(c.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), weight)
            mean.lerp_(loss.detach(), 1 if step == 1 else 0.05)
        if step % 25 == 0 or done >= 1:
            run.log(step=step, scenes=step * c.batch, composed=source.composed, loss=mean.item(), scale=scale.item())
        if run.due() or done >= 1:
            run.save(
                {
                    "model": model.state_dict(),
                    "ema": ema.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step,
                    "done": done,
                    "scenes": step * c.batch,
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    parser.add_argument("--scenes", type=int, help="instead of the configuration's")
    parser.add_argument("--minutes", type=float, help="the run's length, instead of a number of scenes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another value of config.py")
    parser.add_argument("--measure", action="store_true", help="measure retrieval and stop")
    options = parser.parse_args()
    cfg = changed(Config(), options.set + ([f"clip.scenes={options.scenes}"] if options.scenes else []))
    if options.measure:
        measure(cfg, options.device)
    else:
        train(cfg, options.device, options.workers, options.minutes)


if __name__ == "__main__":
    main()
