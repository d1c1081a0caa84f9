"""What an evaluation leaves behind: tables beside the published figures, pictures, and a page that needs nothing else."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import trees
from peekaboo.evaluation.datasets import read_dataset
from peekaboo.evaluation.report import choose
from peekaboo.evaluation.rows import COLUMNS, Row
from peekaboo.evaluation.tables import latex_text, summarise
from test_evaluation_run import data, evaluate, painter, table

__all__ = ["data", "painter"]  # fixtures


def test_an_evaluation_leaves_rows_masks_tables_pictures_and_a_page(data, tmp_path, painter):
    out = tmp_path / "out"
    evaluation = evaluate(data, out)
    assert [row["sample"] for row in table(out)] == [s.key for s in data.samples]
    assert tuple(table(out)[0]) == COLUMNS
    assert {float(row["iou"]) for row in table(out)} == {1.0}
    assert len(list((out / "masks").iterdir())) == 5
    red = Image.open(evaluation.ledger.mask_path("5 red"))
    assert (red.mode, red.size) == ("1", (50, 40))
    assert np.array_equal(np.asarray(red), data.samples[2].load().masks[0])
    record = json.loads((out / "run.json").read_text())
    assert record["identity"]["method"] == "whole-image"
    session = record["sessions"][0]
    assert {"started", "ended", "seconds", "device", "python", "torch", "numpy"} <= session.keys()
    assert session["samples"] == 5
    assert record["results"]["mIoU"] == 1.0
    assert "| **whole-image** | **1.000**" in (out / "table.md").read_text()
    assert "5 of 5 samples of coco" in (out / "table.md").read_text()
    shown = sorted(p.name for p in (out / "pictures").iterdir())
    assert shown == ["best-1.jpg", "median-1.jpg", "worst-1.jpg"]
    assert not list(out.glob(".*"))


class Links(HTMLParser):
    """The addresses of a page, and whether every tag was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


def test_the_page_needs_no_other_file_and_runs_nothing_of_the_data(tmp_path, painter):
    trees.own(tmp_path, [("one.png", "red.png", "<script>alert(1)</script> red"), ("one.png", "absent.png", "<b>")])
    evaluate(read_dataset("folder", tmp_path), tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not page.open
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "there is no mask" in text


def test_voc_gives_class_figures_of_the_whole_set(tmp_path, painter):
    tree = trees.Voc(tmp_path)
    tree.add("a", {"person": (5, 10, 60, 180), "dog": (80, 10, 179, 190)}, border=3)
    tree.add("b", {"dog": (20, 30, 120, 180)}, paint_only={"dog": (20, 30, 70, 180)})
    data = read_dataset("voc", tmp_path, prompts="present")
    evaluation = evaluate(data, tmp_path / "out")
    summary = summarise(evaluation)
    dog = 93 * 174
    assert summary.classes["person"] == 1.0
    assert summary.classes["dog"] == pytest.approx((dog + 7500) / (dog + 15000), abs=2e-3)
    assert summary.classes["cat"] is None
    assert summary.values["mIoU 20"] == pytest.approx((1 + summary.classes["dog"]) / 2)
    expected = (1 + summary.classes["dog"] + summary.classes["background"]) / 3
    assert summary.values["mIoU 21"] == pytest.approx(expected)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| OVDiff |" in text
    assert "| mIoU 20 | mIoU 21 |" in text
    assert "20 classes and over 21 with the background" in text
    labels = np.asarray(Image.open(evaluation.ledger.mask_path("a")))
    assert set(np.unique(labels)) == {0, 1, 2}  # dog and person, in the order of the prompts
    assert np.array_equal(evaluation.ledger.labels("a"), labels)


def test_the_papers_figures_stand_beside_ours(tmp_path, painter):
    tree = trees.Voc(tmp_path)
    tree.add("a", {"sheep": (20, 30, 170, 190)})
    evaluate(read_dataset("voc-c", tmp_path), tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| RGB Bilateral | 0.892 | 0.709 | 0.331 | 0.130 | 0.520 | – | arXiv 2211.13224 |" in text
    assert "1 of 1 samples of voc-c trainval" in text
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert r"Depth Bilateral & 0.929 & 0.707 & 0.455 & 0.187 & 0.551 & -- \\" in tex
    assert tex.count("{") == tex.count("}")
    for row in tex.split("\\midrule")[1:]:
        assert all(part.count("&") == 6 for part in row.split("\n") if part.endswith("\\\\"))


def test_latex_says_what_was_meant():
    assert latex_text(r"50 % of a_b & c#{$} ~^\ ≥") == (
        r"50 \% of a\_b \& c\#\{\$\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\geq$"
    )


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 5))
def test_the_best_the_median_and_the_worst_are_chosen_once(ious, count):
    rows = [Row(str(n), "", "", iou, 0, 0, 0.0) for n, iou in enumerate(ious)]
    chosen = choose(rows, count)
    assert len({row.sample for _, row in chosen}) == len(chosen)
    assert len(chosen) == min(len(rows), 3 * count) or len(rows) < 3 * count
    kinds = {kind: [row.iou for k, row in chosen if k == kind] for kind in ("best", "median", "worst")}
    if ious:
        assert max(ious) == kinds["best"][0]
    if len(ious) > 1:
        assert min(ious) == kinds["worst"][0]
        assert min(kinds["best"]) >= max([*kinds["median"], *kinds["worst"]])
    if len(ious) > 2:
        assert kinds["median"]
