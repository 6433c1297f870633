"""CULane: frames, lists, categories and calibration frames of a folder in CULane's layout.

    python -m datasets.culane make-layout --images DIR --out ROOT --category night

brings a flat folder of images and ``.lines.txt`` files into that layout.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.culane_layout import make_layout
from datasets.culane_lists import CATEGORIES, annotation_name, category_of, category_order, read_list
from datasets.errors import DatasetError, DatasetWarning
from datasets.images import read_image
from datasets.lane_files import read_lanes, write_lanes

__all__ = [
    "CATEGORIES",
    "CULane",
    "Frame",
    "annotation_name",
    "make_layout",
    "read_image",
    "read_lanes",
    "read_list",
    "write_lanes",
]

_LISTS = {
    "train": ("list/train.txt", "list/train_gt.txt"),
    "val": ("list/val.txt", "list/val_gt.txt"),
    "test": ("list/test.txt",),
    "calibration": ("list/calibration.txt",),
}
_TEST_SPLIT = "list/test_split"


@dataclass(frozen=True)
class Frame:
    """One camera frame. Nothing says that its files exist until they are read.

    path: the image. annotation: its ``.lines.txt`` file. name: the image relative to the data set, with
    ``/``.
    category: a test frame's category, None if no list names it and for all other frames.
    """

    path: Path
    annotation: Path
    name: str
    category: str | None = None


class CULane:
    """A data set in CULane's layout under ``root``. Raises DatasetError if there is no such folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not (self.root / "list").is_dir():
            raise DatasetError(
                f"{self.root}: no CULane data set, its folder 'list' is missing; give the folder that holds 'list', or "
                f"make one with: python -m datasets.culane make-layout --images DIR --out ROOT"
            )

    def split(self, name: str) -> list[Frame]:
        """The frames of ``test``, ``val``, ``train`` or ``calibration``, in the order of the list.

        Without list/calibration.txt, ``calibration`` is what ``calibration_frames`` draws.
        """
        if name not in _LISTS:
            raise DatasetError(f"{self.root}: no split {name!r}; expected one of {', '.join(_LISTS)}")
        if name == "calibration" and self._list_file(name) is None:
            return self.calibration_frames()
        return self._frames(self._names(name), self._categories_by_name() if name == "test" else {})

    def categories(self) -> dict[str, tuple[str, ...]]:
        """The names of the test frames by category, in the order of the list files.

        Without list/test_split all test frames are of the category ``all``. Warns of frames that are in two
        categories, in none, or in no test list.
        """
        files = sorted((self.root / _TEST_SPLIT).glob("*.txt"), key=category_order)
        if not files:
            return {"all": tuple(self._names("test"))}
        found = {category_of(file): tuple(read_list(file)) for file in files}
        if self._list_file("test") is not None:
            self._warn_of_coverage(found)
        return found

    def calibration_frames(self, n: int | None = None, seed: int = 0) -> list[Frame]:
        """``n`` frames to calibrate with (all, but at most 512, if None), never test frames.

        Drawn without replacement from list/calibration.txt, else from the training list, else from the
        validation list; the same for the same ``seed``, and fewer frames are the first of more. Raises
        DatasetError if there are no such frames, or fewer than ``n``.
        """
        source = next(
            (name for name in ("calibration", "train", "val") if self._list_file(name) is not None), None
        )
        if source is None:
            raise DatasetError(
                f"{self.root}: no frames to calibrate with; write image paths, one a line and none of the test list, "
                f"into {self.root / 'list' / 'calibration.txt'}"
            )
        tested = set(self._names("test")) if self._list_file("test") is not None else set()
        listed = self._names(source)
        names = sorted(set(listed) - tested)
        if len(names) < len(listed):
            warnings.warn(
                f"{self._list_file(source)}: {len(listed) - len(names)} of its {len(listed)} frames are test frames "
                f"and were left out of the calibration",
                DatasetWarning,
                stacklevel=2,
            )
        wanted = min(512, len(names)) if n is None else n
        if not 1 <= wanted <= len(names):
            raise DatasetError(
                f"{self._list_file(source)}: {wanted} calibration frames asked for, and there are {len(names)}; ask "
                f"for fewer, or add images to list/calibration.txt"
            )
        random.Random(seed).shuffle(names)
        return self._frames(names[:wanted], {})

    def check(self, split: str) -> None:
        """Raise DatasetError if a frame of the split lacks its image or (but for calibration) its annotation."""
        for frame in self.split(split):
            for path in (frame.path, frame.annotation)[: 1 if split == "calibration" else 2]:
                if not path.is_file():
                    raise DatasetError(f"{path}: listed in the split '{split}', but there is no such file")

    def _frames(self, names: Sequence[str], categories: dict[str, str]) -> list[Frame]:
        return [
            Frame(self.root / name, self.root / annotation_name(name), name, categories.get(name))
            for name in names
        ]

    def _list_file(self, split: str) -> Path | None:
        return next((self.root / name for name in _LISTS[split] if (self.root / name).is_file()), None)

    def _names(self, split: str) -> list[str]:
        file = self._list_file(split)
        if file is None:
            raise DatasetError(
                f"{self.root / _LISTS[split][0]}: no such list; write image paths into it, one a line, relative to "
                f"{self.root}"
            )
        return read_list(file)

    def _categories_by_name(self) -> dict[str, str]:
        """The category of each test frame; of two, the first."""
        by_name: dict[str, str] = {}
        for category, names in self.categories().items():
            for name in names:
                by_name.setdefault(name, category)
        return by_name

    def _warn_of_coverage(self, categories: dict[str, tuple[str, ...]]) -> None:
        listed = set(self._names("test"))
        every = [name for names in categories.values() for name in names]
        once = set(every)
        flaws = {
            "in more than one category": len(every) - len(once),
            "of the test list in no category": len(listed - once),
            "in a category but not in the test list": len(once - listed),
        }
        found = ", ".join(f"{count} frames {what}" for what, count in flaws.items() if count)
        if found:
            warnings.warn(f"{self.root / _TEST_SPLIT}: {found}", DatasetWarning, stacklevel=4)


if __name__ == "__main__":
    from datasets.culane_layout import main

    sys.exit(main())
