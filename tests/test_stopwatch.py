"""--profile: times that add up to the whole, each counted once."""

import time

import numpy as np
import pytest
import torch

from peekaboo import Peekaboo
from peekaboo.denoisers import Denoiser
from peekaboo.stopwatch import Stopwatch, TimedDenoiser


def test_inner_time_counts_once_and_all_adds_up():
    watch = Stopwatch(torch.device("cpu"))
    start = time.perf_counter()
    with watch.measure("outer"):
        time.sleep(0.03)
        for _ in range(2):
            with watch.measure("inner"):
                time.sleep(0.02)
    whole = time.perf_counter() - start
    assert watch.calls == {"outer": 1, "inner": 2}
    assert 0.03 <= watch.seconds["outer"] < whole - 0.039
    assert sum(watch.seconds.values()) == pytest.approx(whole, abs=2e-3)
    assert list(watch.report()) == sorted(watch.seconds, key=lambda name: -watch.seconds[name])


def test_a_failure_is_counted_and_passed_on():
    watch = Stopwatch(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), watch.measure("outer"), watch.measure("inner"):
        _ = 1 / 0
    assert watch.calls == {"inner": 1, "outer": 1}


def test_a_profiled_run_gives_the_same_masks_and_tells_its_parts(toy):
    rgb = np.zeros((40, 56, 3), np.uint8)
    rgb[10:30, 10:30, 0] = 230
    assert isinstance(TimedDenoiser(toy, Stopwatch(torch.device("cpu"))), Denoiser)
    plain = Peekaboo(toy).segment(rgb, "red", steps=2)
    timed = Peekaboo(toy).segment(rgb, "red", steps=2, profile=True)
    assert plain.alpha.tobytes() == timed.alpha.tobytes()
    assert "profile" not in plain.record
    parts = timed.record["profile"]
    assert parts["picture encoder, forward"]["calls"] == 2 + 2  # both views, each step
    assert parts["denoiser"]["calls"] == 3 * 2 + 2  # the first maps of both views, each step; the score asks nothing
    assert sum(row["seconds"] for row in parts.values()) <= timed.record["seconds"] + 1e-3
