"""Reading camera frames, without the half pictures that OpenCV makes of half files."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from datasets.errors import DatasetError

_JPEG = b"\xff\xd8"
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_PNG = b"\x89PNG"
_PNG_END = b"IEND"
_BMP = b"BM"

LARGEST = 2**26
"""Pixels. A header of a few bytes can ask for gigabytes; a frame of 8000x8000 is read."""


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """A whole image file as [h, w, 3] uint8 in OpenCV's colour order (BGR).

    Raises DatasetError for a file that is missing, not an image, or cut short: of that OpenCV would return
    the upper part and fill up with grey.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot read this image ({error.strerror}); check the data set folder and its list"
        ) from None
    if not data:
        raise DatasetError(f"{path}: this image file is empty; copy or download it again")
    if _cut_short(data):
        raise DatasetError(
            f"{path}: this image file ends too early, after {len(data)} bytes; copy or download it again"
        )
    width, height = _size(data)
    if width * height > LARGEST:
        raise DatasetError(
            f"{path}: says that it is {width}x{height}, expected at most {LARGEST} pixels; copy or download it again"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or not width * height:
        raise DatasetError(
            f"{path}: not an image that OpenCV can decode; expected a JPEG or PNG file, copy or download it again"
        )
    return np.asarray(image, dtype=np.uint8)


def _cut_short(data: bytes) -> bool:
    """Whether the end marker is missing. Thumbnails have one too, but before the last scan of the picture."""
    if data.startswith(_JPEG):
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN) or _JPEG_SCAN not in data
    return data.startswith(_PNG) and not _png_ends(data)


def _png_ends(data: bytes) -> bool:
    """Whether the chunks lead to the last one; OpenCV makes room for a chunk before it looks whether it is there."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        at += 12 + length
        if kind == _PNG_END:
            return at <= len(data)
    return False


def _size(data: bytes) -> tuple[int, int]:
    """Width and height as the header says; (0, 0) where it says none, or is of another format than the three."""
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(_BMP) and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
    else:
        width, height = _jpeg_size(data) if data.startswith(_JPEG) else (0, 0)
    return abs(width), abs(height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """From the largest start-of-frame segment (0xC0 to 0xCF without tables): a decoder reads what it finds first."""
    largest, at = (0, 0), 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            at += 1  # a decoder looks for the next marker as well
            continue
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
        if marker == _JPEG_SCAN[1]:
            break
        alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD9 or marker == 0
        at += 1 if marker == 0xFF else 2 if alone else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return largest
