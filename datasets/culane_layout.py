"""Bringing a folder of images and ``.lines.txt`` files into CULane's layout."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.culane_lists import CATEGORIES, annotation_name, read_list
from datasets.errors import DatasetError
from datasets.images import read_image
from datasets.lane_files import read_lanes


@dataclass(frozen=True)
class Layout:
    """What was added to a data set: so many test frames and, from images without lanes, calibration frames."""

    root: Path
    category: str
    test: int
    calibration: int


def make_layout(
    images_dir: str | Path, root: str | Path, category: str = "normal", copy: bool = False
) -> Layout:
    """Add the JPEG files of a folder and its subfolders to a data set in CULane's layout, made where missing.

    An image with a ``.lines.txt`` file beside it becomes a test frame of the category, one without becomes a
    calibration frame. Files are linked, or copied if ``copy`` is set or links are not possible. Every file is
    read first: with a DatasetError nothing has been written.
    """
    source, root = Path(images_dir).resolve(), Path(root)
    if not re.fullmatch(r"[A-Za-z0-9-]+", category):
        raise DatasetError(
            f"category {category!r} must be a word of letters, digits and dashes, such as night"
        )
    if not source.is_dir():
        raise DatasetError(f"{images_dir}: no such folder; give the one that holds the images")
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not images:
        raise DatasetError(f"{images_dir}: no .jpg files in this folder; give the one that holds the images")
    if (root / category).exists():
        raise DatasetError(
            f"{root / category}: exists already; choose another --category or an empty --out folder"
        )
    names = {path: f"{category}/{path.relative_to(source).as_posix()}" for path in images}
    _check_names(names)
    labelled = []
    for path in images:
        read_image(path)
        if _lanes_of(path).is_file():
            read_lanes(_lanes_of(path))
            labelled.append(path)
    if not labelled:
        raise DatasetError(
            f"{images_dir}: no image has a lane file beside it; expected, for instance, {_lanes_of(images[0])}"
        )
    for path, name in names.items():
        _place(path, root / name, copy)
        if path in labelled:
            _place(_lanes_of(path), root / annotation_name(name), copy)
    tests = [names[path] for path in labelled]
    others = [names[path] for path in images if path not in labelled]
    _extend_list(root / "list" / "test_split" / f"test{_number(category, root)}_{category}.txt", tests)
    _extend_list(root / "list" / "test.txt", tests)
    if others:
        _extend_list(root / "list" / "calibration.txt", others)
    return Layout(root, category, len(tests), len(others))


def _lanes_of(image: Path) -> Path:
    return image.with_suffix(".lines.txt")


def _check_names(names: dict[Path, str]) -> None:
    """Lists separate columns by blanks, so a name cannot have any."""
    for path, name in names.items():
        if name.split() != [name] or "\\" in name or ":" in name:
            raise DatasetError(
                f"{path}: a list cannot hold this name; rename it without blanks, colons, backslashes"
            )


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            target.symlink_to(source)
            return
        except OSError:  # a file system, or a Windows account, without links
            pass
    shutil.copyfile(source, target)


def _number(category: str, root: Path) -> int:
    """CULane's number of a category, or the next one that is free."""
    if category in CATEGORIES:
        return CATEGORIES.index(category)
    return len(CATEGORIES) + len(list((root / "list" / "test_split").glob("test*.txt")))


def _extend_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_list(path) if path.exists() else []
    path.write_text("".join(f"/{name}\n" for name in [*known, *names]), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m datasets.culane make-layout``: 0, or 2 after one line about what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m datasets.culane")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser(
        "make-layout", help="make a folder in CULane's layout of images and .lines.txt files"
    )
    verb.add_argument("--images", required=True, metavar="DIR", help="folder of .jpg and .lines.txt files")
    verb.add_argument("--out", required=True, metavar="ROOT", help="data set to make or to add to")
    verb.add_argument(
        "--category", default="normal", help=f"one of {', '.join(CATEGORIES)}, or a word of yours"
    )
    verb.add_argument("--copy", action="store_true", help="copy the files; the default is to link them")
    chosen = parser.parse_args(arguments)
    try:
        layout = make_layout(chosen.images, chosen.out, chosen.category, chosen.copy)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{layout.root}: {layout.test} test frames ({layout.category}), {layout.calibration} for calibration"
    )
    return 0
