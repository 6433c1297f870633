"""Lanes of images, folders and videos, drawn with scores, and the time that they took."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bench.errors import BenchError
from bench.overlays import draw_lanes
from bench.whole_file import write_whole
from datasets.images import read_image
from selective_focus import Lane, LaneDetector

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}
"""Videos that can be written, and with what. More can be read: whatever OpenCV's build knows."""
VIDEOS = (*CODECS, ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
ERRORS_ONLY = 2
"""OpenCV's level of logging at which it is silent about files that it cannot open."""
SHORTFALL = 0.05
"""Share of a video's frames that its header may promise in excess; headers of good files are a little off too."""

# What is wrong with a video is said here, in one line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """Lanes of one frame, and the milliseconds of preparing the input, of the network and of decoding."""

    lanes: list[Lane]
    milliseconds: tuple[float, float, float]


def predict(detector: LaneDetector, image: Path, out: Path, device: str = "cpu") -> Iterator[str]:
    """Writes a picture for each image, or a video for a video, and gives a line about each.

    image: a file, or a folder of images. Files are written whole or not at all.
    Raises BenchError for missing files and for videos, DatasetError for images that cannot be read or are cut short.
    """
    detector.model.to(device)
    if image.is_file() and image.suffix.lower() in VIDEOS:
        yield from _video(detector, image, _video_target(image, out), device)
        return
    times = []
    for source, target in list(_pairs(image, out)):
        frame = read_image(source)
        seen = look(detector, frame, device)
        _write_picture(target, draw_lanes(frame, seen.lanes, scores=True))
        scores = ", ".join(f"{lane.score:.2f}" for lane in seen.lanes) or "none"
        yield f"{target}: {len(seen.lanes)} lanes (scores {scores}), {_in_words(seen.milliseconds)}"
        times.append(seen.milliseconds)
    if len(times) > 1:
        yield f"{len(times)} images, medians: {_in_words(_medians(times))}"


def look(detector: LaneDetector, frame: Image, device: str = "cpu") -> Seen:
    """What a detector sees in one camera frame [h, w, 3]."""
    marks = [time.perf_counter()]
    with torch.inference_mode():
        x = detector.transform(frame)[None].to(device)
        marks.append(time.perf_counter())
        heads = {name: head.float().cpu() for name, head in detector.heads(x).items()}
        marks.append(time.perf_counter())
        lanes = detector.decode(heads, (frame.shape[0], frame.shape[1]))[0]
        marks.append(time.perf_counter())
    first, second, third = (1000 * (end - start) for start, end in itertools.pairwise(marks))
    return Seen(lanes, (first, second, third))


def _pairs(image: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    if image.is_file():
        known = out.suffix.lower() in SUFFIXES
        target = out / f"{image.stem}.png" if out.is_dir() else out if known else out.with_suffix(".png")
        if out.suffix.lower() in VIDEOS:
            raise BenchError(
                f"{out}: {image.name} is no video ({', '.join(VIDEOS)}); give --out a picture's name"
            )
        yield image, _other_than(image, target)
        return
    if not image.is_dir():
        raise BenchError(f"{image}: no such file or folder; give an image with --image")
    sources = sorted(path for path in image.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise BenchError(f"{image}: no images in this folder ({', '.join(SUFFIXES)})")
    if out.is_file():
        raise BenchError(f"{out}: is a file; --out must be a folder when --image is one")
    for path in sources:
        yield path, _other_than(path, out / path.relative_to(image).with_suffix(".png"))


def _other_than(source: Path, target: Path) -> Path:
    if target.exists() and target.samefile(source):
        raise BenchError(f"{target}: would be written over the file that is read; choose another --out")
    return target


def _write_picture(target: Path, drawn: Image) -> None:
    packed, content = cv2.imencode(target.suffix, drawn)
    if not packed:
        raise BenchError(f"{target}: this kind of picture cannot be written; choose a .png as --out")
    _make_folder(target.parent)
    write_whole(target, content.tobytes())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error


def _video_target(video: Path, out: Path) -> Path:
    """Where the video goes. Raises BenchError for a suffix that cannot be written."""
    target = out / f"{video.stem}.mp4" if out.is_dir() else out
    if target.suffix.lower() not in CODECS:
        raise BenchError(f"{target}: expected a video's name as --out ({', '.join(CODECS)}), {video} is one")
    return _other_than(video, target)


def _video(detector: LaneDetector, video: Path, target: Path, device: str) -> Iterator[str]:
    """The video with lanes drawn, of the same size and frames per second, moved to ``target`` when it is whole."""
    _make_folder(target.parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    times: list[tuple[float, float, float]] = []
    lanes = 0
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(temporary.unlink, missing_ok=True)
        cleaning.callback(cv2.utils.logging.setLogLevel, cv2.utils.logging.setLogLevel(ERRORS_ONLY))
        capture, first = cleaning.enter_context(_capture(video))
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        writer = _writer(temporary, target, capture.get(cv2.CAP_PROP_FPS), first)
        try:
            frame: Image | None = first
            while frame is not None:
                seen = look(detector, frame, device)
                writer.write(draw_lanes(frame, seen.lanes, scores=True))
                times.append(seen.milliseconds)
                lanes += len(seen.lanes)
                frame = _next(capture, video)
        finally:
            writer.release()
        if len(times) < (1 - SHORTFALL) * promised:
            raise BenchError(
                f"{video}: ends after {len(times)} of {promised} frames; copy or download the video again"
            )
        if not temporary.is_file() or temporary.stat().st_size == 0:
            raise BenchError(f"{target}: nothing was written; is the disk full? choose another --out")
        os.replace(temporary, target)
    yield f"{target}: {len(times)} frames, {lanes} lanes, medians: {_in_words(_medians(times))}"


@contextlib.contextmanager
def _capture(video: Path) -> Iterator[tuple[cv2.VideoCapture, Image]]:
    """An open video and its first frame."""
    try:
        capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    except cv2.error:
        capture = cv2.VideoCapture()
    try:
        first = _next(capture, video) if capture.isOpened() else None
        if first is None:
            raise BenchError(
                f"{video}: not a video that OpenCV can decode (damaged, cut short, or a codec that this build lacks);"
                " try ffmpeg -i VIDEO -c:v mjpeg VIDEO.avi"
            )
        yield capture, first
    finally:
        capture.release()


def _next(capture: cv2.VideoCapture, video: Path) -> Image | None:
    """The next frame [h, w, 3]; None at the end."""
    try:
        found, frame = capture.read()
    except cv2.error as error:
        raise BenchError(f"{video}: cannot be decoded ({error.err}); copy or download it again") from error
    return np.asarray(frame, dtype=np.uint8) if found else None


def _writer(temporary: Path, target: Path, fps: float, frame: Image) -> cv2.VideoWriter:
    """A video writer for frames like this one."""
    codec = CODECS[target.suffix.lower()]
    rate = fps if 0 < fps < 1000 else 25.0  # some containers do not say
    height, width = frame.shape[:2]
    try:
        fourcc = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, fourcc, rate, (width, height))
    except cv2.error:
        writer = cv2.VideoWriter()
    if not writer.isOpened():
        writer.release()
        raise BenchError(
            f"{target}: this OpenCV cannot write {width}x{height} video with the codec {codec}, or not there; try an"
            " --out that ends in .avi, or a folder of images"
        )
    return writer


def _medians(times: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    first, second, third = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second, third


def _in_words(milliseconds: tuple[float, float, float]) -> str:
    words = ("preprocessing", "network", "decoding")
    return ", ".join(f"{word} {value:.1f} ms" for word, value in zip(words, milliseconds, strict=True))
