"""Camera frames with lanes on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from bench.colours import ANNOTATED, colour_of, label_of
from bench.plot_style import PAGE
from selective_focus import Lane

OVERLAY_COLOURS = {"fp32": "#00E5FF", "minmax": "#FFE100"}
"""Greys are lost on asphalt."""
ImageBGR = npt.NDArray[np.uint8]
_PALETTE = ((178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204), (66, 228, 240), (233, 180, 86))
"""Okabe and Ito's colours, in OpenCV's order."""


@dataclass(frozen=True)
class Example:
    """A test frame to show: its image, its annotation, and the lanes that methods found in it."""

    name: str
    image: ImageBGR
    annotated: Sequence[npt.NDArray[np.float64]]
    found: Mapping[str, Sequence[npt.NDArray[np.float64]]]
    """Method -> lanes, each [P, 2] in pixels."""
    category: str = ""


def draw_lanes(image_bgr: ImageBGR, lanes: Sequence[Lane], scores: bool = False) -> ImageBGR:
    """A copy of a frame [h, w, 3] with lanes as coloured lines, and their scores at the lower end."""
    drawn = image_bgr.copy()
    thickness = max(2, round(image_bgr.shape[1] / 300))
    for index, lane in enumerate(lanes):
        colour = _PALETTE[index % len(_PALETTE)]
        points = np.clip(np.nan_to_num(lane.points), -(2**15), 2**15 - 1).round().astype(np.int32)
        cv2.polylines(drawn, [points[:, None]], False, colour, thickness, cv2.LINE_AA)
        if scores and len(points):
            _write(drawn, f"{lane.score:.2f}", points[points[:, 1].argmax()], colour)
    return drawn


def _write(image: ImageBGR, text: str, at: npt.NDArray[np.int32], colour: tuple[int, int, int]) -> None:
    """Text above a point, moved into the frame, with a dark edge so that it can be read anywhere."""
    scale = image.shape[1] / 1200
    weight = max(1, round(2 * scale))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    x = int(np.clip(at[0] - width / 2, 4, image.shape[1] - width - 4))
    y = int(np.clip(at[1] - 10, height + 4, image.shape[0] - 8))
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3 * weight, cv2.LINE_AA)
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)


def overlay_figure(examples: Sequence[Example], title: str) -> Figure:
    """A row a frame, a column a method: annotation dashed, the method's lanes solid."""
    columns = list(examples[0].found)
    height, width = examples[0].image.shape[:2]
    each = PAGE / len(columns)
    size = (PAGE, (each * height / width + 0.18) * len(examples) + 0.5)
    figure, axes = plt.subplots(
        len(examples), len(columns), figsize=size, squeeze=False, layout="constrained"
    )
    for row, example in zip(axes, examples, strict=True):
        for axis, method in zip(row, columns, strict=True):
            _show(axis, example, method)
    for axis, method in zip(axes[0], columns, strict=True):
        axis.set_title(
            label_of(method), fontsize=min(8.0, 34 / len(columns))
        )  # the longest label fits its column
    figure.suptitle(f"{title} (dashed: annotation)")
    return figure


def _show(axis: plt.Axes, example: Example, method: str) -> None:
    height, width = example.image.shape[:2]
    axis.imshow(cv2.cvtColor(example.image, cv2.COLOR_BGR2RGB), aspect="auto", interpolation="antialiased")
    for lane in example.found[method]:
        axis.plot(*lane.T, color="black", linewidth=2, alpha=0.6)
        axis.plot(*lane.T, color=OVERLAY_COLOURS.get(method, colour_of(method)), linewidth=1.2)
    for lane in example.annotated:
        axis.plot(*lane.T, color=ANNOTATED, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], box_aspect=height / width)
    axis.set_xlabel(
        "" if method != next(iter(example.found)) else f"{example.category} {example.name}".strip(),
        fontsize=6,
        loc="left",
    )
    axis.grid(False)
