"""The lanes that a detector found in many frames: a few arrays instead of many objects, and a file of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.whole_file import write_whole
from selective_focus import Lane


class FoundLanes:
    """A sequence of the lanes of each frame.

    lanes_per_image: [frames]. points_per_lane, scores: [lanes]. points: [points, 2], pixels.
    Raises ValueError for arrays that do not belong together.
    """

    def __init__(
        self,
        lanes_per_image: npt.NDArray[np.int64],
        points_per_lane: npt.NDArray[np.int64],
        points: npt.NDArray[np.float64],
        scores: npt.NDArray[np.float64],
    ) -> None:
        if min(lanes_per_image.min(initial=0), points_per_lane.min(initial=0)) < 0:
            raise ValueError("there are no negative numbers of lanes and points")
        self._first_lane = np.concatenate([[0], np.cumsum(lanes_per_image)])
        self._first_point = np.concatenate([[0], np.cumsum(points_per_lane)])
        self._points = points
        self._scores = scores
        if (self._first_lane[-1], self._first_point[-1]) != (len(points_per_lane), len(points)):
            raise ValueError("lanes and points do not add up")
        if len(scores) != len(points_per_lane):
            raise ValueError("every lane needs a score")

    @classmethod
    def of(cls, images: Sequence[Sequence[Lane]]) -> FoundLanes:
        """The same lanes, packed."""
        lanes = [lane for image in images for lane in image]
        return cls(
            np.array([len(image) for image in images], dtype=np.int64),
            np.array([len(lane.points) for lane in lanes], dtype=np.int64),
            np.concatenate([lane.points for lane in lanes]) if lanes else np.zeros((0, 2)),
            np.array([lane.score for lane in lanes], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self._first_lane) - 1

    def __getitem__(self, image: int) -> list[Lane]:
        if not 0 <= image < len(self):
            raise IndexError(f"frame {image} of {len(self)}")
        return [
            Lane(
                self._points[self._first_point[lane] : self._first_point[lane + 1]], float(self._scores[lane])
            )
            for lane in range(self._first_lane[image], self._first_lane[image + 1])
        ]

    def write(self, path: Path, seconds: Sequence[float]) -> None:
        """One file, whole or not at all. seconds: what it took to find the lanes, kept beside them."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            lanes_per_image=np.diff(self._first_lane),
            points_per_lane=np.diff(self._first_point),
            points=self._points,
            scores=self._scores,
            seconds=np.array(seconds),
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> tuple[FoundLanes, list[float]] | None:
        """The lanes of a file and the seconds, or None when there is none or it is damaged (make it again then)."""
        names = ("lanes_per_image", "points_per_lane", "points", "scores")
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(*(stored[name] for name in names)), stored["seconds"].tolist()
        except Exception:  # what damaged archives make numpy and zipfile raise is open-ended
            return None
