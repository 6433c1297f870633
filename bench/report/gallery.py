"""Frames of a run with the lanes of every method, worst first: where the pictures come from, and their scores."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bench import examples
from bench.colours import label_of
from bench.evaluate import REFERENCE_WIDTH
from bench.metrics.culane import WIDTH, count_matches
from bench.record_plots import subject_words
from bench.store import Record, RunFolder
from bench.table import method_rank
from datasets import synthetic
from datasets.errors import DatasetError
from datasets.images import read_image
from datasets.lane_files import read_lanes
from selective_focus import Lane
from selective_focus.lane_distortion import lane_distortion_scores

SHOWN_WIDTH = 960
"""Pixels of a picture on the page."""
MOST_EXTREMES = 8
"""Of one detector: frames kept because a method did worst on them."""
Points = npt.NDArray[np.float64]
SIZES = {"tusimple": (720, 1280)}
CULANE_SIZE = (590, 1640)
_RENDERED = re.compile(r"driver_\d+_synthetic/\d+\.MP4/(\d+)\.jpg")


@dataclass(frozen=True)
class Picture:
    """A frame as it can be shown: without image or annotation where nobody has them."""

    size: tuple[int, int]
    jpeg: bytes | None = None
    annotated: Sequence[Points] | None = None
    category: str = ""


@dataclass
class Subject:
    """A detector on a data set: its methods, and frames with the lanes of each."""

    name: str
    methods: dict[str, str] = field(default_factory=dict)
    """Key -> label."""
    frames: dict[str, dict[str, list[Points]]] = field(default_factory=lambda: defaultdict(dict))
    """Frame's name -> key -> lanes."""


def subjects_of(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records with lanes to show, the first seed of each method and bit setting, by detector and data."""
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: r.cell["seed"]):
        if record.examples or record.extremes:
            subject = f"{subject_words(record, bits=False)} ({record.cell['images']} frames)"
            groups[subject].setdefault(_key(record), record)
    return {name: sorted(group.values(), key=_order) for name, group in groups.items()}


def gallery(folder: RunFolder, records: Sequence[Record], root: Path | None = None) -> dict[str, Any]:
    """Plain data for the page: subjects with methods and frames, and pictures by frame."""
    subjects, pictures = [], {}
    for name, group in subjects_of(records).items():
        lanes = _lanes_by_frame(group)
        shown = {frame: picture_of(folder, group[0], frame, root) for frame in lanes}
        kept = [_frame(frame, shown[frame], lanes[frame], group[0]) for frame in lanes]
        methods = [{"key": _key(record), "label": _label(record)} for record in group]
        subjects.append({"name": name, "methods": methods, "frames": kept})
        for frame, picture in shown.items():
            if picture.jpeg is not None:
                pictures[frame] = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
    return {"subjects": subjects, "pictures": pictures}


def _lanes_by_frame(group: Sequence[Record]) -> dict[str, dict[str, list[Points]]]:
    """Frame -> method's key -> lanes. Frames that a method did worst on have its lanes and those of full precision."""
    lanes: dict[str, dict[str, list[Points]]] = defaultdict(dict)
    for record in group:
        for frame, found in record.examples.items():
            lanes[frame][_key(record)] = [np.array(lane).reshape(-1, 2) for lane in found]
    extremes = [(record, frame, found) for record in group for frame, found in record.extremes.items()]
    extremes.sort(key=lambda each: -each[2]["lds"])
    names = list(dict.fromkeys(frame for _, frame, _ in extremes))[:MOST_EXTREMES]
    for record, frame, found in extremes:
        if frame in names:
            lanes[frame][_key(record)] = [np.array(lane).reshape(-1, 2) for lane in found["lanes"]]
            lanes[frame]["fp32"] = [np.array(lane).reshape(-1, 2) for lane in found["reference"]]
    return lanes


def picture_of(folder: RunFolder, record: Record, frame: str, root: Path | None) -> Picture:
    """The picture and annotation of a frame: kept with the run, below ``root``, or rendered again."""
    kept = examples.kept_frames(folder, record.cell["data_digest"], record.cell["subset"])
    for each in kept:
        if each.name == frame:
            return _picture(each.image, each.annotated, each.category)
    if root is not None:
        return _on_disk(root, frame)
    if record.cell["dataset"].startswith("synthetic") and (found := _RENDERED.fullmatch(frame)):
        return _rendered(record.cell["dataset"].partition("-")[2] or "test", int(found[1]))
    size = kept[0].image.shape[:2] if kept else SIZES.get(record.cell["dataset"], CULANE_SIZE)
    return Picture((size[0], size[1]))


def _on_disk(root: Path, frame: str) -> Picture:
    """Raises DatasetError for a missing or damaged image; an annotation is shown where CULane's file is there."""
    path = root / frame
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{frame}: a frame outside of {root}; its record is not of this data set")
    annotation = path.with_suffix(".lines.txt")
    return _picture(read_image(path), read_lanes(annotation) if annotation.is_file() else None, "")


@cache
def _rendered(split: str, index: int) -> Picture:
    scene = synthetic.sample_scene(split, index)
    return _picture(synthetic.render(scene), scene.lanes, scene.category)


def _picture(
    image: npt.NDArray[np.uint8], annotated: Sequence[Points] | None, category: str | None
) -> Picture:
    height, width = image.shape[:2]
    if width > SHOWN_WIDTH:
        image = cv2.resize(
            image, (SHOWN_WIDTH, round(SHOWN_WIDTH * height / width)), interpolation=cv2.INTER_AREA
        )
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return Picture((height, width), encoded.tobytes(), annotated, category or "")


def _frame(
    name: str, picture: Picture, lanes: Mapping[str, Sequence[Points]], record: Record
) -> dict[str, Any]:
    height, width = picture.size
    annotated = picture.annotated
    counted = annotated is not None and record.cell["dataset"] != "tusimple"
    found = {}
    for key, own in lanes.items():
        entry: dict[str, Any] = {"lanes": [_thinned(lane) for lane in own if len(lane)]}
        if "fp32" in lanes:
            entry["lds"] = _distortion(lanes["fp32"], own, picture.size)
        if counted and annotated is not None:
            entry |= _counts(own, annotated, picture.size)
        found[key] = entry
    truth = None if annotated is None else [_thinned(lane) for lane in annotated if len(lane)]
    return {
        **{"name": name, "category": picture.category, "width": width, "height": height},
        **{"annotated": truth, "found": found},
    }


def _distortion(reference: Sequence[Points], own: Sequence[Points], size: tuple[int, int]) -> float:
    """Lane distortion in pixels of a frame 1640 wide."""
    sides = [[Lane(points) for points in lanes] for lanes in (reference, own)]
    (found,) = lane_distortion_scores([sides[0]], [sides[1]], size)
    return round(found.score * REFERENCE_WIDTH / size[1], 2)


def _counts(own: Sequence[Points], annotated: Sequence[Points], size: tuple[int, int]) -> dict[str, int]:
    width = max(1, round(WIDTH * size[1] / REFERENCE_WIDTH))
    counts = count_matches([Lane(p) for p in own], [Lane(p) for p in annotated], size, width)
    return {"tp": counts.tp, "fp": counts.fp, "fn": counts.fn}


def _thinned(lane: Points) -> list[float]:
    """x y x y ... without the points that a straight line of a pixel's accuracy does not need."""
    points = np.asarray(lane, dtype=np.float32)
    return [round(float(v), 1) for v in cv2.approxPolyDP(points[:, None], 0.7, closed=False).ravel()]


def _key(record: Record) -> str:
    cell = record.cell
    return "fp32" if cell["method"] == "fp32" else f"{cell['method']} w{cell['w_bits']}a{cell['a_bits']}"


def _label(record: Record) -> str:
    cell = record.cell
    bits = "" if cell["method"] == "fp32" else f" W{cell['w_bits']}A{cell['a_bits']}"
    return label_of(cell["method"]) + bits


def _order(record: Record) -> tuple[object, ...]:
    cell = record.cell
    return (-cell["w_bits"], -cell["a_bits"], method_rank(cell["method"]), cell["method"])


def as_script(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a <script>: no letter in it can end the element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
