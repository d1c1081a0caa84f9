"""Settings refuse what makes no sense, by name."""

import dataclasses

import pytest

from peekaboo import preset
from peekaboo.errors import SettingsError
from peekaboo.settings import PRESETS, Settings


def test_the_paper_preset_is_the_papers():
    paper = preset("paper")
    assert (paper.steps, paper.optimizer, paper.draws, paper.warm_start) == (200, "sgd", 1, 0)
    assert (paper.guidance_scale, paper.gravity, paper.estimator) == (100.0, 0.05, "sds")
    assert (paper.kernel_size, paper.blur_iterations) == (3, 40)
    assert (paper.sigma_space, paper.sigma_guide) == (5.0, 0.08)
    assert (paper.t_min, paper.t_max) == (0.02, 0.98)
    assert not paper.balance
    assert paper.complement == 0


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
