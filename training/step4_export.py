"""Step 4: the averaged weights as a StableDiffusionPipeline in diffusers' own layout, fp16 safetensors.

python step4_export.py [--out ../src/peekaboo/bundled]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from common import Run
from config import Config
from step3_denoiser import Trainer

DEFAULT_OUT = Path(__file__).parent.parent / "src" / "peekaboo" / "bundled"


def export(out: Path) -> None:
    cfg = Config()
    trainer = Trainer(cfg, "cpu")
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
    ).to(torch.float16)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial, safe_serialization=True)
    if (card := out / "README.md").exists():  # the model card is written by hand
        shutil.copy(card, partial)
    forget_paths(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"step {state['step']}, {state['step'] * cfg.denoiser.batch} scenes: {out} {size / 1e6:.1f} MB")


def forget_paths(folder: Path) -> None:
    """Leave out of the configurations the paths of the machine they were made on, and the precision they are stored in."""
    for file in folder.rglob("*.json"):
        data = json.loads(file.read_text())
        if not isinstance(data, dict) or file.name == "tokenizer.json":
            continue
        data.pop("_name_or_path", None)
        if (
            "dtype" in data
        ):  # transformers would load in it, diffusers in float32: they must agree when nothing is asked
            data["dtype"] = "float32"
        file.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    export(parser.parse_args().out)
