"""What a name is a kind of, and what else it is called: WordNet 3.0's nouns, read from Debian's `wordnet-base`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

# Lexicographer files (lexnames(5WN)), the likeliest first, of the sources' categories: 05 animal, 06 artifact, 08 body,
# 13 food, 17 object, 18 person, 19 phenomenon, 20 plant.
LEXFILES = {
    "Animals & Nature": ("05", "20", "17", "19"),
    "Food & Drink": ("13", "20", "06"),
    "Objects": ("06", "17", "13"),
    "Activities": ("06", "13", "20"),
    "Travel & Places": ("06", "17", "19"),
    "People & Body": ("18", "08"),
    "Smileys & Emotion": ("18",),
}

# The classes that users name. Everything above them ("entity", "whole") says nothing about a picture.
KINDS = frozenset(
    [
        "animal",
        "bird",
        "fish",
        "insect",
        "reptile",
        "amphibian",
        "mammal",
        "dog",
        "cat",
        "bear",
        "monkey",
        "rodent",
        "whale",
        "shellfish",
        "dinosaur",
        "plant",
        "flower",
        "tree",
        "fruit",
        "vegetable",
        "food",
        "dessert",
        "bread",
        "drink",
        "sweet",
        "meat",
        "vehicle",
        "car",
        "truck",
        "train",
        "aircraft",
        "boat",
        "ship",
        "tool",
        "weapon",
        "furniture",
        "building",
        "tower",
        "clothing",
        "shoe",
        "hat",
        "bag",
        "bottle",
        "box",
        "ball",
        "toy",
        "game",
        "computer",
        "lamp",
        "clock",
        "book",
        "telephone",
        "drum",
        "jewelry",
        "person",
    ]
)
SAID = {
    "beverage": "drink",
    "confectionery": "sweet",
    "motor_vehicle": "vehicle",
    "musical_instrument": "musical instrument",
    "headdress": "hat",
    "footwear": "shoe",
    "garment": "clothing",
    "motortruck": "truck",
    "watercraft": "boat",
    "timepiece": "clock",
    "crustacean": "shellfish",
}


@dataclass(frozen=True)
class Synset:
    """One sense: its lemmas (underscores for spaces), its lexicographer file, and the senses above it."""

    lemmas: tuple[str, ...]
    lexfile: str
    above: tuple[int, ...]


@dataclass
class WordNet:
    """The nouns of one `dict` folder (index.noun, data.noun; format: wndb(5WN))."""

    folder: Path
    index: dict[str, list[int]] = field(init=False)
    senses: dict[int, Synset] = field(init=False)

    def __post_init__(self) -> None:
        self.index, self.senses = {}, {}
        for line in (self.folder / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                cells = line.split()
                self.index[cells[0]] = [int(cell) for cell in cells[-int(cells[2]) :]]
        for line in (self.folder / "data.noun").read_text().splitlines():
            if line.startswith(" "):
                continue
            cells = line.split("|")[0].split()
            words = int(cells[3], 16)
            pointers = cells[5 + 2 * words :]
            above = tuple(int(b) for a, b in pairwise(pointers) if a in {"@", "@i"})
            self.senses[int(cells[0])] = Synset(tuple(cells[4 : 4 + 2 * words : 2]), cells[1], above)

    def sense(self, name: str, category: str) -> int | None:
        """The sense of a name that fits its category best, singular or plural; None when there is none."""
        slug = name.lower().replace(" ", "_")
        forms = [slug, slug.removesuffix("ies") + "y", slug.removesuffix("s"), slug.removesuffix("es")]
        offsets = [offset for form in dict.fromkeys(forms) for offset in self.index.get(form, [])]
        for lexfile in LEXFILES[category]:
            for offset in offsets:
                if self.senses[offset].lexfile == lexfile:
                    return offset
        return None

    def synonyms(self, name: str, category: str) -> list[str]:
        """Other names of the same sense, in common letters ("hog" for "pig"); no Latin, no abbreviations."""
        sense = self.sense(name, category)
        lemmas = self.senses[sense].lemmas if sense is not None else ()
        plain = [lemma.replace("_", " ") for lemma in lemmas if re.fullmatch("[a-z_-]{3,}", lemma)]
        return [lemma for lemma in plain if lemma not in {name, name.removesuffix("s")}]

    def _lemmas_above(self, sense: int) -> frozenset[str]:
        found = set(self.senses[sense].lemmas)
        for parent in self.senses[sense].above:
            found |= self._lemmas_above(parent)
        return frozenset(found)

    def kinds(self, name: str, category: str) -> list[str]:
        """The classes in KINDS that a name belongs to ("poodle": animal, dog, mammal), sorted."""
        sense = self.sense(name, category)
        if sense is None:
            last = name.split()[-1]  # "racing car" is a car
            return sorted({*self.kinds(last, category), *({last} & KINDS)}) if " " in name else []
        above = {SAID.get(lemma, lemma) for lemma in self._lemmas_above(sense)}
        return sorted(kind for kind in above if kind in {*KINDS, *SAID.values()} and kind != name)

    def related(self, names: dict[str, str]) -> dict[str, str]:
        """Single words below the given names, each with the nearest name above it: "poodle" is nearest to "dog".

        names: name to category. Common words alone; a word that means several things belongs to its first sense.
        """
        home = {sense: name for name, category in names.items() if (sense := self.sense(name, category)) is not None}
        found: dict[str, str] = {}
        for lemma, offsets in self.index.items():
            if re.fullmatch("[a-z]{3,}", lemma) and lemma not in names:
                level = list(offsets[:1])
                while level and not any(sense in home for sense in level):
                    level = [parent for sense in level for parent in self.senses[sense].above]
                if level:
                    found[lemma] = next(home[sense] for sense in level if sense in home)
        return found
