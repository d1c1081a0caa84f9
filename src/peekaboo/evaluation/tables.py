"""The figures of an evaluation, and the tables in which they stand beside those that others published."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peekaboo.evaluation.metrics import Figures, class_ious, figures, mean_class_iou
from peekaboo.evaluation.published import CAVEAT, COLUMNS, TABLES, Published
from peekaboo.evaluation.rows import Row
from peekaboo.evaluation.run import BACKGROUND, Evaluation

CLASS_COLUMNS = ("mIoU 20", "mIoU 21")


@dataclass(frozen=True)
class Summary:
    """What an evaluation found. title: the method. rows: in the data set's order. classes: dataset-level IoU by class, None for a
    class that does not occur; empty for data sets without."""

    title: str
    rows: list[Row]
    figures: Figures
    classes: dict[str, float | None] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The figures by the name of their column, each in [0, 1]."""
        values = {name: value for name, value in self.figures.as_dict().items() if name != "count"}
        if self.classes:
            things = [name for name in self.classes if name != BACKGROUND]
            values["mIoU 20"] = mean_class_iou(self.classes, things)
            values["mIoU 21"] = mean_class_iou(self.classes, self.classes)
        return values

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the run record."""
        seconds = sum(row.seconds for row in self.rows)
        return {
            "method": self.title,
            "samples": self.figures.count,
            **self.values,
            "seconds": round(seconds, 3),
            "seconds_per_sample": round(seconds / max(1, len(self.rows)), 3),
            **({"classes": self.classes} if self.classes else {}),
        }


def summarise(evaluation: Evaluation) -> Summary:
    """The figures of the rows so far."""
    rows = evaluation.rows()
    found = figures((r.iou for r in rows), (r.intersection for r in rows), (r.union for r in rows))
    names = evaluation.dataset.classes
    classes = class_ious((row.classes for row in rows), names) if names else {}
    return Summary(evaluation.recipe.title, rows, found, classes)


def caption(evaluation: Evaluation, summary: Summary) -> str:
    """What the figures are of: how many samples of how many, on what, when; then the protocol and the caveat."""
    dataset, record = evaluation.dataset, evaluation.ledger.record
    count = f"{len(summary.rows)} of {len(dataset.samples)} samples of {dataset.title}"
    skipped = len(dataset.problems) + len(evaluation.failures)
    devices = sorted({str(session["device"]) for session in record["sessions"] if "device" in session})
    dates = sorted(session["started"][:10] for session in record["sessions"])
    settings = record["identity"]["settings"]
    parts = [
        count + (f" ({skipped} records skipped)" if skipped else ""),
        f"model {record['identity']['model'] or 'of the method'} on {', '.join(devices) or 'no device'}",
        f"seed {settings['seed']}" if "seed" in settings else "no seed",
        f"mask = alpha > {evaluation.recipe.threshold:g}",
        f"{summary.as_dict()['seconds_per_sample']:.2f} s a sample",
        " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
    ]
    return f"{'; '.join(part for part in parts if part)}. {dataset.protocol} Prec@k is the share of samples with IoU ≥ k. {CAVEAT}"


def lines(evaluation: Evaluation, summary: Summary) -> tuple[list[str], list[tuple[Published, bool]]]:
    """The columns, and the rows: those of others, then ours, which is marked True."""
    ours = Published(summary.title, "measured here", summary.values)
    columns = [*COLUMNS, *(CLASS_COLUMNS if summary.classes else ())]
    others = TABLES.get(evaluation.dataset.name, ())
    return columns, [*((row, False) for row in others), (ours, True)]


def shown(value: float | None) -> str:
    """A figure with three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def markdown(evaluation: Evaluation, summary: Summary) -> str:
    """The table, and what it is of, as Markdown."""
    columns, rows = lines(evaluation, summary)
    text = [f"| method | {' | '.join(columns)} | source |", "|---" * (len(columns) + 2) + "|"]
    for row, own in rows:
        cells = [shown(row.values.get(column)) for column in columns]
        name = _escaped(row.method)
        if own:
            name, cells = f"**{name}**", [f"**{cell}**" for cell in cells]
        text.append(f"| {name} | {' | '.join(cells)} | {_escaped(row.source)} |")
    if summary.classes:
        text += ["", "| class | IoU |", "|---|---|"]
        text += [f"| {name} | {shown(value)} |" for name, value in summary.classes.items()]
    return "\n".join([*text, "", caption(evaluation, summary), ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≥": r"$\geq$",
    "<": r"$<$",
    ">": r"$>$",
    "–": "--",
}


def latex_text(text: str) -> str:
    """Any text as LaTeX's text mode shows it."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(evaluation: Evaluation, summary: Summary) -> str:
    """The table with its caption as LaTeX; it asks the package booktabs."""
    columns, rows = lines(evaluation, summary)
    head = " & ".join(latex_text(cell) for cell in ("method", *columns))
    text = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering", f"\\begin{{tabular}}{{l{'r' * len(columns)}}}"]
    text += ["\\toprule", f"{head} \\\\", "\\midrule"]
    for row, own in rows:
        cells = [latex_text(cell) for cell in (row.method, *(shown(row.values.get(column)) for column in columns))]
        if own:
            cells = [f"\\textbf{{{cell}}}" for cell in cells]
            text += ["\\midrule"] if len(rows) > 1 else []
        text.append(f"{' & '.join(cells)} \\\\")
    text += [
        "\\bottomrule",
        "\\end{tabular}",
        f"\\caption{{{latex_text(caption(evaluation, summary))}}}",
        "\\end{table}",
        "",
    ]
    return "\n".join(text)
