"""Command line: `python -m datasets.synthetic write --root DIR`, `python -m datasets.synthetic sheet --out FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

from .layout import DEFAULT_COUNTS, DEFAULT_SPLITS, ensure, write
from .scene import SPLITS
from .sheet import contact_sheet


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 after a mistake, which is explained in one line."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "sheet":
            sheet = contact_sheet(given.split, given.per_category, given.labels, given.width, given.seed)
            if not cv2.imwrite(str(given.out), sheet):
                raise OSError(
                    f"{given.out}: cannot write this image; give a .png or .jpg in an existing folder"
                )
            print(f"wrote {given.out}")
        else:
            counts = {split: getattr(given, split) for split in SPLITS if getattr(given, split) is not None}
            splits = [split for split in SPLITS if split in counts or split in DEFAULT_SPLITS]
            make = write if given.command == "write" else ensure
            checks = {"full_check": given.full_check} if given.command == "ensure" else {}
            root = make(given.root, splits, counts, given.workers, _report, given.seed, **checks)
            print(f"\nwrote {root}" if given.command == "write" else f"\n{root} is complete")
    except (ValueError, OSError, cv2.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(done: int, total: int) -> None:
    print(f"\r{done}/{total} frames", end="", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic", description="Synthetic road scenes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("write", "render a data set in CULane's layout"),
        ("ensure", "render only what is missing"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--root", type=Path, required=True)
        for split in SPLITS:
            command.add_argument(f"--{split}", type=int, help=f"frames, default {DEFAULT_COUNTS[split]}")
        command.add_argument("--workers", type=int)
        command.add_argument("--seed", type=int, default=0)
        if name == "ensure":
            command.add_argument(
                "--full-check", action="store_true", help="compare checksums, not only sizes"
            )
    sheet = commands.add_parser("sheet", help="write a contact sheet")
    sheet.add_argument("--out", type=Path, required=True)
    sheet.add_argument("--split", choices=SPLITS, default="test")
    sheet.add_argument("--per-category", type=int, default=4)
    sheet.add_argument("--labels", action="store_true")
    sheet.add_argument("--width", type=int, default=640)
    sheet.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
