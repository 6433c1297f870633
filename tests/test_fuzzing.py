"""Hostile files: a reader returns or raises its own error in one line. `scripts/fuzz.py` does the same for hours."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzzing.mutations import hostile
from bench.fuzzing.readers import TEXT, readers

READERS = readers()
FEW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_accepted(name: str, tmp_path: Path) -> None:
    for number, content in enumerate(READERS[name].seeds()):
        assert READERS[name].accepts(content, tmp_path / str(number))


@pytest.mark.parametrize("name", READERS)
@FEW
@given(seed=st.integers(0, 2**32))
def test_spoilt_files(name: str, seed: int, tmp_path: Path) -> None:
    reader = READERS[name]
    reader.accepts(hostile(name, reader.seeds(), random.Random(seed)), tmp_path)


@pytest.mark.parametrize("name", [reader.name for reader in TEXT])
@FEW
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    READERS[name].accepts(content, tmp_path)


def zip_of(name: str, flags: int = 0, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(times):
            info = zipfile.ZipInfo()
            info.filename = name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
                archive.writestr(info, b"1234")
    content = bytearray(buffer.getvalue())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= flags
    return bytes(content)


def png_that_says(size: int) -> bytes:
    """A PNG of 1x1 whose header says ``size`` x ``size``, with a checksum that fits."""
    content = bytearray(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    content[16:24] = struct.pack(">II", size, size)
    content[29:33] = struct.pack(">I", zipfile.crc32(content[12:29]))
    return bytes(content)


def png_with_a_chunk_of(length: int) -> bytes:
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[33:37] = struct.pack(">I", length)
    return bytes(content)


def header_of(description: str) -> bytes:
    text = json.dumps({"__metadata__": {"selective_focus": description}}).encode()
    return struct.pack("<Q", len(text)) + text


FOUND: dict[str, tuple[str, Callable[[], bytes]]] = {
    "TOML that is not UTF-8": ("profile", lambda: b'name = "\xff"'),
    "TOML nested without end": ("profile", lambda: b"a = " + b"[" * 20_000),
    "TOML with a number of 5000 digits": ("profile", lambda: b"a = " + b"9" * 5000),
    "description nested without end": ("saved-state", lambda: header_of("[" * 20_000)),
    "zip entry without a name": ("archive", lambda: zip_of("")),
    "zip entry with too long a name": ("archive", lambda: zip_of("a" * 300)),
    "encrypted zip": ("archive", lambda: zip_of("a", flags=1)),
    "zip entry twice, with a line break in its name": ("archive", lambda: zip_of("a\nb", times=2)),
    "image of 60000x60000 in 100 bytes": ("image", lambda: png_that_says(60_000)),
    "image with a chunk of 2 GB": ("image", lambda: png_with_a_chunk_of(2**31 - 1)),
}
"""What fuzzing found and what was mended: none of these made its reader's own error before."""


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found(what: str, tmp_path: Path) -> None:
    name, make = FOUND[what]
    assert not READERS[name].accepts(make(), tmp_path)


def test_an_encrypted_cache_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(zip_of("points.npy", flags=1))
    assert READERS["full-precision"].read(tmp_path / "a.npz") is None


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inside" / "a").mkdir(parents=True)
    assert not READERS["archive"].accepts(zip_of("a"), tmp_path)
    assert (tmp_path / "inside" / "a").is_dir()
