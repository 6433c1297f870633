"""A contact sheet: a few frames of each category under one another, to look at."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .render import render
from .scene import CATEGORIES, sample_scene

_SLOT_COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255))


def contact_sheet(
    split: str = "test", per_category: int = 4, labels: bool = False, width: int = 640, seed: int = 0
) -> NDArray[np.uint8]:
    """BGR image, one row a category, `per_category` frames `width` px wide each; labels drawn as dots."""
    height = round(width * 590 / 1640)
    rows = []
    for number, category in enumerate(CATEGORIES):
        frames = []
        for repeat in range(per_category):
            scene = sample_scene(split, number + repeat * len(CATEGORIES), seed=seed)
            frame = render(scene)
            for lane, slot in zip(scene.lanes, scene.slots, strict=True) if labels else ():
                for x, y in lane:
                    cv2.circle(frame, (round(x), round(y)), 4, _SLOT_COLOURS[slot - 1], -1)
            frames.append(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))
        cv2.putText(
            frames[0], category, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 220, 255), 2, cv2.LINE_AA
        )
        rows.append(np.hstack(frames))
    return np.vstack(rows)
