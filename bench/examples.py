"""A few test frames that are kept with a run, so that its overlays can be drawn again without the data set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.data import TestData
from bench.found_lanes import FoundLanes
from bench.overlays import Example
from bench.store import Record, RunFolder
from bench.whole_file import write_whole
from selective_focus import Lane

COUNT = 6


def chosen(data: TestData) -> list[int]:
    """Which test frames are shown: the first of each category, or a few evenly spread."""
    first = {category: index for index, category in reversed(list(enumerate(data.categories))) if category}
    if first:
        return sorted(first.values())
    return sorted({round(i) for i in np.linspace(0, len(data.frames) - 1, COUNT)})


def lanes_of(data: TestData, lanes: Mapping[int, Sequence[Lane]]) -> dict[str, list[list[list[float]]]]:
    """Lanes of the shown frames, by their number, as plain data to a tenth of a pixel."""
    return {data.names[i]: [np.round(lane.points, 1).tolist() for lane in lanes[i]] for i in chosen(data)}


def extremes_of(
    data: TestData,
    worst: Mapping[int, Sequence[Lane]],
    reference: FoundLanes,
    lds: Sequence[float],
) -> dict[str, dict[str, Any]]:
    """The frames that a cell distorts most, by name: lds in px, its own lanes and those of full precision."""
    return {
        data.names[i]: {
            "lds": float(lds[i]),
            "lanes": [np.round(lane.points, 1).tolist() for lane in own],
            "reference": [np.round(lane.points, 1).tolist() for lane in reference[i]],
        }
        for i, own in worst.items()
        if lds[i] > 0
    }


def keep_frames(data: TestData, folder: RunFolder) -> None:
    """Writes the shown frames (JPEG) and their annotations into the run folder, once a data set."""
    place = frames_folder(folder, data.digest, data.subset)
    index = place / "frames.json"
    if _entries(index):
        return
    place.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for number, i in enumerate(chosen(data)):
        _, encoded = cv2.imencode(".jpg", data.frames[i].image(), [cv2.IMWRITE_JPEG_QUALITY, 90])
        write_whole(place / f"{number}.jpg", encoded.tobytes())
        annotated = [np.round(lane, 1).tolist() for lane in data.annotated[i]]
        entry = {"name": data.names[i], "category": data.categories[i], "annotated": annotated}
        entries.append({**entry, "image": f"{number}.jpg"})
    write_whole(index, json.dumps(entries).encode())


def kept_frames(folder: RunFolder, data_digest: str, subset: str) -> list[Example]:
    """The shown frames with their annotations, without lanes; none where the run folder does not hold them."""
    place = frames_folder(folder, data_digest, subset)
    index = place / "frames.json"
    kept = []
    for entry in _entries(index):
        image = cv2.imread(str(place / entry["image"]))
        if image is not None:
            annotated = [np.array(lane).reshape(-1, 2) for lane in entry["annotated"]]
            pixels = np.asarray(image, dtype=np.uint8)
            kept.append(Example(entry["name"], pixels, annotated, {}, entry["category"] or ""))
    return kept


def load(folder: RunFolder, records: Sequence[Record]) -> list[Example]:
    """The shown frames with the lanes of these records (of one detector and bit setting), by method."""
    cell = records[0].cell
    examples = []
    for frame in kept_frames(folder, cell["data_digest"], cell["subset"]):
        found: Mapping[str, list[Any]] = {
            record.cell["method"]: [np.array(lane) for lane in record.examples[frame.name]]
            for record in records
            if frame.name in record.examples
        }
        if found:
            examples.append(replace(frame, found=found))
    return examples


def _entries(index: Path) -> list[dict[str, Any]]:
    """The shown frames; none when the file is missing or damaged (it is then made again by the next run)."""
    try:
        entries = json.loads(index.read_bytes())
        whole = all(map(_is_entry, entries))
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []
    return entries if whole else []


def _is_entry(entry: dict[str, Any]) -> bool:
    """Whether an entry is as ``keep_frames`` writes them: above all, its image lies in the same folder."""
    points = [point for lane in entry["annotated"] for point in lane]
    return (
        isinstance(entry["name"], str)
        and isinstance(entry["category"], str | None)
        and re.fullmatch(r"\d{1,6}\.jpg", entry["image"]) is not None
        and all(
            len(point) == 2 and all(isinstance(value, float | int) for value in point) for point in points
        )
    )


def frames_folder(folder: RunFolder, data_digest: str, subset: str) -> Path:
    """Where the shown frames of a data set are kept."""
    words = "".join(letter if letter.isalnum() else "-" for letter in subset)
    return folder.path / "examples" / f"{data_digest[:12]}-{words[:40]}"
