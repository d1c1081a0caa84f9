"""What an evaluation leaves behind: tables, the best, median and worst samples as pictures, and one page with all of it."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import peekaboo
from peekaboo.errors import PeekabooError
from peekaboo.evaluation.datasets import Sample
from peekaboo.evaluation.rows import RUN, Row
from peekaboo.evaluation.run import Evaluation
from peekaboo.evaluation.tables import Summary, caption, latex, lines, markdown, shown, summarise
from peekaboo.files import image_bytes, json_bytes, write_all
from peekaboo.result import COLOURS

PICTURES = "pictures"
SHOWN = 4
"""How many of the best, of the median and of the worst samples are shown."""
PANEL = 320
"""The longest side of a panel, in pixels."""
BINS = 10


@dataclass(frozen=True)
class Exhibit:
    """A sample to look at. kind: "best", "median" or "worst". image: picture, truth and prediction, side by side, JPEG."""

    kind: str
    row: Row
    image: bytes


def write_report(evaluation: Evaluation) -> Summary:
    """Write table.md, table.tex, report.html, pictures/ and the figures into run.json. Raises OutputError."""
    summary = summarise(evaluation)
    exhibits = list(exhibit(evaluation, summary.rows))
    counts: dict[str, int] = {}
    files: dict[Path, bytes] = {}
    for item in exhibits:
        counts[item.kind] = counts.get(item.kind, 0) + 1
        files[evaluation.out / PICTURES / f"{item.kind}-{counts[item.kind]}.jpg"] = item.image
    evaluation.ledger.record["results"] = summary.as_dict()
    files[evaluation.out / "table.md"] = markdown(evaluation, summary).encode("utf-8", "backslashreplace")
    files[evaluation.out / "table.tex"] = latex(evaluation, summary).encode("utf-8", "backslashreplace")
    files[evaluation.out / "report.html"] = page(evaluation, summary, exhibits).encode("utf-8", "backslashreplace")
    files[evaluation.out / RUN] = json_bytes(evaluation.ledger.record)
    write_all(files)
    return summary


def choose(rows: list[Row], count: int = SHOWN) -> list[tuple[str, Row]]:
    """The best, the median and the worst rows, each at most once; with few rows, fewer of each."""
    ordered = sorted(rows, key=lambda row: -row.iou)
    each = min(count, max(1, len(ordered) // 3))
    best, worst = ordered[:each], ordered[each:][-each:]
    rest = ordered[len(best) : len(ordered) - len(worst)]
    start = max(0, (len(rest) - each) // 2)
    kinds = (("best", best), ("median", rest[start : start + each]), ("worst", worst[::-1]))
    return [(kind, row) for kind, group in kinds for row in group]


def exhibit(evaluation: Evaluation, rows: list[Row]) -> list[Exhibit]:
    """The chosen rows with their pictures; one whose files have gone since is left out."""
    samples = {sample.key: sample for sample in evaluation.dataset.samples}
    found = []
    for kind, row in choose(rows):
        try:
            found.append(Exhibit(kind, row, panels(samples[row.sample], evaluation.ledger.labels(row.sample))))
        except PeekabooError:
            continue
    return found


def panels(sample: Sample, labels: NDArray[np.uint8]) -> bytes:
    """Picture | truth | prediction as JPEG. Raises PeekabooError where a file has gone or no longer fits."""
    loaded = sample.load()
    if labels.shape != loaded.rgb.shape[:2]:
        raise PeekabooError(f"The mask of {sample.key} is of another size than its picture.")
    numbers = np.arange(1, len(loaded.masks) + 1, dtype=np.uint8)[:, None, None]
    truth = (loaded.masks * numbers).max(axis=0)
    views = [loaded.rgb, tinted(loaded.rgb, truth, loaded.valid), tinted(loaded.rgb, labels, loaded.valid)]
    height, width = loaded.rgb.shape[:2]
    scale = min(1.0, PANEL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (3 * size[0] + 16, size[1]), "white")
    for index, view in enumerate(views):
        canvas.paste(Image.fromarray(view).resize(size, Image.Resampling.LANCZOS), (index * (size[0] + 8), 0))
    return image_bytes(canvas, ".jpg", quality=88)


def tinted(rgb: NDArray[np.uint8], labels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture greyed, with each label's pixels in its own colour, and white where nothing is said. HWC uint8."""
    grey = 0.35 * rgb.mean(axis=2, keepdims=True) + 110
    canvas = np.broadcast_to(grey, rgb.shape).copy()
    for value in np.unique(labels[labels > 0]).tolist():
        colour = np.array(COLOURS[(value - 1) % len(COLOURS)], np.float32)
        mask = labels == value
        canvas[mask] = 0.55 * rgb[mask] + 0.45 * colour
    canvas[~valid] = 255
    return canvas.round().astype(np.uint8)


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right }
th:first-child, td:first-child, td:last-child { text-align: left }
tr.own { font-weight: bold; background: #48f2 }
figure { margin: 1rem 0 } img { max-width: 100% } figcaption { color: #888 }
svg { max-width: 100% } details { margin: 1rem 0 } .scroll { overflow-x: auto }
"""


def page(evaluation: Evaluation, summary: Summary, exhibits: list[Exhibit]) -> str:
    """The whole report as one HTML page that needs no other file and no network."""
    title = f"{summary.title} on {evaluation.dataset.title}"
    record = {key: value for key, value in evaluation.ledger.record.items() if key not in ("problems", "results")}
    problems = [*evaluation.dataset.problems, *(str(failure) for failure in evaluation.failures)]
    parts = [
        f"<h1>{escaped(title)}</h1>",
        html_table(evaluation, summary),
        f"<p>{escaped(caption(evaluation, summary))}</p>",
        histogram([row.iou for row in summary.rows]),
        class_table(summary),
        *(gallery(kind, [item for item in exhibits if item.kind == kind]) for kind in ("best", "median", "worst")),
        problem_list(problems),
        f"<details><summary>Record</summary><pre>{escaped(json_bytes(record).decode())}</pre></details>",
        f"<p>Peekaboo {peekaboo.__version__}</p>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def escaped(text: Any) -> str:
    """Any text, harmless in HTML."""
    return html.escape(str(text), quote=True)


def html_table(evaluation: Evaluation, summary: Summary) -> str:
    """The table of figures."""
    columns, rows = lines(evaluation, summary)
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in ("method", *columns, "source"))
    body = ""
    for row, own in rows:
        cells = [row.method, *(shown(row.values.get(column)) for column in columns), row.source]
        body += f"<tr{' class=own' if own else ''}>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>\n"
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def class_table(summary: Summary) -> str:
    """IoU by class, or nothing."""
    if not summary.classes:
        return ""
    rows = "".join(f"<tr><td>{escaped(n)}</td><td>{shown(v)}</td></tr>\n" for n, v in summary.classes.items())
    return f"<h2>Classes</h2>\n<table><tr><th>class</th><th>IoU</th></tr>\n{rows}</table>"


def histogram(ious: list[float]) -> str:
    """How many samples have which IoU, as inline SVG."""
    if not ious:
        return "<p>No sample has been scored.</p>"
    counts, _ = np.histogram(ious, bins=BINS, range=(0, 1))
    bars = ""
    for index, count in enumerate(counts.tolist()):
        height = 120 * count / max(counts)
        x, low = 10 + 56 * index, index / BINS
        bars += (
            f'<rect x="{x}" y="{140 - height:.1f}" width="50" height="{height:.1f}" fill="#48f"/>'
            f'<text x="{x + 25}" y="{134 - height:.1f}" text-anchor="middle">{count}</text>'
            f'<text x="{x}" y="158" text-anchor="middle">{low:.1f}</text>'
        )
    return (
        '<h2>IoU</h2>\n<svg viewBox="0 0 590 165" width="590" role="img" aria-label="Samples by IoU" '
        f'font-size="12" fill="currentColor">{bars}<text x="570" y="158" text-anchor="middle">1.0</text></svg>'
    )


def gallery(kind: str, items: list[Exhibit]) -> str:
    """The samples of one kind: picture, truth, prediction."""
    figures = ""
    for item in items:
        words = f"{item.row.prompt} — IoU {item.row.iou:.3f} ({item.row.sample})"
        data = base64.b64encode(item.image).decode()
        figures += (
            f'<figure><img alt="picture, truth and prediction" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{escaped(words)}</figcaption></figure>\n"
        )
    return f"<h2>{kind.capitalize()}: picture, truth, prediction</h2>\n{figures}" if figures else ""


def problem_list(problems: list[str]) -> str:
    """What was skipped, or nothing."""
    if not problems:
        return ""
    items = "".join(f"<li>{escaped(problem)}</li>\n" for problem in problems)
    return f"<details><summary>{len(problems)} records were skipped</summary><ul>\n{items}</ul></details>"
