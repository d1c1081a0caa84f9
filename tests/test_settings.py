"""Settings refuse what makes no sense, by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from peekaboo import preset
from peekaboo.errors import SettingsError
from peekaboo.settings import PRESETS, Settings, generate_preset


def test_the_paper_preset_is_the_papers():
    paper = preset("paper")
    assert (paper.steps, paper.optimizer, paper.draws, paper.warm_start) == (200, "sgd", 1, 0)
    assert (paper.guidance_scale, paper.gravity, paper.estimator) == (100.0, 0.05, "sds")
    assert (paper.kernel_size, paper.blur_iterations) == (3, 40)
    assert (paper.sigma_space, paper.sigma_guide) == (5.0, 0.08)
    assert (paper.t_min, paper.t_max) == (0.02, 0.98)
    assert not paper.balance
    assert paper.complement == 0


@pytest.mark.parametrize("make", [preset, generate_preset])
def test_the_reference_lists_every_setting_with_its_values(make):
    text = (Path(__file__).parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")
    title = "## Settings" if make is preset else "Of `generate`"
    part = text[text.index(title) :].split("\n\n| name |")[1].split("\n\n")[0]
    told = {}
    for row in part.splitlines()[2:]:
        names, default, paper, _ = (cell.strip() for cell in row.split("|")[1:5])
        names = names.replace("`", "").split(", ")
        for values, into in ((default, 0), (paper, 1)):
            values = values.split(", ")
            for index, name in enumerate(names):
                told.setdefault(name, [None, None])[into] = values[index if len(values) > 1 else 0]
    expected = {
        field.name: [
            str(getattr(make(name), field.name)).replace("True", "true").replace("False", "false")
            for name in ("default", "paper")
        ]
        for field in dataclasses.fields(make())
        if field.name != "preset"
    }
    assert told == expected


@pytest.mark.parametrize("base", [preset(), generate_preset()])
def test_the_presets_name_is_no_setting(base):
    with pytest.raises(SettingsError, match="no setting 'preset'"):
        base.with_changes(preset="paper")


def test_numpys_numbers_are_numbers():
    settings = Settings(seed=np.int64(3), threshold=np.float32(0.25))
    assert (type(settings.seed), settings.seed) == (int, 3)
    assert (type(settings.threshold), settings.threshold) == (float, 0.25)


def test_every_preset_is_valid_and_named():
    for name in PRESETS:
        assert preset(name).preset == name
    assert preset() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 1.5),
        ("steps", True),
        ("draws", 0),
        ("t_min", 0.9),
        ("t_max", 1.1),
        ("kernel_size", 4),
        ("threshold", 1.0),
        ("learning_rate", 0.0),
        ("gravity", float("nan")),
        ("gravity", "heavy"),
        ("alpha", "vector"),
        ("seed", -1),
        ("balance", 1),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"The setting {name} is"):
        preset(**{name: value})


def test_nothing_to_do_is_refused():
    with pytest.raises(SettingsError, match="warm_start is 0"):
        preset(steps=0, warm_start=0)


def test_unknown_names_are_refused():
    with pytest.raises(SettingsError, match="no preset 'fast'; the presets are default, draft, paper"):
        preset("fast")
    with pytest.raises(SettingsError, match="There is no setting 'gravitas'"):
        preset(gravitas=1)


def test_whole_numbers_pass_for_floats_and_settings_are_frozen():
    settings = preset(gravity=1)
    assert type(settings.gravity) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 3
