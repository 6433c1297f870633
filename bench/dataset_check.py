"""Is this folder the data set that papers report on? Its lists, files and annotations beside the published figures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.finding import Finding, bad, good, note
from datasets.culane import CULane, Frame, read_lanes
from datasets.errors import DatasetError, DatasetWarning
from datasets.images import read_image
from datasets.tusimple import TuSimple

LISTED = {"train": 88_880, "val": 9_675, "test": 34_680}
"""Images in CULane's lists."""

CATEGORIES = {
    "normal": 9_621,
    "crowd": 8_113,
    "hlight": 486,
    "shadow": 930,
    "noline": 4_067,
    "arrow": 890,
    "curve": 422,
    "cross": 3_122,
    "night": 7_029,
}
"""Images in CULane's lists of test categories."""

TEST_LANES = 104_886
"""Lanes that are annotated on CULane's test images."""

IMAGE_SIZE = (590, 1640)

TUSIMPLE_LISTED = {"train": 3_626, "test": 2_782}
"""Clips in TuSimple's label files."""

ADVICE = "python scripts/download.py --culane"


def check_culane(root: Path, short: bool = False, calibration_images: int | None = None) -> Iterator[Finding]:
    """A folder in CULane's layout.

    short: leaves out reading all annotations of the test frames (about 10 s).
    calibration_images: so many calibration frames have to be there; None: all that a method may ask for.

    A folder that is not the full set is no mistake: that is a note, and only what would stop a run is bad.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DatasetWarning)
            dataset = CULane(root)
            frames = dataset.split("test")
            categories = {name: len(names) for name, names in dataset.categories().items()}
    except DatasetError as error:
        yield bad(f"{error} ({ADVICE} {root} fetches CULane)")
        return
    yield from (note(text) for text in dict.fromkeys(str(warning.message) for warning in caught))
    full = len(frames) == LISTED["test"]
    yield from _lists(root, dataset, len(frames))
    yield from _categories(root, categories, full)
    yield from _files(root, "test", frames)
    try:
        yield from _files(
            root, "calibration", dataset.calibration_frames()[:calibration_images], annotated=False
        )
    except DatasetError as error:
        yield bad(str(error))
    yield from _first_image(frames)
    if not short:
        yield from _annotations(root, frames, full)


def _lists(root: Path, dataset: CULane, tested: int) -> Iterator[Finding]:
    counts = {"test": tested}
    for split in ("train", "val"):
        try:
            counts[split] = len(dataset.split(split))
        except DatasetError as error:
            yield note(f"{error}; evaluation does without")
    for split, count in sorted(counts.items()):
        if count == LISTED[split]:
            yield good(f"{root}: {count:,} {split} images listed, as published")
        else:
            yield note(
                f"{root}: {count:,} {split} images listed, CULane has {LISTED[split]:,}: not the full set; it can be "
                f"used, but its scores are not CULane's"
            )


def _categories(root: Path, found: dict[str, int], full: bool) -> Iterator[Finding]:
    if found == CATEGORIES:
        yield good(f"{root}: nine categories of the published sizes")
        return
    sizes = ", ".join(f"{name} {count:,}" for name, count in found.items())
    text = f"{root / 'list/test_split'}: {sizes}"
    if full:
        expected = ", ".join(f"{name} {count:,}" for name, count in CATEGORIES.items())
        yield bad(f"{text}; published are {expected}; fetch the lists again: {ADVICE} {root} --only list")
    else:
        yield note(text)


def _files(root: Path, split: str, frames: Sequence[Frame], annotated: bool = True) -> Iterator[Finding]:
    images = [frame.path for frame in frames if not frame.path.is_file()]
    lanes = [frame.annotation for frame in frames if annotated and not frame.annotation.is_file()]
    if not images and not lanes:
        yield good(f"{root}: the files of all {len(frames):,} {split} frames are here")
    if images:
        archive = sorted({path.relative_to(root).parts[0] for path in images})
        yield bad(
            f"{images[0]}: listed, but not here, nor {len(images) - 1:,} more {split} images; unpack the archives of "
            f"{', '.join(archive[:6])} into {root} ({ADVICE} {root})"
        )
    if lanes:
        yield bad(
            f"{lanes[0]}: no such annotation, nor {len(lanes) - 1:,} more of the {split} frames; fetch them: {ADVICE} "
            f"{root} --only annotations_new"
        )


def _first_image(frames: Sequence[Frame]) -> Iterator[Finding]:
    try:
        size = read_image(frames[0].path).shape[:2]
    except DatasetError as error:
        if frames[0].path.is_file():
            yield bad(str(error))
        return
    height, width = size
    words = f"{frames[0].path}: {width}x{height} pixels"
    if size == IMAGE_SIZE:
        yield good(words)
    else:
        yield note(
            f"{words}, CULane's frames have 1640x590; the metric draws lanes 30 pixels wide all the same"
        )


def _annotations(root: Path, frames: Sequence[Frame], full: bool) -> Iterator[Finding]:
    lanes, flawed = 0, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        for frame in (frame for frame in frames if frame.annotation.is_file()):
            try:
                lanes += len(read_lanes(frame.annotation))
            except DatasetError as error:
                flawed.append(str(error))
    if flawed:
        again = f"{ADVICE} {root} --only annotations_new"
        yield bad(
            f"{flawed[0]} ({len(flawed):,} such files; if they are CULane's, fetch them again: {again})"
        )
    if caught:
        yield note(f"{caught[0].message} ({len(caught):,} such files)")
    if full and not flawed and lanes != TEST_LANES:
        yield bad(
            f"{root}: {lanes:,} lanes are annotated on the test images, the published annotations have {TEST_LANES:,}: "
            f"another version; scores will differ from papers; {ADVICE} {root} --only annotations_new"
        )
    elif not flawed:
        yield good(f"{root}: {lanes:,} lanes annotated on the test images{', as published' if full else ''}")


def check_tusimple(root: Path) -> Iterator[Finding]:
    """A TuSimple folder, on the same terms."""
    try:
        dataset = TuSimple(root)
    except DatasetError as error:
        yield bad(str(error))
        return
    for split, published in TUSIMPLE_LISTED.items():
        try:
            frames = dataset.split(split)
        except DatasetError as error:
            yield note(str(error))
            continue
        if len(frames) == published:
            yield good(f"{root}: {published:,} {split} clips labelled, as published")
        else:
            yield note(
                f"{root}: {len(frames):,} {split} clips labelled, TuSimple has {published:,}: not the full set; it can "
                f"be used, but its scores are not TuSimple's"
            )
        missing = [frame.path for frame in frames if not frame.path.is_file()]
        if missing:
            yield bad(
                f"{missing[0]}: labelled, but not here, nor {len(missing) - 1:,} more {split} frames; unpack the clips "
                f"into {root}"
            )
        else:
            yield good(f"{root}: the images of all {len(frames):,} {split} clips are here")
