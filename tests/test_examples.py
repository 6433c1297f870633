"""Frames that are kept with a run: read back as written, and nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bench.examples import frames_folder, kept_frames
from bench.store import RunFolder

ENTRY: dict[str, Any] = {"name": "a.jpg", "category": None, "annotated": [[[1.0, 2]]], "image": "0.jpg"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run")
    place = frames_folder(found, "digest", "all")
    place.mkdir(parents=True)
    for path in (place / "0.jpg", tmp_path / "secret.jpg"):
        cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    return found


def frames(folder: RunFolder, content: object) -> list[Any]:
    (frames_folder(folder, "digest", "all") / "frames.json").write_text(json.dumps(content))
    return kept_frames(folder, "digest", "all")


def test_what_was_kept_is_read(folder: RunFolder) -> None:
    (frame,) = frames(folder, [ENTRY])
    assert (frame.name, frame.category) == ("a.jpg", "")
    assert frame.annotated[0].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": "../../../secret.jpg"},
        {"image": "/etc/hostname"},
        {"image": 3},
        {"annotated": [[[1.0]]]},
        {"annotated": [[["x", 2]]]},
        {"annotated": 5},
        {"name": None},
        {"category": ["normal"]},
    ],
)
def test_an_entry_of_somebody_else_is_not_followed(folder: RunFolder, wrong: dict[str, Any]) -> None:
    assert frames(folder, [{**ENTRY, **wrong}]) == []


@pytest.mark.parametrize("content", [None, 3, "text", {"name": 1}, [1], [[]], [{}]])
def test_damaged_lists_are_none(folder: RunFolder, content: object) -> None:
    assert frames(folder, content) == []
