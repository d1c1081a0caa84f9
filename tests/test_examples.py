"""The example scripts that the other tests do not run."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import tiny
from peekaboo import Peekaboo

GRID = Path(__file__).parent.parent / "examples" / "grid.py"


@pytest.fixture
def grid():
    spec = importlib.util.spec_from_file_location("grid", GRID)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cells_are_row_by_row_a_foreground_on_a_background(grid):
    def flat(*values):
        return lambda: torch.logit(torch.tensor(values).view(-1, 1, 1), eps=1e-6)

    cells = grid.blend(
        [flat(0.8, 0.8, 0.8, 0.25), flat(0.2, 0.2, 0.2, 1.0)], [flat(0.0, 0.4, 1.0), flat(1.0, 1.0, 1.0)]
    )
    expected = [[0.2, 0.5, 0.95], [0.95] * 3, [0.2] * 3, [0.2] * 3]
    assert torch.allclose(cells[:, :, 0, 0], torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("way", [[], ["--paper"]])
def test_the_grid_runs_and_writes_its_sheet(grid, tmp_path, monkeypatch, way):
    model = Peekaboo(tiny.stable_diffusion())
    monkeypatch.setattr(Peekaboo, "from_pretrained", classmethod(lambda cls, *a: model))
    monkeypatch.setattr(sys, "argv", ["grid.py", "--steps", "2", "--out", str(tmp_path / "o" / "grid.png"), *way])
    grid.main()
    with Image.open(tmp_path / "o" / "grid.png") as page:
        assert page.size == (480, 480)
