"""Scoring masks against the truth."""

from peekaboo.evaluation.metrics import iou, precisions

__all__ = ["iou", "precisions"]
