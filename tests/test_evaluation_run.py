"""The evaluation as a whole: resuming after a kill, refusing to mix, repairing what was torn, and what it leaves behind."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import trees
from peekaboo import Peekaboo, preset
from peekaboo.errors import DatasetError, NumericalError, OutputError, SettingsError
from peekaboo.evaluation import baselines, segmenters
from peekaboo.evaluation.datasets import Dataset, Loaded, Sample, read_dataset
from peekaboo.evaluation.metrics import Overlap
from peekaboo.evaluation.report import write_report
from peekaboo.evaluation.rows import COLUMNS, Failure, Row, line
from peekaboo.evaluation.run import Evaluation, score_sample
from peekaboo.evaluation.segmenters import PeekabooSegmenter, Recipe, recipe
from peekaboo.evaluation.tables import markdown, summarise


@pytest.fixture
def data(tmp_path) -> Dataset:
    trees.coco(tmp_path / "coco", tmp_path / "coco" / "images")
    return read_dataset("coco", tmp_path / "coco")


@pytest.fixture
def painter(monkeypatch) -> trees.Painter:
    """What every recipe builds."""
    made = trees.Painter()
    monkeypatch.setattr(Recipe, "build", lambda self: made)
    return made


def evaluate(data: Dataset, out: Path, made: Recipe | None = None, limit: int | None = None, stop: int | None = None):
    """Work, stop after some outcomes as a kill would, or to the end with a report."""
    evaluation = Evaluation(data, made or Recipe("whole-image"), out, limit)
    for count, _ in enumerate(evaluation, 1):
        if count == stop:
            evaluation.ledger.close()
            return evaluation
    evaluation.close()
    write_report(evaluation)
    return evaluation


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "rows.csv").read_text())))


class Fixed:
    """A sample with given pixels, and a segmenter with given alphas."""

    def __init__(self, masks: np.ndarray, valid: np.ndarray | None = None) -> None:
        self.masks, self.valid = masks, np.ones(masks.shape[1:], bool) if valid is None else valid

    def load(self):
        return self.masks, self.valid

    def content(self) -> str:
        return ""


def sample_of(tmp_path: Path, truth: Fixed, prompts: tuple[str, ...], per_class: bool = False) -> Sample:
    path = tmp_path / "picture.png"
    Image.new("RGB", truth.valid.shape[::-1]).save(path)
    return Sample("s", path, prompts, truth, per_class=per_class)


def test_a_sample_is_scored_as_by_hand_with_the_threshold_left_out_and_what_is_not_valid(tmp_path):
    truth = np.zeros((1, 8, 10), bool)
    truth[0, :, :5] = True
    valid = np.ones((8, 10), bool)
    valid[0] = False
    alpha = np.zeros((1, 8, 10), np.float32)
    alpha[0, :4] = 0.5
    alpha[0, 4:] = 0.51
    row = score_sample(lambda image, prompts: alpha, sample_of(tmp_path, Fixed(truth, valid), ("a",)))
    assert (row.intersection, row.union) == (4 * 5, 4 * 10 + 3 * 5)
    assert row.iou == 20 / 55
    assert np.array_equal(row.labels, (alpha[0] > 0.5).astype(np.uint8))
    lower = score_sample(lambda image, prompts: alpha, sample_of(tmp_path, Fixed(truth, valid), ("a",)), 0.4)
    assert lower.iou == 35 / 70


def test_several_prompts_take_each_pixel_once(tmp_path):
    truth = np.zeros((3, 8, 10), bool)
    truth[0, :4], truth[1, 4:] = True, True
    alpha = np.stack([np.full((8, 10), v, np.float32) for v in (0.6, 0.7, 0.2)])
    alpha[:, :, :3] *= 0.5
    sample = sample_of(tmp_path, Fixed(truth), ("a", "b", "c"), per_class=True)
    row = score_sample(lambda image, prompts: alpha, sample)
    assert row.classes == {
        "background": Overlap(0, 24, 0),
        "a": Overlap(0, 0, 40),
        "b": Overlap(28, 56, 40),
        "c": Overlap(0, 0, 0),
    }
    assert row.iou == pytest.approx((0 + 28 / 68) / 2)
    assert (row.intersection, row.union) == (28, 40 + 68)


@pytest.mark.parametrize(
    "alpha", [np.zeros((1, 8, 9)), np.zeros((2, 8, 10)), np.full((1, 8, 10), 1.1), np.full((1, 8, 10), np.nan)]
)
def test_alphas_that_are_none_are_refused(tmp_path, alpha):
    with pytest.raises(NumericalError, match="alphas"):
        score_sample(lambda i, p: alpha, sample_of(tmp_path, Fixed(np.ones((1, 8, 10), bool)), ("a",)))


def test_an_empty_union_counts_as_nothing(tmp_path):
    empty = np.zeros((1, 8, 10), bool)
    row = score_sample(lambda i, p: empty.astype(np.float32), sample_of(tmp_path, Fixed(empty), ("a",)))
    assert (row.iou, row.union) == (0.0, 0)


def test_peekaboo_is_a_segmenter_and_the_pictures_are_read_once(tmp_path, toy, monkeypatch):
    trees.own(tmp_path)
    data = read_dataset("folder", tmp_path)
    segment = PeekabooSegmenter(Peekaboo(toy), preset("draft", warm_start=4))
    read = []
    monkeypatch.setattr("peekaboo.evaluation.datasets.read_image", lambda p: read.append(p) or _read(p))
    rows = [score_sample(segment, sample) for sample in data.samples]
    assert len(read) == 1
    assert rows[0].iou > 0.5
    assert score_sample(segment, data.samples[0]).iou == rows[0].iou


def _read(path):
    from peekaboo.images import read_image

    return read_image(path)


keys = st.text(min_size=1, max_size=20).filter(str.strip)


@given(
    keys, keys, st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 10**6), st.dictionaries(keys, st.integers(1, 9))
)
def test_a_row_is_one_line_and_comes_back(sample, prompt, iou, a, b, classes):
    counts = {name: Overlap(n, n + 1, n + 2) for name, n in classes.items()}
    row = Row(sample, "x.jpg", prompt, iou, min(a, b), max(a, b), 0.125, counts)
    written = line(row.cells())
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    assert len(written.decode().splitlines()) == 1
    back = Row.parse(next(csv.reader([written.decode()])))
    assert (back.iou, back.intersection, back.union, back.classes) == (iou, min(a, b), max(a, b), counts)


def test_a_run_that_stops_goes_on_and_loses_nothing(data, tmp_path, painter):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(data, whole)
    painter.asked.clear()
    evaluate(data, parts, stop=2)
    assert len(table(parts)) == 2
    evaluate(data, parts, stop=1)
    evaluate(data, parts)
    assert len(painter.asked) == 5
    assert [{**row, "seconds": 0} for row in table(parts)] == [{**row, "seconds": 0} for row in table(whole)]
    assert len(json.loads((parts / "run.json").read_text())["sessions"]) == 3
    for name in ("masks", "pictures"):
        for path in (whole / name).iterdir():
            assert path.read_bytes() == (parts / name / path.name).read_bytes()


@given(cut=st.integers(0, 10**6))
def test_wherever_the_table_is_torn_it_is_repaired(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    trees.own(folder)
    data = read_dataset("folder", folder)
    with pytest.MonkeyPatch.context() as patch:
        painter = trees.Painter()
        patch.setattr(Recipe, "build", lambda self: painter)
        evaluate(data, folder / "out", stop=2)
        whole = (folder / "out" / "rows.csv").read_bytes()
        cut %= len(whole)
        (folder / "out" / "rows.csv").write_bytes(whole[:cut])
        left = max(0, whole[:cut].count(b"\n") - 1)
        painter.asked.clear()
        evaluate(data, folder / "out", stop=99)
        assert len(painter.asked) == 2 - left
        rows = table(folder / "out")
        assert [(r["sample"], r["iou"]) for r in rows] == [(s.key, "1.0") for s in data.samples]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import trees
from peekaboo.evaluation.datasets import read_dataset
from peekaboo.evaluation.run import Evaluation
from peekaboo.evaluation.segmenters import Recipe
class Slow(trees.Painter):
    def __call__(self, image, prompts):
        time.sleep(0.2)
        return super().__call__(image, prompts)
Recipe.build = lambda self: Slow()
for outcome in Evaluation(read_dataset("coco", Path({root!r})), Recipe("whole-image"), Path({out!r})):
    print(outcome.sample, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that can kill")
def test_a_process_that_is_killed_keeps_every_sample_it_told_of(data, tmp_path, painter):
    out = tmp_path / "out"
    code = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path / "coco"), out=str(out))
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = [running.stdout.readline().strip() for _ in range(2)]
    time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    rest, err = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL, err
    told += rest.split("\n")[:-1]
    kept = [row["sample"] for row in table(out)]
    assert kept[: len(told)] == told
    assert 2 <= len(kept) < 5
    evaluate(data, out)
    assert len(painter.asked) == 5 - len(kept)
    assert [row["sample"] for row in table(out)] == [s.key for s in data.samples]


def test_a_limit_can_be_raised_and_the_figures_are_of_what_was_asked(data, tmp_path, painter):
    out = tmp_path / "out"
    evaluate(data, out, limit=2)
    assert "2 of 5 samples" in (out / "table.md").read_text()
    evaluate(data, out)
    assert len(painter.asked) == 5
    assert "5 of 5 samples" in (out / "table.md").read_text()
    assert summarise(evaluate(data, out, limit=3)).figures.count == 3
    assert len(painter.asked) == 5


def changed(made: Recipe, **changes) -> Recipe:
    return Recipe(**{**vars(made), **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "diffedit"}, "method was 'peekaboo', is 'diffedit'"),
        ({"model": "nobody/nothing"}, "model was 'bundled', is 'nobody/nothing'"),
        ({"settings": preset("draft", seed=1)}, "seed was 0, is 1"),
        ({"settings": preset("draft", threshold=0.4)}, "threshold was 0.5, is 0.4"),
        ({"settings": preset("default")}, "preset was 'draft', is 'default'"),
        ({"dtype": "float16"}, "dtype was 'auto', is 'float16'"),
    ],
)
def test_results_of_something_else_are_not_mixed(data, tmp_path, painter, changes, says):
    made = Recipe(settings=preset("draft"))
    out = tmp_path / "out"
    evaluate(data, out, made, stop=1)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(DatasetError, match="must not be mixed") as caught:
        Evaluation(data, changed(made, **changes), out)
    assert says in str(caught.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert len(Evaluation(data, changed(made, device="cpu"), out).todo) == 4  # the device may change


def test_another_data_set_is_not_mixed_nor_is_a_model_whose_files_changed(data, tmp_path, painter):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"1" * 100)
    made = Recipe("diffedit", str(model))
    out = tmp_path / "out"
    evaluate(data, out, made, stop=1)
    (model / "weights.safetensors").write_bytes(b"1" * 50 + b"2" * 50)
    with pytest.raises(DatasetError, match="the files of the model changed"):
        Evaluation(data, made, out)
    (model / "weights.safetensors").write_bytes(b"1" * 100)
    for other in (
        read_dataset("coco", tmp_path / "coco", alone=True),
        Dataset("coco", "", data.samples[1:], [], "", data.choices),
    ):
        with pytest.raises(DatasetError, match="must not be mixed"):
            Evaluation(other, made, out)
    assert len(Evaluation(data, made, out).todo) == 4


def test_networks_whose_files_changed_are_not_mixed(data, tmp_path, painter):
    network = tmp_path / "clip"
    network.mkdir()
    (network / "weights.safetensors").write_bytes(b"1" * 100)
    made = Recipe(settings=preset("default", "clip", clip_model=str(network)))
    evaluate(data, tmp_path / "out", made, stop=1)
    (network / "weights.safetensors").write_bytes(b"1" * 99 + b"2")
    with pytest.raises(DatasetError, match="the files of the clip model changed"):
        Evaluation(data, made, tmp_path / "out")


def test_what_came_to_nothing_does_not_stand_in_the_way(data, tmp_path, painter):
    out = tmp_path / "out"
    Evaluation(data, Recipe("diffedit", "mistyped"), out).ledger.close()
    evaluate(data, out)
    assert json.loads((out / "run.json").read_text())["identity"]["method"] == "whole-image"


def test_two_at_a_time_are_refused(data, tmp_path, painter):
    pytest.importorskip("fcntl", reason="needs a system with file locks")
    first = Evaluation(data, Recipe("whole-image"), tmp_path / "out")
    with pytest.raises(DatasetError, match="Another evaluation is writing"):
        Evaluation(data, Recipe("whole-image"), tmp_path / "out")
    first.close()
    Evaluation(data, Recipe("whole-image"), tmp_path / "out").close()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("rows.csv", "name,age\nme,7", "no table of this version"),
        ("rows.csv", ",".join(COLUMNS) + "\na,b,c\n", "line 2 is damaged"),
        ("rows.csv", ",".join(COLUMNS) + "\na,b,c,7,1,2,3,\n", "line 2 is damaged"),
        ("rows.csv", ",".join(COLUMNS) + "\na,b,c,.5,1,2,3,\n", "no run.json beside it"),
        ("run.json", "{}", "damaged, or of something else"),
        ("run.json", "{", "damaged, or of something else"),
    ],
)
def test_files_of_something_else_are_left_as_they_are(data, tmp_path, file, text, says):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text(text)
    with pytest.raises(DatasetError, match=says):
        Evaluation(data, Recipe("whole-image"), tmp_path / "out")
    assert (tmp_path / "out" / file).read_text() == text


def test_a_sample_that_fails_is_told_skipped_and_tried_again(data, tmp_path, painter):
    path = data.samples[2].image
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    evaluation = evaluate(data, tmp_path / "out")
    assert [failure.sample for failure in evaluation.failures] == ["5 red"]
    assert path.name in str(evaluation.failures[0])
    assert len(table(tmp_path / "out")) == 4
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["problems"]) == 1
    path.write_bytes(good)
    evaluation = evaluate(data, tmp_path / "out")
    assert not evaluation.failures
    assert [row["sample"] for row in table(tmp_path / "out")][-1] == "5 red"
    assert summarise(evaluation).rows[2].sample == "5 red"


def test_too_little_memory_and_a_librarys_fault_are_failures_too(data, tmp_path, monkeypatch):
    errors = iter([MemoryError(), RuntimeError("CUDA out of memory. Tried"), TypeError("shape '[1]' is\ninvalid")])

    def broken(image, prompts):
        raise next(errors)

    monkeypatch.setattr(Recipe, "build", lambda self: broken)
    outcomes = list(Evaluation(data, Recipe("whole-image"), tmp_path / "out", limit=3))
    assert all(isinstance(outcome, Failure) for outcome in outcomes)
    assert ["not enough memory" in str(outcome) for outcome in outcomes] == [True, True, False]
    assert all("\n" not in str(outcome) for outcome in outcomes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_is_one_sentence(data, tmp_path, painter):
    evaluation = Evaluation(data, Recipe("whole-image"), tmp_path / "out")
    evaluation.ledger.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OutputError, match=r"could not be written .*run the same command again"):
        list(evaluation)
    evaluation.ledger.file = open("/dev/full", "ab")  # noqa: SIM115
    evaluation.ledger.file.write(b"what is still to be written")
    evaluation.ledger.close()


def test_an_engine_may_give_outcomes_in_any_order(data, tmp_path):
    def backwards(made, samples, on_device):
        on_device({"device": "elsewhere"})
        painter = trees.Painter()
        for sample in reversed(list(samples)):
            yield score_sample(painter, sample, made.threshold)

    evaluation = Evaluation(data, Recipe("whole-image"), tmp_path / "out", engine=backwards)
    assert len(list(evaluation)) == 5
    evaluation.close()
    assert [row.sample for row in evaluation.rows()] == [s.key for s in data.samples]
    assert "elsewhere" in markdown(evaluation, write_report(evaluation))


def test_recipes_and_samples_can_be_sent_to_other_processes(data):
    import pickle

    made = Recipe(settings=preset("draft"))
    assert pickle.loads(pickle.dumps(made)) == made
    assert pickle.loads(pickle.dumps(data.samples)) == data.samples


def test_recipes_from_what_a_user_says():
    made = recipe("peekaboo", None, "paper", "raster", 3, ["steps=7"])
    assert (made.settings.blur, made.settings.steps, made.settings.seed) == ("none", 7, 3)
    assert made.title == "Peekaboo (paper, raster, steps=7)"
    assert Recipe(settings=preset("default", seed=5)).title == "Peekaboo (default)"
    made = recipe("diffedit", None, "default", None, 3, ["draws=4", "strength=0.25"])
    assert dict(made.options) == {"draws": 4, "strength": 0.25, "clip": 3.0, "seed": 3}
    assert made.title == "diffedit"
    for said, expected in (("0.4", 0.4), ("otsu", "otsu")):
        made = recipe("cross-attention", None, "default", None, 0, ["band=0.2,0.6", f"threshold={said}"])
        assert (made.options["band"], made.options["threshold"]) == ((0.2, 0.6), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("guess", None, "default", None, 0, []), "no method 'guess'; the methods are peekaboo, "),
        (("diffedit", None, "paper", None, 0, []), "--preset and --variant are Peekaboo's"),
        (("diffedit", None, "default", None, 0, ["steps=4"]), "no option of diffedit"),
        (("diffedit", None, "default", None, 0, ["draws=many"]), "draws is 'many'"),
        (("diffedit", None, "default", None, 0, ["clip=nan"]), "clip is 'nan'"),
        (("cross-attention", None, "default", None, 0, ["band=0.2"]), "band is '0.2'"),
        (("whole-image", None, "default", None, 0, ["a=1"]), "it has no options"),
        (("peekaboo", None, "fast", None, 0, []), "no preset 'fast'"),
    ],
)
def test_recipes_that_cannot_be_are_one_sentence(arguments, says):
    with pytest.raises(SettingsError) as caught:
        recipe(*arguments)
    assert says in str(caught.value)


def test_every_baseline_can_be_named():
    assert baselines.METHODS
    for method in baselines.METHODS:
        made = recipe(method, None, "default", None, 0, [])
        assert json.dumps(made.identity())


def test_a_models_fingerprint_sees_its_head_its_tail_and_its_names(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenters, "GLANCE", 8)
    file = tmp_path / "m" / "a.safetensors"
    file.parent.mkdir()
    seen = set()
    for data in (b"0" * 64, b"1" + b"0" * 63, b"0" * 63 + b"1", b"0" * 65):
        file.write_bytes(data)
        seen.add(segmenters.fingerprint_model(str(file.parent)))
    file.rename(file.with_name("b.safetensors"))
    seen.add(segmenters.fingerprint_model(str(file.parent)))
    assert len(seen) == 5
    assert segmenters.fingerprint_model("nobody/nothing") is None
    assert segmenters.fingerprint_model(None) is None
    assert segmenters.fingerprint_model("bundled") is not None


def test_the_library_does_not_import_its_evaluation():
    code = "import sys, peekaboo.pipeline, peekaboo.cli, peekaboo.jobs; print([m for m in sys.modules if 'evaluation' in m])"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "[]"


def test_pixels_are_of_the_types_promised(data):
    loaded = data.samples[0].load()
    assert isinstance(loaded, Loaded)
    assert (loaded.rgb.dtype, loaded.masks.dtype, loaded.valid.dtype) == (np.uint8, np.bool_, np.bool_)


def test_a_sample_with_a_strange_name_is_known_again(tmp_path, painter):
    mask = trees.own(tmp_path).parent / "masks" / "red.png"
    strange = 'two  spaces,\ta "quote" and\na line'
    mask.rename(mask.with_name(f"{strange}.png"))
    trees.own(tmp_path, [("one.png", f"{strange}.png", "red"), ("one.png", "green.png", "green")])
    data = read_dataset("folder", tmp_path)
    evaluate(data, tmp_path / "out", stop=1)
    assert len((tmp_path / "out" / "rows.csv").read_text().splitlines()) == 2
    evaluate(data, tmp_path / "out")
    assert painter.asked == [("red",), ("green",)]
