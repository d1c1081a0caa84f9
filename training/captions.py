"""What a scene is called: names, synonyms, kinds, articles, colours, counts and positions, drawn at random."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from config import CaptionConfig
from vocabulary import Concept

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
FRAMES = {
    True: ("a photo of", "a photograph of", "a picture of"),
    False: ("a drawing of", "an icon of", "a picture of"),
}
VOWEL_SOUND_EXCEPTIONS = ("uni", "euro", "one ", "ukulele", "u ")


@dataclass(frozen=True)
class Mention:
    """One thing of a scene as its caption may speak of it.

    `photo`: a photograph rather than a drawing. `colour`: its one colour, if it has one. `recoloured`: that colour is not
    its own, so the caption has to tell. `centre`: (x, y), shares of the picture. `count`: how many of it there are.
    """

    concept: Concept
    photo: bool
    colour: str | None = None
    recoloured: bool = False
    centre: tuple[float, float] = (0.5, 0.5)
    count: int = 1


def colour_name(rgb: tuple[float, float, float]) -> str:
    """The everyday name of an RGB colour in [0, 1]."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*rgb)
    chroma = max(rgb) - min(rgb)
    if lightness < 0.16:
        return "black"
    if chroma < 0.13 or saturation < 0.12:
        return "white" if lightness > 0.82 else "black" if lightness < 0.28 else "grey"
    degrees = 360 * hue
    if degrees < 14 or degrees >= 345:
        return "pink" if lightness > 0.72 else "red"
    if degrees < 42:
        return "brown" if lightness < 0.42 or saturation < 0.5 else "orange"
    if degrees < 68:
        return "brown" if lightness < 0.3 else "yellow"
    bounds = ((165, "green"), (255, "blue"), (290, "purple"), (345, "pink"))
    return next(name for bound, name in bounds if degrees < bound)


def one_colour(rgba: np.ndarray, share: float) -> str | None:
    """The name of the colour that covers at least `share` of a premultiplied RGBA cut-out (H, W, 4) in [0, 1], or None."""
    solid = rgba[rgba[..., 3] > 0.7]
    if len(solid) < 12:
        return None
    some = solid[:: max(1, len(solid) // 100)]
    names = [colour_name(tuple(rgb)) for rgb in (some[:, :3] / some[:, 3:]).tolist()]
    values, counts = np.unique(names, return_counts=True)
    best = counts.argmax()
    return str(values[best]) if counts[best] >= share * len(names) else None


def article(rng: np.random.Generator, name: str, plural: bool) -> str:
    """The name with "a", "an", "the" or nothing before it."""
    vowel = name[0] in "aeiou" and not name.startswith(VOWEL_SOUND_EXCEPTIONS)
    indefinite = "" if plural else "an" if vowel else "a"
    word = rng.choice(["", indefinite, "the"], p=[0.2, 0.65, 0.15])
    return f"{word} {name}".strip()


def called(rng: np.random.Generator, cfg: CaptionConfig, concept: Concept) -> str:
    """One of the thing's names: mostly its own, else a synonym, a kind ("animal") or a keyword."""
    lot = rng.random()
    for share, names in ((cfg.synonym, concept.synonyms), (cfg.kind, concept.kinds), (cfg.keyword, concept.keywords)):
        if lot < share:
            return names[rng.integers(len(names))] if names else concept.name
        lot -= share
    return concept.name


def place(centre: tuple[float, float]) -> str | None:
    """Where a thing stands, in words, if that is clear."""
    x, y = centre[0] - 0.5, centre[1] - 0.5
    if max(abs(x), abs(y)) < 0.07:
        return PLACES[4]
    if abs(x) > max(0.13, 1.3 * abs(y)):
        return PLACES[int(x > 0)]
    if abs(y) > max(0.13, 1.3 * abs(x)):
        return PLACES[2 + int(y > 0)]
    return None


def phrase(rng: np.random.Generator, cfg: CaptionConfig, thing: Mention) -> str:
    """One thing in words: "two dogs", "the red apple", "a cat on the left", "the left sheep"."""
    name = called(rng, cfg, thing.concept)
    own = name == thing.concept.name
    if thing.count > 1:
        name = thing.concept.plural
        return f"{('', 'two', 'three')[thing.count - 1]} {name}" if rng.random() < 0.7 else name
    if thing.colour and (thing.recoloured or rng.random() < cfg.colour):
        name = f"{thing.colour} {name}"
    where = place(thing.centre) if rng.random() < cfg.position else None
    if where and where.endswith(("left", "right")) and rng.random() < 0.4:
        return f"the {where.split()[-1]} {name}"
    text = article(rng, name, plural=own and thing.concept.plural == thing.concept.name)
    return f"{text} {where}" if where else text


def caption(rng: np.random.Generator, cfg: CaptionConfig, things: list[Mention]) -> str:
    """A caption that names `things` in their order."""
    parts = [phrase(rng, cfg, thing) for thing in things]
    text = parts[0]
    if len(parts) > 1:
        text = ", ".join(parts) if rng.random() < 0.15 else ", ".join(parts[:-1]) + " and " + parts[-1]
    styles = {thing.photo for thing in things}
    if rng.random() < cfg.frame and len(styles) == 1:
        frames = FRAMES[styles.pop()]
        text = f"{frames[rng.integers(len(frames))]} {text}"
    return text
