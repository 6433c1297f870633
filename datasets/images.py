"""Reading camera frames, without the half pictures that OpenCV makes of half files."""

from __future__ import annotations

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
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise DatasetError(
            f"{path}: not an image that OpenCV can decode; expected a JPEG or PNG file, copy or download it again"
        )
    return np.asarray(image, dtype=np.uint8)


def _cut_short(data: bytes) -> bool:
    """Whether the end marker is missing. Thumbnails have one too, but before the last scan of the picture."""
    if data.startswith(_JPEG):
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN) or _JPEG_SCAN not in data
    if data.startswith(_PNG):
        return _PNG_END not in data[-64:]
    return False
