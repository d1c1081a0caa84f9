"""What a model says it knows: the names it learnt, and the nearest of them to a word that it did not.

A model folder may carry `vocabulary.json` beside `model_index.json`, as the bundled model does; a model without one
(Stable Diffusion has seen nearly every word) is asked nothing here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from peekaboo.errors import ModelError

FILE = "vocabulary.json"


@dataclass(frozen=True)
class Name:
    """One thing a model learnt.

    `core`: shown far more often than the others. `category`: the heading it is listed under. `synonyms`: other names of the
    thing itself. `kinds`: classes it belongs to ("animal"). `plural`: the same as the name where that is a plural already.
    """

    name: str
    category: str
    core: bool
    synonyms: tuple[str, ...]
    kinds: tuple[str, ...]
    plural: str


@dataclass(frozen=True)
class Vocabulary:
    """Every name and word of a model's captions.

    `words`: the words beside the names: colours, positions, articles. `related`: names it did not learn, each with the nearest
    that it did ("poodle": "dog"), from WordNet.
    """

    names: tuple[Name, ...]
    words: frozenset[str]
    related: dict[str, str]

    @classmethod
    def read(cls, folder: str | Path) -> Vocabulary | None:
        """The vocabulary of a model folder, or None if it carries none. Raises ModelError if its file is damaged."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            names = tuple(
                Name(n["name"], n["category"], n["core"], tuple(n["synonyms"]), tuple(n["kinds"]), n["plural"])
                for n in data["names"]
            )
            return cls(names, frozenset(data["words"]), dict(data["related"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is damaged ({type(error).__name__}: {error}); get a complete copy.") from error

    @cached_property
    def known(self) -> dict[str, str]:
        """Every way to name a thing, lower case, with the name it stands for; a kind stands for itself."""
        kinds = {kind: kind for name in self.names for kind in name.kinds}
        others = {other: name.name for name in self.names for other in (name.plural, *name.synonyms)}
        return {**kinds, **others, **{name.name: name.name for name in self.names}}

    @cached_property
    def known_words(self) -> frozenset[str]:
        """Every single word that a caption held."""
        return self.words | {word for text in self.known for word in split(text)}

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that no caption ever held, in their order."""
        return [word for word in dict.fromkeys(split(prompt)) if word not in self.known_words]

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Up to `count` names near a word: what it is a kind of, then what is spelt like it. May be empty."""
        found = [self.related[word]] if word in self.related else []
        alike = difflib.get_close_matches(word, list(self.known), n=2 * count, cutoff=0.7)
        found += [self.known[text] for text in alike]
        return list(dict.fromkeys(found))[:count]

    def notes(self, prompt: str) -> list[str]:
        """A sentence for each unknown word of a prompt, with the nearest known names."""
        sentences = []
        for word in self.unknown(prompt):
            near = self.nearest(word)
            hint = f"; the nearest it knows: {', '.join(near)}" if near else "; see `peekaboo doctor --vocabulary`"
            sentences.append(f"This model has never seen the word {word!r}{hint}.")
        return sentences


def split(text: str) -> list[str]:
    """The words of a text, lower case."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.lower())


@lru_cache(maxsize=8)
def read_cached(folder: Path) -> Vocabulary | None:
    """`Vocabulary.read`, once a folder."""
    return Vocabulary.read(folder)


def unknown_notes(vocabulary: Vocabulary | None, prompts: Sequence[str]) -> list[str]:
    """The notes on all prompts; none if the model tells no vocabulary."""
    return [note for prompt in prompts for note in vocabulary.notes(prompt)] if vocabulary else []
