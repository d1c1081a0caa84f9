"""Scoring masks against the truth: data sets, figures, and the methods they are compared with.

`peekaboo evaluate` is the door; `peekaboo.evaluation.run.Evaluation` is what it opens. The library never imports this package.
"""

from peekaboo.evaluation.metrics import auroc, false_alarms, iou, precisions

__all__ = ["auroc", "false_alarms", "iou", "precisions"]
