"""Synthetic frames a second on one core; run with ``pytest bench/perf --benchmark-only``.

Processor time: other processes on the machine hardly count. A busy machine is no mistake, so nothing is asserted.
"""

from __future__ import annotations

import time
from typing import Any

import cv2
import pytest

from datasets.synthetic import CATEGORIES, render, sample_scene

FRAMES = 4 * len(CATEGORIES)
SIZES = {
    "network": ((128, 384), (206, 590), 60),
    "training (twice the network's)": ((256, 768), (206, 590), 40),
    "full": ((590, 1640), (0, 590), 15),
}


@pytest.mark.parametrize("name", SIZES)
def test_frames_a_second(benchmark: Any, name: str) -> None:
    size, rows, goal = SIZES[name]
    scenes = [sample_scene("train", index) for index in range(FRAMES)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    seconds: list[float] = []

    def frames() -> None:
        start = time.process_time()
        for scene in scenes:
            render(scene, size, rows)
        seconds.append(time.process_time() - start)

    try:
        benchmark.pedantic(frames, rounds=3, warmup_rounds=1)
    finally:
        cv2.setNumThreads(threads)
    benchmark.extra_info.update(frames_per_second=FRAMES / min(seconds), goal=goal)
