"""TuSimple: label and submission files (JSON lines), frames, and lanes as points or as one x a row."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from datasets.errors import DatasetError
from datasets.images import read_image

__all__ = [
    "ABSENT",
    "Frame",
    "Record",
    "TuSimple",
    "read_image",
    "read_records",
    "to_lanes",
    "x_at_rows",
]

ABSENT = -2.0
"""The x of a lane at a height where it is not; any negative x means the same."""

IMAGE_SIZE = (720, 1280)

_TRAIN_LABELS = "label_data_*.json"
_TEST_LABELS = "test_label.json"
_LIMIT = 1e6  # pixels; nothing sensible lies further out


class HasPoints(Protocol):
    """Anything with points [P, 2] in pixels, such as ``selective_focus.detector.Lane``."""

    @property
    def points(self) -> npt.NDArray[np.float64]: ...


LaneLike: TypeAlias = "HasPoints | npt.ArrayLike"


@dataclass(frozen=True)
class Record:
    """One line of a label or submission file: lanes with one x for each row. run_time in ms, None if not given."""

    raw_file: str
    lanes: tuple[tuple[float, ...], ...]
    h_samples: tuple[float, ...] | None
    run_time: float | None


@dataclass(frozen=True)
class Frame:
    """One labelled camera frame. path: the image; lanes: one x in pixels for each height of h_samples."""

    path: Path
    raw_file: str
    lanes: tuple[tuple[float, ...], ...]
    h_samples: tuple[float, ...]

    @property
    def name(self) -> str:
        """The image relative to the data set."""
        return self.raw_file


class TuSimple:
    """A TuSimple folder: ``clips`` and label files.

    labels: the label files to test on, relative to ``root`` or absolute; without, ``test_label.json``. All
    ``label_data_*.json`` files that are not among them are for training. Raises DatasetError for a folder
    without label files, and for label files with flaws.
    """

    def __init__(self, root: str | Path, labels: str | Path | Sequence[str | Path] | None = None) -> None:
        self.root = Path(root)
        if isinstance(labels, (str, Path)):
            labels = [labels]
        if labels is None:
            self._test = [path for path in [self.root / _TEST_LABELS] if path.is_file()]
        else:
            self._test = [self.root / label for label in labels]
        chosen = {path.resolve() for path in self._test}
        self._train = sorted(path for path in self.root.glob(_TRAIN_LABELS) if path.resolve() not in chosen)
        if not self._test and not self._train:
            raise DatasetError(
                f"{self.root}: no TuSimple data set, it holds neither {_TEST_LABELS} nor {_TRAIN_LABELS}; give the "
                f"folder that holds them and 'clips'"
            )

    def split(self, name: str) -> list[Frame]:
        """The frames of ``test``, ``train``, ``calibration`` (of train) or ``all``, in the order of the files."""
        files = {"test": self._test, "train": self._train, "all": [*self._train, *self._test]}
        if name == "calibration":
            return self.calibration_frames()
        if name not in files:
            raise DatasetError(
                f"{self.root}: no split {name!r}; expected one of {', '.join(files)}, calibration"
            )
        if not files[name]:
            expected = _TEST_LABELS if name == "test" else _TRAIN_LABELS
            raise DatasetError(
                f"{self.root / expected}: no such label file; name label files to test on, which are then kept out of "
                f"training, or add this one"
            )
        return self._frames(files[name])

    def calibration_frames(self, n: int | None = None, seed: int = 0) -> list[Frame]:
        """``n`` training frames (all, but at most 512, if None), the same for the same seed, never test frames."""
        frames = sorted(self.split("train"), key=lambda frame: frame.raw_file)
        tested = {frame.raw_file for frame in self._frames(self._test)}
        frames = [frame for frame in frames if frame.raw_file not in tested]
        wanted = min(512, len(frames)) if n is None else n
        if not 1 <= wanted <= len(frames):
            raise DatasetError(
                f"{self.root}: {wanted} calibration frames asked for, and the training labels have {len(frames)}; ask "
                f"for fewer"
            )
        random.Random(seed).shuffle(frames)
        return frames[:wanted]

    def _frames(self, files: Iterable[Path]) -> list[Frame]:
        frames: list[Frame] = []
        home: dict[str, Path] = {}
        for file in files:
            for record in read_records(file):
                if record.raw_file in home:
                    raise DatasetError(
                        f"{file}: {record.raw_file!r} is also in {home[record.raw_file]}; remove one of the two lines"
                    )
                home[record.raw_file] = file
                assert record.h_samples is not None  # read_records asks for them in label files
                frames.append(
                    Frame(self.root / record.raw_file, record.raw_file, record.lanes, record.h_samples)
                )
        return frames


def read_records(path: str | Path, labels: bool = True) -> list[Record]:
    """The lines of a label file, or with ``labels=False`` of a submission (rows optional).

    Paths are cleaned of leading ``/`` and ``./``. Raises DatasetError, with the line, for bad JSON, missing
    keys, values that are not finite numbers, lanes of another length than the rows, and a frame given twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DatasetError(f"{path}: cannot read this file ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not UTF-8 text (byte {error.start}); expected JSON, one object a line"
        ) from None
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _record(_parse(line), labels)
        except _Flaw as flaw:
            raise DatasetError(f"{path}:{number}: {flaw}") from None
        if record.raw_file in records:
            raise DatasetError(
                f"{path}:{number}: {record.raw_file!r} is given twice; remove one of the two lines"
            )
        records[record.raw_file] = record
    if not records:
        raise DatasetError(f"{path}: this file is empty; expected JSON, one object a line")
    return list(records.values())


class _Flaw(Exception):
    """What is wrong with one line."""


def _refuse_constant(word: str) -> float:
    raise _Flaw(f"{word} is not a finite number; write -2 where a lane is absent")


def _parse(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = (
            f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        raise _Flaw(f"not JSON ({reason}); expected one object a line, with raw_file and lanes") from None
    if not isinstance(value, dict):
        raise _Flaw(f"{line.strip()[:40]!r} is not an object; expected one a line, with raw_file and lanes")
    return value


def _record(entry: dict[str, Any], labels: bool) -> Record:
    for key in ("raw_file", "lanes", *(["h_samples"] if labels else [])):
        if key not in entry:
            raise _Flaw(f"the key '{key}' is missing; expected raw_file, lanes{', h_samples' * labels}")
    raw_file = _clean_path(entry["raw_file"])
    rows = None
    if "h_samples" in entry:
        rows = _numbers(entry["h_samples"], "h_samples")
        if not rows or len(set(rows)) != len(rows):
            raise _Flaw("h_samples must hold different heights, at least one")
    if not isinstance(entry["lanes"], list):
        raise _Flaw(f"lanes must be a list of lists, not {_shown(entry['lanes'])}")
    lanes = tuple(_numbers(lane, f"lane {index}") for index, lane in enumerate(entry["lanes"]))
    for index, lane in enumerate(lanes):
        if rows is not None and len(lane) != len(rows):
            raise _Flaw(f"lane {index} has {len(lane)} values for {len(rows)} h_samples; give one x a height")
    run_time = None
    if entry.get("run_time") is not None:
        (run_time,) = _numbers([entry["run_time"]], "run_time")
    return Record(raw_file, lanes, rows, run_time)


def _clean_path(value: Any) -> str:
    path = PurePosixPath(str(value).lstrip("/"))
    if not isinstance(value, str) or not path.name or ".." in path.parts or set("\\:\0") & set(value):
        raise _Flaw(
            f"raw_file {_shown(value)} is no path inside of the data set; expected one like 'clips/.../20.jpg'"
        )
    return str(path)


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise _Flaw(f"{what} must be a list of numbers, not {_shown(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LIMIT:
            raise _Flaw(f"{what} holds {_shown(value)}; expected finite numbers, -2 where a lane is absent")
    return tuple(float(value) for value in values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def to_lanes(frame: Frame) -> list[npt.NDArray[np.float64]]:
    """The lanes of a frame as points [P, 2] (x, y in pixels), in the order of its rows; absent lanes left out."""
    rows = np.asarray(frame.h_samples, dtype=np.float64)
    lanes = [np.asarray(lane, dtype=np.float64) for lane in frame.lanes]
    return [np.stack([lane[lane >= 0], rows[lane >= 0]], axis=1) for lane in lanes if (lane >= 0).any()]


def x_at_rows(
    lane: LaneLike, h_samples: Sequence[float], image_width: int | None = IMAGE_SIZE[1]
) -> list[float]:
    """The x of a lane ([P, 2] pixels, or ``Lane``) at each height, linear between its points: what TuSimple
    scores.

    -2 above the highest and below the lowest point, and where x is left of the image or, unless ``image_width`` is
    None, right of it. Where a lane is at one height twice, its last point there counts.
    """
    points = np.asarray(getattr(lane, "points", lane), dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise DatasetError("a lane's points must be finite numbers; drop the points that have no position")
    if len(points) == 0:
        return [ABSENT] * len(h_samples)
    by_height = points[np.argsort(points[:, 1], kind="stable")]
    last_of_height = np.append(np.diff(by_height[:, 1]) > 0, True)
    x, y = by_height[last_of_height].T
    limit = math.inf if image_width is None else image_width
    found = np.interp(np.asarray(h_samples, dtype=np.float64), y, x, left=ABSENT, right=ABSENT)
    return [float(value) if 0 <= value < limit else ABSENT for value in found]
