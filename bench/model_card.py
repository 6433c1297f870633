"""What a shipped detector can do: F1 on synthetic test frames and on real ones, and its page beside the
weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors import safe_open

from bench.metrics.culane import Counts, count_matches
from datasets.culane import read_lanes
from datasets.errors import DatasetError
from datasets.images import read_image
from selective_focus import Lane, LaneDetector

Image = npt.NDArray[np.uint8]
Polyline = npt.NDArray[np.float64]

SUFFIX = ".lines.txt"


@dataclass(frozen=True)
class Annotated:
    """A full camera frame with its lanes in its pixels, and the category it belongs to."""

    image: Image
    lanes: Sequence[Polyline]
    category: str


def synthetic_frames(split: str, count: int) -> Iterator[Annotated]:
    """The first frames of a split of the synthetic roads, full size, through JPEG as a data set has them."""
    from datasets.synthetic import render, sample_scene

    for index in range(count):
        scene = sample_scene(split, index)
        _, packed = cv2.imencode(".jpg", render(scene), [cv2.IMWRITE_JPEG_QUALITY, 95])
        yield Annotated(cv2.imdecode(packed, cv2.IMREAD_COLOR), scene.lanes, scene.category)


def real_frames(folder: Path) -> Iterator[Annotated]:
    """Frames NAME.jpg with CULane's NAME.lines.txt beside them; the category is the folder's name.

    Raises DatasetError for a frame or a lane file that is missing, cut short or otherwise unreadable, and for a
    folder without any.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise DatasetError(f"{folder}: no *{SUFFIX} files in this folder; give one with annotated frames")
    for path in paths:
        image = read_image(path.with_name(path.name.removesuffix(SUFFIX) + ".jpg"))
        yield Annotated(image, read_lanes(path), folder.name)


class Predictions:
    """A detector's raw heads on annotated frames, so that thresholds can be tried without running it
    again.
    """

    def __init__(self, detector: LaneDetector, frames: Iterable[Annotated], batch: int = 16) -> None:
        self.detector = detector
        self.lanes: list[Sequence[Polyline]] = []
        self.categories: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._heads: list[dict[str, torch.Tensor]] = []
        waiting: list[torch.Tensor] = []
        for frame in frames:
            self.lanes.append(frame.lanes)
            self.categories.append(frame.category)
            self._sizes.append((frame.image.shape[0], frame.image.shape[1]))
            waiting.append(detector.transform(frame.image))
            if len(waiting) == batch:
                self._run(waiting)
        if waiting:
            self._run(waiting)

    def _run(self, waiting: list[torch.Tensor]) -> None:
        with torch.inference_mode():
            heads = self.detector.heads(torch.stack(waiting))
        self._heads += [{name: head[i : i + 1] for name, head in heads.items()} for i in range(len(waiting))]
        waiting.clear()

    def decoded(self) -> list[list[Lane]]:
        """The lanes of every frame, with the detector's present thresholds."""
        pairs = zip(self._heads, self._sizes, strict=True)
        return [self.detector.decode(heads, size)[0] for heads, size in pairs]

    def counts(self) -> dict[str, Counts]:
        """CULane counts by category, in order of appearance, and in total under ""."""
        result: dict[str, Counts] = {}
        for lanes, truth, category, size in zip(
            self.decoded(), self.lanes, self.categories, self._sizes, strict=True
        ):
            found = count_matches(lanes, truth, image_size=size)
            for key in (category, ""):
                result[key] = result.get(key, Counts()) + found
        return result


def f1_table(counts: Mapping[str, Counts]) -> list[str]:
    """Markdown rows of F1, precision and recall; a category without labelled lanes shows its false
    positives.
    """
    rows = [
        "| category | F1 | precision | recall | TP | FP | FN |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for category, c in sorted(counts.items(), key=lambda item: item[0] == ""):
        labelled = c.tp + c.fn > 0
        cells = [_percent(value) if labelled else "" for value in (c.f1, c.precision, c.recall)]
        rows.append(f"| {category or '**all**'} | {' | '.join(cells)} | {c.tp} | {c.fp} | {c.fn} |")
    return rows


def write_card(
    detector: LaneDetector,
    weights: Path,
    synthetic: Predictions,
    real: Mapping[str, Predictions],
    report: Callable[[str], None] = print,
) -> Path:
    """Measure and write ``<weights>.md``. The training facts come from the weight file's metadata."""
    with safe_open(weights, "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["training"])
    parameters = sum(p.numel() for p in detector.model.parameters())
    height, width = detector.input_size
    lines = [
        f"# {detector.name} {detector.variant}: the weights that ship with the project",
        "",
        f"{parameters / 1e6:.2f} M parameters, input {width} x {height}, {weights.stat().st_size / 1e6:.1f} MB "
        f"(`{weights.name}`). Written by `python scripts/train_synthetic.py --detector {detector.name} --card`.",
        "",
        "## Training",
        "",
        "Only on rendered roads (`datasets/synthetic`, split train); no camera frame was used.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        *_curve(weights),
        "",
        "## Accuracy in full precision",
        "",
        f"CULane F1 (IoU 0.5 of 30 px wide strokes) on the first {len(synthetic.lanes)} synthetic test frames, "
        "1640 x 590:",
        "",
        *f1_table(synthetic.counts()),
    ]
    for name, predictions in real.items():
        lines += ["", f"Real frames, {name} ({len(predictions.lanes)}), without adaptation:", ""]
        lines += f1_table(predictions.counts())
    lines += ["", *LIMITS, *(REAL_LIMITS if real else ())]
    path = weights.with_suffix(".md")
    path.write_text("\n".join(lines) + "\n")
    report(f"wrote {path}")
    return path


def _curve(weights: Path) -> list[str]:
    """The lines that show the training curve, drawn from NAME_curve.csv beside the weights; none without it.

    Lines of the table that start with # say what there is to know about it.
    """
    table = weights.with_name(f"{weights.stem}_curve.csv")
    if not table.is_file():
        return []
    picture = table.with_suffix(".png")
    figure = draw_curve(pd.read_csv(table, index_col="step", comment="#"))
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    text = table.read_text(encoding="utf-8")
    notes = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    said = " ".join([f"Loss terms of one batch, by step ({table.name}).", *notes])
    return ["", f"![Loss by step]({picture.name})", "", said]


def draw_curve(terms: pd.DataFrame) -> Figure:
    """Loss terms (columns) by step (index), each as its running mean over what it was measured."""
    figure, axis = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
    for name in terms.columns:
        (line,) = axis.plot(terms.index, terms[name].rolling(8, min_periods=1).mean(), label=name)
        axis.plot(terms.index, terms[name], color=line.get_color(), alpha=0.25, linewidth=0.8)
    axis.set(yscale="log", xlabel="step", ylabel="weighted loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    return figure


LIMITS = (
    "## Limits",
    "",
    "For the benchmark only: small, trained on drawings. Not for driving.",
)
REAL_LIMITS = (
    "The labels of the real day frames hold the own lane's two borders alone, so correct outer lanes count as false",
    "there and F1 is a lower bound.",
)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
