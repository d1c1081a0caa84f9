"""Step 1: fetch the sources from the package registries by name, and pack what is used into one small file.

Reads nothing but packages (npm and Debian); writes `data.npz`: cut-outs with alpha, their names, and backgrounds. The pack
travels: copied to another machine, the other steps need nothing else.

    python step1_data.py            # about two minutes, 380 MB of downloads, kept in the cache folder
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from concepts import read_table
from config import Config, DataConfig, cache_folder

LEFT_OUT = re.compile(r"^symbols/|/flags/|/roadsigns/|_(mirror|flip|mirror_flip)\.png$")


def held_out(key: str) -> bool:
    """True for one file in eight: it is never trained on. `key` is a stamp's path or "set/icon"."""
    return zlib.crc32(key.encode()) % 8 == 0


def run(command: list[str], folder: Path) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def fetch(cfg: DataConfig, cache: Path) -> None:
    """Download and unpack each package once."""
    for name in cfg.npm:
        target = cache / "npm" / name
        if not (target / "icons.json").exists():
            target.mkdir(parents=True, exist_ok=True)
            run(["npm", "pack", "--silent", f"@iconify-json/{name}"], target)
            archive = next(target.glob("*.tgz"))
            run(["tar", "xzf", archive.name, "--strip-components=1"], target)
    for name in cfg.debian:
        target = cache / "debian" / name
        if not (target / "usr").exists():
            target.mkdir(parents=True, exist_ok=True)
            run(["apt-get", "download", "-q", name], target)
            run(["dpkg", "-x", next(target.glob("*.deb")).name, "."], target)


def trim(image: Image.Image, side: int) -> Image.Image | None:
    """Crop to the visible part and shrink so that the longest side is `side` pixels."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    ratio = side / max(image.size)
    size = [max(2, round(length * ratio)) for length in image.size]
    premultiplied = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS)
    return premultiplied.convert("RGBA")


def icons(cfg: DataConfig, cache: Path):
    """Yield (key, icon name, RGBA picture) of every icon in the useful categories."""
    noto = json.loads((cache / "npm" / "noto" / "metadata.json").read_text())
    wanted = sorted({name for category in cfg.categories for name in noto["categories"][category]})
    for icon_set in cfg.npm:
        data = json.loads((cache / "npm" / icon_set / "icons.json").read_text())
        for name in wanted:
            icon = data["icons"].get(name)
            if icon is None:
                continue
            width = icon.get("width", data.get("width", 16))
            height = icon.get("height", data.get("height", 16))
            left, top = icon.get("left", 0), icon.get("top", 0)
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
            )
            png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * cfg.sprite_side, skip_system_fonts=True)
            yield f"{icon_set}/{name}", name, Image.open(io.BytesIO(bytes(png)))


def stamps(cache: Path):
    """Yield (key, caption, RGBA picture) of every Tux Paint stamp that is not left out."""
    root = cache / "debian" / "tuxpaint-stamps-default" / "usr/share/tuxpaint/stamps"
    for path in sorted(root.rglob("*.png")):
        key = path.relative_to(root).as_posix()
        if LEFT_OUT.search(key):
            continue
        text = path.with_suffix(".txt")
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.exists() else []
        yield key, lines[0].strip() if lines else path.stem, Image.open(path)


def backgrounds(cfg: DataConfig, cache: Path):
    """Yield (key, RGB picture): one size of each wallpaper and photograph."""
    seen = set()
    for package in cfg.debian[1:]:
        root = cache / "debian" / package
        paths = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in {".jpg", ".png", ".webp"}]
        for path in paths:
            key = path.relative_to(root / "usr/share").as_posix()
            motif = re.sub(r"/contents/(images|images_dark|screenshot).*", "", key)
            motif = re.sub(r"_\d+x\d+", "", motif)
            if motif in seen or "screenshot" in key:
                continue
            seen.add(motif)
            image = Image.open(path).convert("RGB")
            ratio = cfg.background_side / min(image.size)
            size = [round(length * ratio) for length in image.size]
            yield f"{package}/{motif}", image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()


def pack(cfg: DataConfig, cache: Path) -> Path:
    """Write the pack: `blob` (all WebP files end to end), `ends`, and `records` (JSON, one entry a file)."""
    files, records = [], []

    def add(kind: str, key: str, image: Image.Image, caption: str) -> None:
        files.append(encode(image, quality=88))
        records.append({"kind": kind, "key": key, "caption": caption, "held_out": held_out(key)})

    for key, name, picture in icons(cfg, cache):
        if image := trim(picture, cfg.sprite_side):
            add("icon", key, image, name.replace("-", " "))
    for key, caption, picture in stamps(cache):
        if image := trim(picture, cfg.sprite_side):
            add("stamp", key, image, caption)
    for key, image in backgrounds(cfg, cache):
        add("background", key, image, "")

    path = cache / "data.npz"
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        blob=np.frombuffer(b"".join(files), np.uint8),
        ends=np.cumsum([len(file) for file in files]),
        records=np.frombuffer(json.dumps(records).encode(), np.uint8),
    )
    partial.rename(path)
    return path


def main() -> None:
    cfg, cache = Config().data, cache_folder()
    fetch(cfg, cache)
    path = pack(cfg, cache)
    records = json.loads(bytes(np.load(path)["records"]))
    concepts = read_table()
    covered: set[str] = set()
    for kind in ("icon", "stamp", "background"):
        chosen = [r for r in records if r["kind"] == kind]
        held = sum(r["held_out"] for r in chosen)
        print(f"{kind}: {len(chosen)}, {held} held out")
        covered |= {c.name for c in concepts for r in chosen if not r["held_out"] and c.shown_by(kind, r["key"])}
    missing = [c.name for c in concepts if c.name not in covered]
    print(f"concepts: {len(covered)}; without a picture: {missing}; {path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
