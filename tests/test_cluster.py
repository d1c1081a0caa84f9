"""Many machines: the same rows as one process gives, with a worker killed midway; and the plumbing's own sentences."""

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mortal
import peekaboo
import tiny
import trees
from peekaboo import cluster
from peekaboo.cli import app
from peekaboo.cluster import Cluster
from peekaboo.errors import EngineError, MissingExtraError, SettingsError
from peekaboo.evaluation.datasets import Dataset, read_dataset
from peekaboo.evaluation.remote import make_scorer, on_ray
from peekaboo.evaluation.rows import COLUMNS, Failure
from peekaboo.evaluation.run import Evaluation
from peekaboo.evaluation.segmenters import Recipe
from test_evaluation_run import table


@pytest.fixture(scope="module")
def two():
    """A Ray of two processors on this machine, for all tests of this file."""
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    pytest.importorskip("ray.data", reason="needs the extra [ray]")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch, cluster.silent(), cluster.closed_stderr():
        patch.setenv("PYTHONPATH", path)  # the workers need `mortal`
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield Cluster(workers=2)
    ray.shutdown()


@pytest.fixture
def data(tmp_path) -> Dataset:
    trees.coco(tmp_path / "coco", tmp_path / "coco" / "images")
    return read_dataset("coco", tmp_path / "coco")


def score(data: Dataset, out: Path, recipe: Recipe, **engine) -> Evaluation:
    evaluation = Evaluation(data, recipe, out, **engine)
    outcomes = list(evaluation)
    evaluation.close()
    assert len(outcomes) == len({outcome.sample for outcome in outcomes})
    return evaluation


def sorted_rows(out: Path) -> list[dict[str, str]]:
    rows = sorted(({**row, "seconds": ""} for row in table(out)), key=lambda row: row["sample"])
    assert set(rows[0]) == set(COLUMNS)
    return rows


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that can kill")
def test_a_worker_that_is_killed_loses_nothing_and_the_rows_are_those_of_one_process(two, data, tmp_path):
    (tmp_path / "marks").mkdir()
    score(data, tmp_path / "local", mortal.Mortal("whole-image"))
    recipe = mortal.Mortal("whole-image", marks=str(tmp_path / "marks"), lives=1)
    done = score(data, tmp_path / "ray", recipe, engine=on_ray(two))
    assert len(list((tmp_path / "marks").iterdir())) == 1  # one was killed indeed
    assert not done.failures
    assert len(table(tmp_path / "ray")) == len(data.samples)
    assert sorted_rows(tmp_path / "ray") == sorted_rows(tmp_path / "local")
    assert done.ledger.record["sessions"][0]["engine"] == "ray"
    for path in (tmp_path / "local" / "masks").iterdir():
        assert path.read_bytes() == (tmp_path / "ray" / "masks" / path.name).read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that can kill")
def test_what_kills_every_worker_is_given_up_and_the_others_are_done(two, data, tmp_path):
    (tmp_path / "marks").mkdir()
    recipe = mortal.Mortal("whole-image", marks=str(tmp_path / "marks"), lives=99)
    done = score(data, tmp_path / "out", recipe, engine=on_ray(two))
    (failure,) = done.failures
    assert isinstance(failure, Failure)
    assert "3 workers died" in str(failure)
    assert len(table(tmp_path / "out")) == len(data.samples) - 1


def test_a_fault_of_the_work_is_one_sentence(two):
    with pytest.raises(EngineError, match=r"ZeroDivisionError.*said by the worker on"):
        list(cluster.spread(two, mortal.halve, [1, 0]))


def worker(make, version: str = peekaboo.__version__) -> cluster.Refusal:
    """What a worker answers that could not be made."""
    made = cluster.Worker(pickle.dumps(make), os.getcwd(), version, None)
    return pickle.loads(made({"index": 0, "item": b""})["answer"])


def test_a_worker_that_cannot_be_made_says_why_and_that_of_another_version_is_none():
    assert (str(worker(mortal.refuse).error), worker(mortal.refuse).machine) == ("No.", platform.node())
    assert isinstance(worker(mortal.refuse).error, SettingsError)
    assert str(worker(7).error) == "TypeError: 'int' object is not callable."
    assert "and 0.0.1 here; install the same everywhere" in str(worker(mortal.halve, "0.0.1").error)
    recipe = Recipe("whole-image")
    with pytest.raises(EngineError, match="seed was 1"):
        make_scorer(recipe, {**recipe.identity(), "settings": {"seed": 1}})


def batch(*answers) -> SimpleNamespace:
    column = SimpleNamespace(to_pylist=lambda: [pickle.dumps(answer) for answer in answers])
    return SimpleNamespace(column=lambda name: column)


def test_what_ray_gives_twice_is_taken_once_and_what_it_does_not_give_is_missed(monkeypatch):
    answers = [cluster.Answer(n) for n in range(3)]
    monkeypatch.setattr(cluster, "check_installed", lambda: None)
    monkeypatch.setattr(cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "broken_off", nullcontext)
    monkeypatch.setattr(cluster, "batches", lambda *a: [batch(answers[2], answers[0]), batch(answers[2], answers[1])])
    assert [answer.index for answer in cluster.spread(Cluster(), mortal.halve, "abc")] == [2, 0, 1]
    with pytest.raises(EngineError, match="3 of 4 results"):
        list(cluster.spread(Cluster(), mortal.halve, "abcd"))


def test_a_share_of_a_machine_for_every_worker():
    def nodes(*cores, gpus=0):
        return [{"Alive": True, "Resources": {"CPU": n, "GPU": gpus}} for n in cores] + [{"Alive": False}]

    assert cluster.room(Cluster(), nodes(8)) == (1, {"num_cpus": 8})
    assert cluster.room(Cluster(), nodes(8, 2)) == (2, {"num_cpus": 4})
    assert cluster.room(Cluster(workers=3), nodes(8)) == (3, {"num_cpus": 2})
    assert cluster.room(Cluster(workers=8), nodes(8)) == (8, {"num_cpus": 1})
    assert cluster.room(Cluster(), nodes(8, 2, gpus=4)) == (8, {"num_gpus": 1})
    assert cluster.room(Cluster(workers=3), nodes(8, gpus=4)) == (3, {"num_gpus": 1})
    assert cluster.room(Cluster(gpus=False), nodes(8, gpus=4)) == (1, {"num_cpus": 8})
    with pytest.raises(SettingsError, match="9 is more than the 8 processors"):
        cluster.room(Cluster(workers=9), nodes(8))
    with pytest.raises(SettingsError, match="5 is more than the 4 GPUs"):
        cluster.room(Cluster(workers=5), nodes(8, gpus=4))
    with pytest.raises(EngineError, match="neither"):
        cluster.room(Cluster(), nodes(0))


def segment(*arguments, code: int = 0):
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def pictures(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("in/a.jpg", "in/a.png", "in/b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 44, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    return tmp_path / "in"


def test_segment_writes_what_it_writes_without_ray(two, pictures, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "tiny", safe_serialization=True)
    common = [pictures, "-p", "a", "-m", tmp_path / "tiny", "--set", "steps=1", "--set", "warm_start=2", "--json"]
    common += ["--timelapse"]
    here = segment(*common, "-o", tmp_path / "here", code=1)
    there = segment(*common, "-o", tmp_path / "there", "--engine", "ray", "--workers", "1", code=1)
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["a", "a-2", "b"]
    assert "c.png is not an image" in there.stderr
    assert "1 of 4 images failed" in there.stderr
    printed = (here.stdout.replace(str(tmp_path / "here"), str(tmp_path / "there")), there.stdout)
    rows = [
        sorted(({**json.loads(line), "seconds": 0} for line in text.splitlines()), key=lambda row: row["image"])
        for text in printed
    ]
    assert rows[0] == rows[1]
    for path in (p for p in (tmp_path / "here").rglob("*") if p.is_file()):
        other = tmp_path / "there" / path.relative_to(tmp_path / "here")
        assert path.name == "run.json" or path.read_bytes() == other.read_bytes(), path
    segment(pictures, "-p", "a", "-m", "no-model", "-o", tmp_path / "o", "--engine", "ray", code=2)


@pytest.mark.parametrize("command", [["segment", "x.png", "-p", "a"], ["evaluate", "folder", "--root", "."]])
def test_options_of_ray_go_with_ray_and_ray_must_be_there(command, monkeypatch, tmp_path):
    def said(*arguments) -> str:
        result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "out"), *arguments])
        assert result.exit_code == 2, (result.stderr, result.exception)
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    assert "--address auto goes with --engine ray only" in said("--address", "auto")
    assert "--workers 2 goes with --engine ray only" in said("--engine", "local", "--workers", "2")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert "pip install 'peekaboo-segmentation[ray]'" in said("--engine", "ray")
    with pytest.raises(MissingExtraError):
        list(cluster.spread(Cluster(), mortal.halve, [1]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nobody:here"])
def test_where_nobody_listens_is_said_at_once(address, monkeypatch):
    pytest.importorskip("ray.data", reason="needs the extra [ray]")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(EngineError, match="cannot be reached"):
        list(cluster.spread(Cluster(address), mortal.halve, [1]))


def ray_processes() -> set[str]:
    """The processes of Ray on this machine, by number."""
    listed = subprocess.run(["pgrep", "-f", "ray/core/src/ray/raylet/raylet"], capture_output=True, text=True)
    return set(listed.stdout.split())


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a system that lists its processes")
def test_ctrl_c_stops_ray_too_and_what_is_done_is_kept(tmp_path):
    pytest.importorskip("ray.data", reason="needs the extra [ray]")
    before = ray_processes()
    trees.own(tmp_path, [("one.png", "red.png", f"red {n}") for n in range(60)])
    command = [sys.executable, "-m", "peekaboo.cli", "evaluate", "folder", "--root", tmp_path, "-o", tmp_path / "out"]
    command += ["--preset", "draft", "--engine", "ray"]
    running = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=tiny.hear_ctrl_c
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None and len(lines_of(tmp_path / "out")) < 3:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: stopped after")], err
    assert 2 <= len(table(tmp_path / "out")) < 60
    assert ray_processes() <= before


def lines_of(out: Path) -> list[str]:
    path = out / "rows.csv"
    return path.read_text().splitlines() if path.exists() else []
