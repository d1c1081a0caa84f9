"""Which file of the sources shows what: every concept with its names, its kinds and its share of the training scenes.

The hand-written table of concepts.py comes first; every other icon name of the sources' categories is a concept too, and
so is every stamp that WordNet knows as a noun. `build` is the one function that the other files need.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import inflect

from concepts import read_table
from wordnet import WordNet

# Icons that differ in a reading, a direction or a colour alone are one concept.
MERGED = {
    "clock": r".*-(oclock|thirty)|mantelpiece-clock|alarm-clock",
    "moon": r".*(-moon|-moon-face)",
    "mailbox": r".*-mailbox-.*|postbox",
    "calendar": r"calendar|.*-calendar",
    "globe": r"globe-.*",
    "heart": r"(red|orange|yellow|green|blue|light-blue|purple|brown|black|white|grey|pink)-heart|heart-suit",
    "circle": r"(red|orange|yellow|green|blue|purple|brown|black|white)-circle",
    "square": r"(red|orange|yellow|green|blue|purple|brown)-square|(black|white)-large-square",
    "speaker": r"speaker-.*|muted-speaker",
    "banknote": r".*-banknote",
    "envelope": r"envelope|envelope-with-arrow|incoming-envelope|e-mail",
    "magnifying glass": r"magnifying-glass-.*",
    "hourglass": r"hourglass-.*",
    "folder": r"(open-)?file-folder",
    "traffic light": r".*-traffic-light",
    "mobile phone": r"mobile-phone.*",
    "padlock": r"locked.*|unlocked",
    "wheelchair": r"(manual|motorized)-wheelchair",
    "mountain": r"(snow-capped-)?mountain|mount-fuji|volcano",
    "scissors": r"scissors",
    "wine bottle": r"bottle-with-popping-cork",
    "bowl": r"(steaming-)?bowl(-with-spoon)?|pot-of-food",
    "glass": r"tumbler-glass|glass-of-milk",
    "medal": r".*-medal",
    "dinosaur": r"t-rex|sauropod",
    "speech bubble": r".*speech-(bubble|balloon)|thought-balloon",
    "cup": r"teacup-without-handle|cup-with-straw",
    "cloud": r"cloud|cloud-with-.*",
    "wheat": r"sheaf-of-rice",
    "ladder": r"ladder",
    "sandals": r"womans-sandal|thong-sandal",
    "blouse": r"womans-clothes",
    "musical note": r"musical-notes?",
    "money": r"money-(bag|with-wings)",
    "trolleybus": r"trolleybus",
    "cable car": r"aerial-tramway|mountain-cableway",
    "shopping bag": r"shopping-bags",
}
SKIPPED = re.compile(
    r".*skin-tone.*|(man|woman|men|women)-.*|person-in-suit-.*|family-.*|couple-.*|kiss-.*|.*facing-right.*|deaf-.*"
    r"|cityscape.*|night-with-stars|milky-way|sunrise.*|sunset|foggy|fog|bridge-at-night|bubbles|zzz|hole|memo"
    r"|ballot-box-.*|.*-tray|card-.*|linked-.*|label|level-slider|control-knobs|hundred-points|dashing-away|motorway"
    r"|railway-track|national-park|desert|desert-island|camping|bright-button|head-shaking.*|pregnant-.*|breast-feeding"
)
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Travel & Places",
    "People & Body",
    "Smileys & Emotion",
)
STAMP_CATEGORIES = {  # a stamp's or clip's top folders, where they say what kind of thing lies there
    "animals": "Animals & Nature",
    "plants": "Animals & Nature",
    "food": "Food & Drink",
    "vehicles": "Travel & Places",
    "transportation": "Travel & Places",
    "people": "People & Body",
}
ENGINE = inflect.engine()


@dataclass
class Concept:
    """One thing: its name, its category, other names, kinds, keywords, and the keys of the files that show it."""

    name: str
    category: str
    core: bool = False
    synonyms: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    plural: str = ""
    keys: list[str] = field(default_factory=list)

    def record(self) -> dict:
        return asdict(self)


def spoken(slug: str) -> str:
    """An icon's name as one says it: "womans-boot" is "woman's boot"."""
    return re.sub(r"\b(woman|man|men|women)s-", r"\1's ", slug).replace("-", " ").replace(" s ", "'s ")


def stem_words(key: str) -> str:
    """The words of a file's name, lower case, numbers and extension dropped: "food/an_apple_01.png" is "an apple"."""
    stem = re.sub(r"([a-z])([A-Z])", r"\1 \2", Path(key).stem)
    return re.sub(r"[^a-z-]+", " ", stem.lower()).strip()


def category_of(key: str) -> str:
    parts = key.split("/")
    return next((STAMP_CATEGORIES[p] for p in parts[:2] if p in STAMP_CATEGORIES), "Objects")


def build(
    files: dict[str, list[str]], categories: dict[str, list[str]], wordnet: WordNet, keywords: dict[str, list[str]]
) -> list[Concept]:
    """Every concept that some file shows.

    Args:
        files: keys by kind: "icon" ("set/name"), "stamp" and "clip" (paths).
        categories: the icon names of each category.
        wordnet: kinds and synonyms.
        keywords: emoji keywords by icon name.
    """
    icon_keys: dict[str, list[str]] = {}
    for key in files["icon"]:
        icon_keys.setdefault(key.split("/")[1], []).append(key)
    category = {name: c for c in CATEGORIES for name in categories[c]}
    concepts: dict[str, Concept] = {}
    used: set[str] = set()

    for entry in read_table():
        group = next((category[icon] for icon in entry.icons if icon in category), "Objects")
        concept = concepts[entry.name] = Concept(entry.name, group, core=True)
        for icon in entry.icons:
            concept.keys += icon_keys.get(icon, [])
            concept.keywords += keywords.get(icon, [])
            used.add(icon)
        concept.keys += [key for key in files["stamp"] if entry.shown_by("stamp", key)]
        used.update(concept.keys)
    for icon, keys in icon_keys.items():
        if icon in used or icon not in category or SKIPPED.fullmatch(icon):
            continue
        name = next((n for n, pattern in MERGED.items() if re.fullmatch(pattern, icon)), spoken(icon))
        concept = concepts.setdefault(name, Concept(name, category[icon]))
        concept.keys += keys
        concept.keywords += keywords.get(icon, [])
    for key in files["stamp"] + files["clip"]:
        if key in used:
            continue
        words = re.sub(r"^(a|an|the|another|my|simple|cartoon|old|small|big)\s", "", stem_words(key))
        name = longest_name(words, concepts, wordnet, category_of(key), new=key in files["stamp"])
        if name:
            concepts.setdefault(name, Concept(name, category_of(key))).keys.append(key)

    for concept in concepts.values():
        found = wordnet.synonyms(concept.name, concept.category), wordnet.kinds(concept.name, concept.category)
        concept.synonyms, concept.kinds = OTHER_SENSES.get(concept.name, found)
        if concept.category == "Smileys & Emotion" and "face" in concept.name:
            concept.kinds = ["face"]
        concept.keywords = sorted({word for word in concept.keywords if len(word) > 2 and word != concept.name})
        is_plural = ENGINE.singular_noun(concept.name) and not re.search(r"(us|is|os|ss)$", concept.name)  # "a bus"
        concept.plural = concept.name if is_plural else ENGINE.plural(concept.name)
    names = set(concepts)
    for concept in concepts.values():  # a synonym that names another concept names that one
        concept.synonyms = [s for s in concept.synonyms if s not in names][:4]
    return [concept for concept in concepts.values() if concept.keys]


OTHER_SENSES: dict[str, tuple[list[str], list[str]]] = {
    "dolphin": ([], ["animal", "mammal"]),
    "peacock": ([], ["animal", "bird"]),
    "socks": ([], ["clothing"]),
    "balloon": ([], []),
    "hammer": ([], ["tool"]),
    "pepper": ([], ["food", "vegetable"]),
    "bus": (["coach", "double-decker"], ["vehicle"]),
    "train": ([], ["vehicle"]),
    "unicorn": ([], ["animal"]),
}
"""Synonyms and kinds of names of which WordNet's sense of the category is not the one that is drawn (its dolphin is a fish)."""


def longest_name(words: str, known: dict, wordnet: WordNet, category: str, new: bool) -> str | None:
    """What a file's words begin with: a known concept ("apple martin" shows an apple) or, if `new`, any noun."""
    parts = words.split()
    for count in (3, 2, 1):
        name = " ".join(parts[:count])
        single = ENGINE.singular_noun(name) if name else False
        for form in filter(None, (name, single)):
            if form in known or (new and len(form) > 2 and wordnet.sense(form, category) is not None):
                return form
    return None
