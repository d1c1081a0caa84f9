"""What the workers of a cluster are given in tests: things that die, refuse and break."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import trees
from peekaboo.errors import SettingsError
from peekaboo.evaluation.segmenters import Recipe


@dataclass(frozen=True)
class Mortal(Recipe):
    """The painter, but its process is killed by the prompt "blue": `lives` times, counted by the files of a folder."""

    marks: str = ""
    lives: int = 0

    def build(self):
        return Dying(Path(self.marks), self.lives)


class Dying(trees.Painter):
    def __init__(self, marks: Path, lives: int) -> None:
        super().__init__()
        self.marks, self.lives = marks, lives

    def __call__(self, image, prompts):
        deaths = len(list(self.marks.iterdir()))
        if prompts[0] == "blue" and deaths < self.lives:
            (self.marks / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, prompts)


def refuse():
    raise SettingsError("No.")


def halve():
    return (lambda n: 10 // n), {"device": "abacus"}
