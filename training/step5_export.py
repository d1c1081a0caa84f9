"""Step 5: the averaged weights as a StableDiffusionPipeline in diffusers' own layout, fp16 safetensors; beside it the list of
what the model knows (vocabulary.json) and the checksums of its weights (SHA256SUMS). The dual encoder, if step 4 has made
one, goes into the folder `bundled-clip` next to it.

    python step5_export.py [--out ../src/peekaboo/bundled]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPProcessor

import step4_clip
from common import Run
from config import Config, cache_folder
from scenes import Pack
from step3_denoiser import Trainer
from text import FRAME

DEFAULT_OUT = Path(__file__).parent.parent / "src" / "peekaboo" / "bundled"


def trained_pipeline(cfg: Config) -> tuple[StableDiffusionPipeline, Trainer, dict]:
    """The averaged weights of step 3's checkpoint as a pipeline in float32, what they were trained with, and the checkpoint."""
    trainer = Trainer(cfg, "cpu", fresh=True)
    state = Run("denoiser", cfg.checkpoint_seconds).load()
    if state is None:
        raise SystemExit("There is no denoiser checkpoint yet: run step 3 first.")
    trainer.networks.load_state_dict(state["ema"])
    trainer.vae.register_to_config(scaling_factor=round(state["scale"], 6))
    pipe = StableDiffusionPipeline(
        vae=trainer.vae,
        text_encoder=trainer.text,
        tokenizer=trainer.tokenizer,
        unet=trainer.unet,
        scheduler=trainer.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, trainer, state


def export(out: Path) -> None:
    pipe, trainer, state = trained_pipeline(Config())
    pipe = pipe.to(torch.float16)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial, safe_serialization=True)
    tokenizer_as_built(partial / "tokenizer")
    keep_card(out, partial)
    forget_paths(partial)
    write_vocabulary(partial / "vocabulary.json", trainer.pack)
    write_sums(partial)
    replace(out, partial)
    print(f"step {state['step']}, {state['scenes']} scenes: {out} {megabytes(out):.1f} MB")


def export_clip(out: Path) -> None:
    """The dual encoder as transformers' CLIPModel and CLIPProcessor."""
    cfg = Config()
    state = Run("clip", cfg.checkpoint_seconds).load()
    if state is None:
        print("no dual encoder yet (step 4): left out")
        return
    tokenizer, _ = step4_clip.load(cfg)
    model = step4_clip.build(cfg, tokenizer)
    model.load_state_dict(state["ema"])
    square = {"height": cfg.size, "width": cfg.size}
    processor = CLIPImageProcessor(
        size=square, crop_size=square, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.half().save_pretrained(partial)
    CLIPProcessor(processor, tokenizer).save_pretrained(partial)
    tokenizer_as_built(partial)
    keep_card(out, partial)
    forget_paths(partial)
    write_sums(partial)
    replace(out, partial)
    print(f"step {state['step']}, {state['scenes']} scenes: {out} {megabytes(out):.1f} MB")


def tokenizer_as_built(folder: Path) -> None:
    """The run's tokenizer in the place of what was saved: one that has been used is saved with the padding of its last use."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(cache_folder() / "runs" / "tokenizer" / name, folder)


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def replace(folder: Path, partial: Path) -> None:
    """Put a finished folder in the place of an old one."""
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def keep_card(folder: Path, partial: Path) -> None:
    """Carry over what is not exported: the model card, written by hand, and its pictures."""
    for pattern in ("README.md", "*.jpg", "*.png"):
        for file in folder.glob(pattern):
            shutil.copy(file, partial)


def write_vocabulary(path: Path, pack: Pack) -> None:
    """The names, other words and relatives that `peekaboo.vocabulary` reads."""
    fields = ("name", "category", "core", "synonyms", "kinds", "plural")
    names = [{key: getattr(pack.concepts[name], key) for key in fields} for name in pack.names]
    keywords = {word for name in pack.names for keyword in pack.concepts[name].keywords for word in keyword.split()}
    data = {"names": names, "words": sorted({*FRAME.split(), *keywords}), "related": pack.related}
    path.write_text(json.dumps(data, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")


def write_sums(folder: Path) -> None:
    """SHA256SUMS of the weights, as `sha256sum` writes and checks it."""
    files = sorted(folder.rglob("*.safetensors"))
    rows = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}" for file in files]
    (folder / "SHA256SUMS").write_text("\n".join(rows) + "\n")


def forget_paths(folder: Path) -> None:
    """Leave out of the configurations the paths of the machine they were made on, how its files were fetched, and the precision they are
    stored in."""
    for file in folder.rglob("*.json"):
        data = json.loads(file.read_text())
        if not isinstance(data, dict) or file.name in {"tokenizer.json", "vocab.json"}:
            continue
        for key in ("_name_or_path", "is_local", "local_files_only"):
            data.pop(key, None)
        if (
            "dtype" in data
        ):  # transformers would load in it, diffusers in float32: they must agree when nothing is asked
            data["dtype"] = "float32"
        file.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    folder = parser.parse_args().out
    export(folder)
    export_clip(folder.with_name("bundled-clip"))
