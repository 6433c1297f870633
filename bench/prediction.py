"""Lanes of single images or folders, drawn with scores, and the time that they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bench.errors import BenchError
from bench.overlays import draw_lanes
from datasets.images import read_image
from selective_focus import Lane, LaneDetector

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def predict(detector: LaneDetector, image: Path, out: Path, device: str = "cpu") -> Iterator[str]:
    """Writes a PNG for each image and gives a line about it.

    Raises BenchError for missing files, DatasetError for images that cannot be read or are cut short.
    """
    detector.model.to(device)
    pairs = list(_pairs(image, out))
    for source, target in pairs:
        frame = read_image(source)
        lanes, network_ms, decode_ms = _detect(detector, frame, device)
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_lanes(frame, lanes, scores=True)
        if not cv2.imwrite(str(target), drawn):
            raise BenchError(f"{target}: cannot be written; choose another --out")
        scores = ", ".join(f"{lane.score:.2f}" for lane in lanes) or "none"
        yield (
            f"{target}: {len(lanes)} lanes (scores {scores}), network {network_ms:.1f} ms, decoding {decode_ms:.1f} ms"
        )


def _pairs(image: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    if image.is_file():
        yield image, out / f"{image.stem}.png" if out.is_dir() else out.with_suffix(".png")
        return
    if not image.is_dir():
        raise BenchError(f"{image}: no such file or folder; give an image with --image")
    sources = sorted(path for path in image.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise BenchError(f"{image}: no images in this folder ({', '.join(SUFFIXES)})")
    if out.is_file():
        raise BenchError(f"{out}: is a file; --out must be a folder when --image is one")
    for path in sources:
        yield path, out / path.relative_to(image).with_suffix(".png")


def _detect(
    detector: LaneDetector, frame: npt.NDArray[np.uint8], device: str
) -> tuple[list[Lane], float, float]:
    """Lanes, and milliseconds of the network and of decoding."""
    x = detector.transform(frame)[None].to(device)
    with torch.inference_mode():
        start = time.perf_counter()
        heads = {name: head.float().cpu() for name, head in detector.heads(x).items()}
        middle = time.perf_counter()
        height, width = frame.shape[:2]
        lanes = detector.decode(heads, (height, width))[0]
        end = time.perf_counter()
    return lanes, 1000 * (middle - start), 1000 * (end - middle)
