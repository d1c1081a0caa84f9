"""`peekaboo evaluate` end to end: exit codes, one sentence for what is wrong, and not one traceback."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import trees
from peekaboo import Peekaboo
from peekaboo.cli import app
from test_evaluation_unpickle import hostile
from toys import Toy


@pytest.fixture
def coco(tmp_path) -> Path:
    trees.coco(tmp_path / "coco", tmp_path / "coco" / "images")
    return tmp_path / "coco"


@pytest.fixture
def toy_model(monkeypatch) -> None:
    monkeypatch.setattr(Peekaboo, "from_pretrained", classmethod(lambda cls, *a: cls(Toy())))


def cli(*arguments, code: int = 0):
    """Run in this process. Returns the result, after checking the exit code and that no traceback was shown."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


def test_a_baseline_in_a_real_process(coco, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "peekaboo.cli", "evaluate", "coco", "--root", coco, "-o", out]
    done = subprocess.run([*map(str, command), "--method", "whole-image"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("| method | P@.2 |")
    assert "5 samples, 0 of them done before" in done.stderr
    shares = [180, 60, 256, 720, 64]
    results = json.loads((out / "run.json").read_text())["results"]
    valid = [2000, 1920, 2000, 2000, 2000]
    assert results["mIoU"] == pytest.approx(np.mean(np.divide(shares, valid)))
    assert results["oIoU"] == pytest.approx(sum(shares) / sum(valid))


def test_peekaboo_itself_resumes_and_is_not_mixed(coco, tmp_path, toy_model):
    out = tmp_path / "out"
    common = ["coco", "--root", coco, "-o", out, "--preset", "draft", "--set", "warm_start=4"]
    cli(*common, "--limit", "2")
    first = (out / "rows.csv").read_bytes()
    result = cli(*common)
    assert "5 samples, 2 of them done before" in result.stderr
    assert (out / "rows.csv").read_bytes().startswith(first)
    record = json.loads((out / "run.json").read_text())
    assert record["identity"]["settings"]["warm_start"] == 4
    assert record["sessions"][0]["model"] == "toy"
    assert record["results"]["method"] == "Peekaboo (draft, warm_start=4)"
    result = cli(*common, "--seed", "3", code=2)
    assert "seed was 0, is 3" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    result = cli(*common, "-q")
    assert (result.stdout, result.stderr) == ("", "")


def test_the_results_have_a_folder_of_their_own_unless_named(coco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("coco", "--root", coco, "--method", "whole-image", "-q")
    assert (tmp_path / "peekaboo-out" / "coco-whole-image" / "report.html").exists()


def test_what_is_skipped_is_told_and_is_exit_1(coco, tmp_path):
    data = json.loads((coco / "instances.json").read_text())
    data["annotations"][0]["segmentation"] = 7
    (coco / "instances.json").write_text(json.dumps(data))
    (coco / "images" / "000000000002.png").write_bytes(b"no picture")
    result = cli("coco", "--root", coco, "-o", tmp_path / "out", "--method", "whole-image", code=1)
    assert "instances.json, annotation 100 was skipped" in result.stderr
    assert "000000000002.png is not an image" in result.stderr
    assert "3 records were skipped" in result.stderr
    assert "2 of 4 samples" in result.stdout


def test_many_problems_do_not_flood_the_terminal(coco, tmp_path):
    data = json.loads((coco / "instances.json").read_text())
    data["annotations"] += [{"id": n} | {"image_id": n} for n in range(1000, 1100)]
    (coco / "instances.json").write_text(json.dumps(data))
    result = cli("coco", "--root", coco, "-o", tmp_path / "out", "--method", "whole-image", code=1)
    assert "and 80 records more" in result.stderr
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["problems"]) == 100


def test_a_hostile_pickle_is_wrong_usage_and_runs_nothing(tmp_path):
    home = trees.refcoco(tmp_path)
    (home / "refs(unc).p").write_bytes(hostile(tmp_path / "ran")["deep inside"])
    result = cli("refcoco", "--root", tmp_path, "-o", tmp_path / "out", "--method", "whole-image", code=2)
    assert "could run code" in result.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("benchmark", ["voc-c", "voc", "refcoco", "refcoco+", "refcocog", "coco", "folder"])
def test_every_benchmark_runs(tmp_path, benchmark):
    if benchmark.startswith("voc"):
        trees.Voc(tmp_path).add("a", {"sheep": (20, 30, 170, 190)})
    elif benchmark.startswith("ref"):
        trees.refcoco(tmp_path, benchmark, "umd" if benchmark == "refcocog" else "unc")
    elif benchmark == "coco":
        trees.coco(tmp_path, tmp_path / "images")
    else:
        trees.own(tmp_path)
    out = tmp_path / "out"
    cli(benchmark, "--root", tmp_path, "-o", out, "--method", "whole-image")
    assert {"rows.csv", "run.json", "table.md", "table.tex", "report.html"} <= {p.name for p in out.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["coco", "--root", "absent"], "There is no absent; --root"),
        (["coco", "--root", "ROOT", "--images", "nowhere"], "There is no folder nowhere; --images"),
        (["ade20k", "--root", "."], "ade20k"),
        (["coco"], "--root"),
        (["coco", "--root", "ROOT", "--split-by", "unc"], "--split-by has no meaning for coco"),
        (["coco", "--root", "ROOT", "--split", "val"], "holds no annotations/instances_val2017.json"),
        (["coco", "--root", "ROOT", "--method", "guess"], "no method 'guess'"),
        (["coco", "--root", "ROOT", "--preset", "fast"], "no preset 'fast'"),
        (["coco", "--root", "ROOT", "--set", "speed=3"], "no setting 'speed'"),
        (["coco", "--root", "ROOT", "--limit", "0"], "limit"),
        (["coco", "--root", "ROOT", "-m", "no-model"], "There is no model 'no-model'"),
        (["coco", "--root", "ROOT", "--device", "abacus"], "abacus"),
        (["voc", "--root", "ROOT"], "holds no Pascal VOC 2012"),
    ],
)
def test_wrong_usage_is_exit_2(coco, tmp_path, arguments, says):
    arguments = [str(coco) if a == "ROOT" else a for a in arguments]
    assert says in cli(*arguments, "-o", tmp_path / "out", code=2).stderr


def test_an_output_that_cannot_be_written(coco, tmp_path):
    (tmp_path / "out").write_text("in the way")
    result = cli("coco", "--root", coco, "-o", tmp_path / "out", "--method", "whole-image", code=2)
    assert "could not be written" in result.stderr


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(coco, tmp_path, monkeypatch):
    from peekaboo.evaluation.segmenters import Recipe

    class Impatient(trees.Painter):
        def __call__(self, image, prompts):
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().__call__(image, prompts)

    monkeypatch.setattr(Recipe, "build", lambda self: Impatient())
    common = ["coco", "--root", coco, "-o", tmp_path / "out", "--method", "whole-image"]
    result = cli(*common, code=1)
    assert "stopped after 2 of 5 samples; the same command goes on" in result.stderr
    assert (tmp_path / "out" / "report.html").exists()
    monkeypatch.setattr(Recipe, "build", lambda self: trees.Painter())
    assert "2 of them done before" in cli(*common).stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["results"]["mIoU"] == 1.0
