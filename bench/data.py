"""Test and calibration frames of a data set, as the runner wants them: chosen by rule, checked, digested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError
from bench.evaluate import Frame, Scorer
from bench.profile import Profile
from bench.scorers import CULaneScorer, TuSimpleScorer
from datasets import synthetic
from datasets.culane import CULane, read_lanes
from datasets.errors import DatasetError
from datasets.images import read_image
from datasets.tusimple import TuSimple, to_lanes
from selective_focus import Lane

Rendered = Callable[[int, int], None]
"""Is told how many frames were rendered, and how many there are to render."""
Points = npt.NDArray[np.float64]
SYNTHETIC_ROOT = Path(".cache/synthetic")


@dataclass(frozen=True)
class ImageFile:
    """A frame on disk that has to have the size of the others."""

    path: Path
    image_size: tuple[int, int]

    def image(self) -> npt.NDArray[np.uint8]:
        """Raises DatasetError for a missing, damaged or differently sized image."""
        image = read_image(self.path)
        height, width = image.shape[:2]
        if (height, width) != self.image_size:
            expected = "{1}x{0}".format(*self.image_size)
            raise DatasetError(
                f"{self.path}: is {width}x{height}, the other frames are {expected}; frames of one run must agree"
            )
        return image


@dataclass(frozen=True)
class TestData:
    """Test and calibration frames of one data set, with the rules that chose them."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    name: str
    digest: str
    """Changes with the list of test frames, their annotations and the sizes of their image files."""
    calibration_digest: str
    """The same of the calibration frames; full precision does not depend on it."""
    image_size: tuple[int, int]
    frames: Sequence[Frame]
    names: Sequence[str]
    categories: Sequence[str | None]
    annotated: Sequence[Sequence[Points]]
    """Lanes of each test frame, [P, 2] pixels each."""
    subset: str
    calibration: Sequence[Frame]
    calibration_rule: str
    scorer: Scorer = field(repr=False)


def load_data(profile: Profile, rendered: Rendered = lambda done, to_do: None) -> TestData:
    """The data of a profile. Synthetic frames are rendered first where they are missing, unless a root is given.

    Raises DatasetError or BenchError (one line) for anything that could make a wrong score.
    """
    if profile.dataset == "synthetic":
        return _culane(profile, profile.root or _render(profile, rendered))
    if profile.root is None:
        raise BenchError(f"data set {profile.dataset}: its folder is not given; use --root DIR")
    if not profile.root.is_dir():
        what = "is not a folder" if profile.root.exists() else "does not exist"
        raise BenchError(
            f"{profile.root}: this folder {what}; give the folder of data set {profile.dataset} with --root DIR"
            f"{' (make bench-culane CULANE=DIR)' if profile.dataset == 'culane' else ''}"
        )
    return READERS[profile.dataset](profile, profile.root)


def _render(profile: Profile, rendered: Rendered) -> Path:
    """Writes the lists of all synthetic frames and renders those frames of them that the profile looks at."""
    splits = (profile.split, "calibration")
    try:
        dataset = CULane(synthetic.ensure(SYNTHETIC_ROOT, splits, only=dict.fromkeys(splits, ())))
        listed = dataset.split(profile.split)
        place = {frame.name: index for index, frame in enumerate(dataset.split("calibration"))}
        calibration = dataset.calibration_frames()[: profile.calibration_images]
        wanted = {
            "calibration": [place[frame.name] for frame in calibration],
            profile.split: choose(
                [frame.category for frame in listed], profile.frames_per_category, profile.limit
            ),
        }
        return synthetic.ensure(SYNTHETIC_ROOT, splits, progress=rendered, only=wanted)
    except BrokenProcessPool as error:
        raise BenchError(
            f"{SYNTHETIC_ROOT}: a process that rendered frames was ended from outside (out of memory?); frames made "
            "so far are kept: run the same command again"
        ) from error
    except OSError as error:
        raise BenchError(
            f"{SYNTHETIC_ROOT}: the synthetic frames cannot be written ({error.strerror or error}); free some room or "
            f"run in a folder of your own"
        ) from error


def _culane(profile: Profile, root: Path) -> TestData:
    dataset = CULane(root)
    listed = dataset.split(profile.split)
    kept = choose([frame.category for frame in listed], profile.frames_per_category, profile.limit)
    test = [listed[i] for i in kept]
    calibration = dataset.calibration_frames()[: profile.calibration_images]
    annotated = [read_lanes(frame.annotation) for frame in test]
    height, width = read_image(test[0].path).shape[:2]
    size = (height, width)
    categories = [frame.category for frame in test]
    return TestData(
        name=profile.dataset if profile.split == "test" else f"{profile.dataset}-{profile.split}",
        digest=_digest(
            [frame.path for frame in test],
            [frame.name for frame in test],
            [
                f"{category} {lanes_text(lanes)}"
                for category, lanes in zip(categories, annotated, strict=True)
            ],
        ),
        calibration_digest=_digest(
            [frame.path for frame in calibration], [frame.name for frame in calibration], []
        ),
        image_size=size,
        frames=[ImageFile(frame.path, size) for frame in test],
        names=[frame.name for frame in test],
        categories=categories,
        annotated=annotated,
        subset=subset_words(len(test), len(listed), profile.frames_per_category, profile.limit),
        calibration=[ImageFile(frame.path, size) for frame in calibration],
        calibration_rule="drawn from the calibration, training or validation list with seed 0, never test frames",
        scorer=CULaneScorer([[Lane(points) for points in lanes] for lanes in annotated], categories, size),
    )


def _tusimple(profile: Profile, root: Path) -> TestData:
    """Tests on ``test_label.json``; a folder without it is tested on all its labels.

    In the second case calibration frames are a sample of the test frames: methods see images, never labels.
    """
    if profile.split != "test":
        raise BenchError(f"split {profile.split}: TuSimple has none by that name here; use its test frames")
    dataset = TuSimple(root)
    held_out = (root / "test_label.json").is_file()
    listed = dataset.split("test" if held_out else "all")
    test = [listed[i] for i in choose([None] * len(listed), None, profile.limit)]
    calibration = dataset.calibration_frames()[: profile.calibration_images]
    height, width = read_image(test[0].path).shape[:2]
    size = (height, width)
    source = "training frames, none of them tested" if held_out else "the tested frames' own images"
    return TestData(
        name=profile.dataset,
        digest=_digest(
            [frame.path for frame in test],
            [frame.name for frame in test],
            [f"{frame.h_samples} {frame.lanes}" for frame in test],
        ),
        calibration_digest=_digest(
            [frame.path for frame in calibration], [frame.name for frame in calibration], []
        ),
        image_size=size,
        frames=[ImageFile(frame.path, size) for frame in test],
        names=[frame.name for frame in test],
        categories=[None] * len(test),
        annotated=[to_lanes(frame) for frame in test],
        subset=subset_words(len(test), len(listed), None, profile.limit),
        calibration=[ImageFile(frame.path, size) for frame in calibration],
        calibration_rule=f"drawn with seed 0 from {source}",
        scorer=TuSimpleScorer([frame.lanes for frame in test], [frame.h_samples for frame in test], width),
    )


READERS: dict[str, Callable[[Profile, Path], TestData]] = {"culane": _culane, "tusimple": _tusimple}
"""What reads the folder of each data set."""


def choose(categories: Sequence[str | None], per_category: int | None, limit: int | None) -> list[int]:
    """Which frames are evaluated: of each category at most so many, then at most so many in all, drawn with seed 0."""
    kept = list(range(len(categories)))
    if per_category is not None:
        by_category: dict[str | None, list[int]] = {}
        for index, category in enumerate(categories):
            by_category.setdefault(category, []).append(index)
        kept = sorted(i for members in by_category.values() for i in drawn_from(members, per_category))
    return drawn_from(kept, limit) if limit is not None else kept


def drawn_from(items: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the items, in their order, drawn with seed 0: a fixed spacing would fall into step with
    lists whose categories repeat."""
    if count >= len(items):
        return list(items)
    chosen = np.random.default_rng(0).permutation(len(items))[:count]
    return [items[i] for i in sorted(chosen)]


def subset_words(kept: int, listed: int, per_category: int | None, limit: int | None) -> str:
    """The rule of ``choose`` in words, if it left anything out."""
    if kept == listed:
        return "all"
    words = [f"at most {per_category} of each category"] if per_category is not None else []
    words += [f"at most {limit} in all"] if limit is not None else []
    return ", ".join(words) + f" of {listed}, drawn with seed 0"


def lanes_text(lanes: Sequence[Points]) -> str:
    """Lanes as text, for digests."""
    return ";".join(" ".join(map(repr, lane.ravel().tolist())) for lane in lanes)


def _digest(paths: Sequence[Path], names: Sequence[str], annotations: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path, name in zip(paths, names, strict=True):
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DatasetError(
                f"{path}: is in the list, but cannot be read ({error.strerror}); complete the data set or its list"
            ) from error
        digest.update(f"{name} {size}\n".encode())
    for annotation in annotations:
        digest.update(f"{annotation}\n".encode())
    return digest.hexdigest()
