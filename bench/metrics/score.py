"""CULane's F1 of folders of lane files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bench.metrics.culane import IMAGE_SIZE, WIDTH, Counts, count_matches, prepare, prepare_all
from bench.metrics.routes import loops_in_use
from datasets.culane_lists import annotation_name, read_list
from datasets.errors import DatasetError, DatasetWarning
from datasets.lane_files import LARGEST_FILE, Points, read_lanes

CHUNK = 250
"""Images a process takes at a time."""

TOGETHER = 10
"""Images drawn at a time."""


@dataclass(frozen=True)
class _Chunk:
    """What one process found: counts, warnings, and the furthest predicted x."""

    counts: Counts
    warnings: tuple[str, ...]
    furthest: float


def score_folders(
    annotations: str | Path,
    predictions: str | Path,
    list_file: str | Path,
    iou: float = 0.5,
    width: int = WIDTH,
    image_size: tuple[int, int] = IMAGE_SIZE,
    workers: int | None = None,
) -> dict[str, Any]:
    """Score the lane files under one folder against those under another, for the images of a list.

    iou: threshold in (0, 1). width: of the drawn lanes, pixels. image_size: (H, W). workers: processes; None takes
    as many as there are processors and work for.
    Returns tp, fp, fn, precision, recall, f1 (None where undefined) and images. Raises DatasetError for a
    missing or malformed file, prediction or annotation, and MetricError for settings out of range.
    """
    for folder, role in ((annotations, "annotations"), (predictions, "predictions")):
        if not Path(folder).is_dir():
            raise DatasetError(f"{folder}: no such folder of {role}; check the path given with --{role}")
    prepare([], image_size, width)
    count_matches([], [], image_size, width, iou)
    names = [annotation_name(name) for name in read_list(list_file)]
    _check_first(Path(annotations), Path(predictions), Path(list_file), names)
    if workers is None:
        workers = min(os.cpu_count() or 1, len(names) // CHUNK)
    score = partial(_score_chunk, Path(annotations), Path(predictions), iou, width, image_size)
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    if workers > 1:
        # A fresh interpreter each: a copy of this one may hold the locks of other threads.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(score, chunks))
    else:
        found = [score(chunk) for chunk in chunks]
    for message in (message for chunk in found for message in chunk.warnings):
        warnings.warn(message, DatasetWarning, stacklevel=2)
    _warn_of_resolution(Path(predictions), max(chunk.furthest for chunk in found), image_size)
    total = sum((chunk.counts for chunk in found), Counts())
    return {
        "tp": total.tp,
        "fp": total.fp,
        "fn": total.fn,
        "precision": total.precision,
        "recall": total.recall,
        "f1": total.f1,
        "images": len(names),
    }


def _check_first(annotations: Path, predictions: Path, list_file: Path, names: Sequence[str]) -> None:
    """A list and folders that do not belong together fail at once, and say so, not after minutes."""
    for folder, role in ((annotations, "annotation"), (predictions, "prediction")):
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise DatasetError(
                f"{folder / missing[0]}: no such {role} file, nor {len(missing) - 1} more of the {len(names)} in "
                f"{list_file}; check the folder, and write an empty file for an image without lanes"
            )


def _score_chunk(
    annotations: Path,
    predictions: Path,
    iou: float,
    width: int,
    image_size: tuple[int, int],
    names: Sequence[str],
) -> _Chunk:
    total, furthest = Counts(), float("-inf")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        for start in range(0, len(names), TOGETHER):
            together = names[start : start + TOGETHER]
            annotated = [_lanes(os.path.join(annotations, name)) for name in together]
            predicted = [_lanes(os.path.join(predictions, name)) for name in together]
            drawn = prepare_all([*predicted, *annotated], image_size, width)
            for found, truth in zip(drawn, drawn[len(together) :], strict=False):
                total += count_matches(found, truth, image_size, width, iou)
            for lane in chain.from_iterable(predicted):
                furthest = max(furthest, lane[:, 0].max(initial=furthest))
    return _Chunk(total, tuple(str(warning.message) for warning in caught), furthest)


def _lanes(path: str) -> list[Points]:
    """As ``read_lanes``; plain files are read by compiled loops where these are in use."""
    if loops_in_use() is not None:
        from bench.metrics.compiled_reader import plain_lanes

        with contextlib.suppress(OSError), open(path, "rb") as file:
            lanes = plain_lanes(file.read(LARGEST_FILE))
            if lanes is not None:
                return lanes
    return read_lanes(path)


def _warn_of_resolution(predictions: Path, furthest: float, image_size: tuple[int, int]) -> None:
    if 0 <= furthest < image_size[1] / 2:
        warnings.warn(
            f"{predictions}: no predicted point lies right of x = {furthest:.0f} in images {image_size[1]} px wide; "
            f"the predictions may be of another resolution",
            DatasetWarning,
            stacklevel=3,
        )
