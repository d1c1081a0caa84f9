"""Is it there? The score, and what it decides."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from peekaboo import Peekaboo, cli, presence
from peekaboo.errors import SettingsError
from peekaboo.evaluation import auroc, false_alarms

NOTHING = float(torch.sigmoid(torch.tensor(-presence.SLOPE * presence.MIDDLE)))
"""The score of a prompt that explains nothing: where the curve begins."""


@pytest.fixture
def picture() -> np.ndarray:
    rgb = np.full((64, 64, 3), 127, np.uint8)
    rgb[10:40, 12:44] = (230, 12, 12)
    return rgb


def test_what_is_there_scores_high_and_what_is_not_scores_low(toy, picture):
    result = Peekaboo(toy).segment(picture, ["red", "green"])
    there, gone = result.score
    assert there > 0.8
    assert gone == pytest.approx(NOTHING, abs=2e-3)
    assert result.found.tolist() == [True, False]


def test_what_is_not_found_has_an_empty_mask_and_an_empty_cutout(toy, picture):
    result = Peekaboo(toy).segment(picture, ["red", "green"])
    assert result.mask[0].any()
    assert result.alpha[1].max() == 0
    assert np.asarray(result.cutout(1))[..., 3].max() == 0
    assert [row["category_id"] for row in result.to_coco()["annotations"]] == [1]


def test_the_threshold_is_a_setting_and_0_finds_everything(toy, picture):
    model = Peekaboo(toy)
    forced = model.segment(picture, "green", presence=0.0)
    assert forced.alpha.max() > 0.5
    score = float(forced.score[0])
    assert not model.segment(picture, "green", presence=min(0.999, score + 1e-3)).found[0]
    assert model.segment(picture, "green", presence=max(0.0, score - 1e-3)).found[0]


def test_the_papers_preset_finds_everything(toy, picture):
    result = Peekaboo(toy).segment(picture, "green", preset="paper", steps=2)
    assert result.settings.presence == 0


@pytest.mark.parametrize("value", [-0.1, 1.0, "much"])
def test_a_threshold_out_of_range_is_refused(toy, picture, value):
    with pytest.raises(SettingsError, match="presence"):
        Peekaboo(toy).segment(picture, "red", presence=value)


def test_the_command_says_not_found_writes_an_empty_mask_and_exits_0(tmp_path, toy, picture, monkeypatch):
    from PIL import Image

    path = tmp_path / "p.png"
    Image.fromarray(picture).save(path)
    monkeypatch.setattr(Peekaboo, "from_pretrained", classmethod(lambda cls, *a, **k: cls(toy)))
    done = CliRunner().invoke(cli.app, ["segment", str(path), "-p", "red", "-p", "green", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert f"not found: green (score {NOTHING:.2f})" in done.output
    assert np.asarray(Image.open(tmp_path / "out" / "p" / "green" / "mask.png")).max() == 0
    record = json.loads((tmp_path / "out" / "p" / "run.json").read_text())
    assert [row["found"] for row in record["results"]] == [True, False]


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auroc(np.array([1.0]), np.array([2.0])) == 0
    assert auroc(np.array([1.0, 2.0]), np.array([1.0])) == 0.75
    assert auroc(np.ones(5), np.ones(3)) == 0.5


def test_false_alarms_are_counted_at_the_highest_threshold_of_that_recall():
    present, absent = np.arange(1, 21) / 20, np.array([0.05, 0.1, 0.5, 0.96])
    assert false_alarms(present, absent, recall=0.95) == (0.75, pytest.approx(0.1))
    assert false_alarms(present, absent, recall=0.05) == (0.0, pytest.approx(1.0))
    assert false_alarms(present, absent, recall=1.0) == (1.0, pytest.approx(0.05))


def explained_by(toy, picture: np.ndarray, alpha: np.ndarray, draws: int) -> float:
    run = Peekaboo(toy).start(picture, "red", warm_start=draws)
    grid = torch.from_numpy(alpha[None].astype(np.float32))
    return float(presence.explained(run.scene, grid, run.settings)[0])


def test_what_is_explained_does_not_rise_with_the_draws_and_little_with_the_size_of_the_thing(toy):
    small, large = (np.full((32, 32, 3), 127, np.uint8) for _ in range(2))
    small[8:16, 8:16], large[8:24, 8:24] = (230, 12, 12), (230, 12, 12)
    tight, wide = (np.zeros((32, 32)) for _ in range(2))
    tight[8:16, 8:16], wide[8:24, 8:24] = 1, 1
    few, many = (explained_by(toy, small, tight, draws) for draws in (8, 64))
    assert few == pytest.approx(many, rel=0.35)
    assert 1 < explained_by(toy, large, wide, 64) / many < 4  # the thing is four times as large
