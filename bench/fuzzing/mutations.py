"""Hostile files: sound ones with bytes changed, and formats whose every field was chosen by an enemy."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**64 - 1)
NAMES = (
    *("../out.txt", "/tmp/out.txt", "a/../../out.txt", "C:\\out.txt", "..\\out.txt", "\\\\host\\share\\out"),
    *("a", "a/b", "a/b/c", "a//b", "./a", ".", "", "/", "~", "a\nb", "nul\0byte", "é", "a" * 300, "a/" * 200),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few of: bytes flipped, cut out, repeated, inserted, or an integer put in place."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        span = rng.choice((1, 2, 4, 8, 32, 200))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + span]
        elif kind == 2:
            data[at:at] = data[at : at + span] * rng.randrange(1, 4)
        elif kind == 3:
            data[at:at] = rng.randbytes(span)
        elif kind == 4:
            data[at : at + 8] = struct.pack(rng.choice("<>") + "Q", rng.choice(NUMBERS))
        else:
            del data[at:]
    return bytes(data)


def safetensors(rng: random.Random) -> bytes:
    """The header's every field: types, shapes, offsets that overlap, leave the file or are no numbers."""

    def number() -> Any:
        return rng.choice((*NUMBERS, -1, -(2**63), 2**70, 1.5, None, "4", [], True))

    header: dict[str, Any] = {}
    for index in range(rng.randrange(4)):
        small = rng.random() < 0.5
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))] if small else [number(), number()]
        offsets = [0, 16] if small else [number() for _ in range(rng.choice((1, 2, 3)))]
        kind = rng.choice(("F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "U9", "", None, 3))
        name = rng.choice((f"t{index}", "conv.weight", "module.", "__metadata__", "", "\0"))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
    if rng.random() < 0.4:
        descriptions = ('{"format": 1}', "[]", "{}", '{"format": 1, "detector": [' + "[" * 3000, "NaN", "")
        header["__metadata__"] = rng.choice(
            ({"selective_focus": rng.choice(descriptions)}, [], {"a": 1}, "x")
        )
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = b'{"a":' * rng.choice((10, 3000, 100_000))
    length = len(text) if rng.random() < 0.8 else rng.choice(NUMBERS)
    return struct.pack("<Q", length % 2**64) + text + rng.randbytes(rng.choice((0, 16, 64, 1000)))


def archive(rng: random.Random) -> bytes:
    """Entries that would leave the folder, links, devices, names twice, sizes that are not true, bombs."""
    return _tar(rng) if rng.random() < 0.5 else _zip(rng)


def _tar(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as tarred:
        for _ in range(rng.choice((1, 1, 2, 3, 3, 21))):
            entry = tarfile.TarInfo(rng.choice(NAMES))
            kinds = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
            entry.type = rng.choice((*kinds, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.REGTYPE))
            entry.linkname = rng.choice(NAMES)
            entry.mode = rng.choice((0, 0o644, 0o4777))
            content = bytes(rng.choice((0, 10, 512, 1_100_000 if rng.random() < 0.1 else 600)))
            entry.size = len(content)
            try:
                tarred.addfile(entry, io.BytesIO(content))
            except (ValueError, UnicodeError):
                continue  # a name that this format cannot hold
    content = buffer.getvalue()
    return mutated(content, rng) if rng.random() < 0.5 else content


def _zip(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as zipped:
        warnings.simplefilter("ignore")  # of names given twice
        for _ in range(rng.choice((1, 1, 2, 3, 3, 21))):
            info = zipfile.ZipInfo()
            info.filename = rng.choice(NAMES)
            info.external_attr = rng.choice((0, 0o100644, 0o120777, 0o040755, 0o060644, 0o010644)) << 16
            info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
            zipped.writestr(info, bytes(rng.choice((0, 10, 3000, 1_100_000 if rng.random() < 0.1 else 600))))
    content = bytearray(buffer.getvalue())
    for mark in (b"PK\x01\x02", b"PK\x03\x04"):
        at = content.find(mark)
        if at >= 0 and rng.random() < 0.4:
            place = at + rng.randrange(4, 46)  # versions, flags, method, sizes, lengths of names
            content[place : place + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
    return bytes(content)


def checkpoint(rng: random.Random) -> bytes:
    """A pickle whose opcodes were exchanged, or one of an object that a loader must not call."""
    if rng.random() < 0.3:
        return rng.choice(_CALLS)
    codes = [item for item in pickletools.opcodes if item.arg is None]
    body = b"".join(rng.choice(codes).code.encode("latin-1") for _ in range(rng.randrange(30)))
    program = b"\x80\x02" + body + b"."
    if rng.random() < 0.5:
        return program
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        folder = rng.choice(("archive", "a/b", "..", ""))
        zipped.writestr(f"{folder}/data.pkl", rng.choice((program, *_CALLS)))
        zipped.writestr(f"{folder}/version", rng.choice((b"3\n", b"", b"9" * 5000, b"-1")))
        zipped.writestr(f"{folder}/data/0", rng.randbytes(rng.choice((0, 4, 72))))
        if rng.random() < 0.5:
            zipped.writestr(f"{folder}/byteorder", rng.choice((b"little", b"big", b"?")))
    return buffer.getvalue()


_CALLS = (
    b"cos\nsystem\n(S'exit 1'\ntR.",
    b"cbuiltins\neval\n(S'1/0'\ntR.",
    b"ctorch\nzeros\n(I99999999999\ntR.",
    b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n(I4\nt(I1\ntI00\nNtR.",
    b"\x80\x02" + b"(" * 100_000 + b".",
    b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    b"I" + b"9" * 10_000 + b"\n.",
)

HOSTILE: dict[str, Callable[[random.Random], bytes]] = {
    "safetensors": safetensors,
    "saved-state": safetensors,
    "checkpoint": checkpoint,
    "archive": archive,
}
"""Reader -> a maker of hostile files of its format."""


def hostile(name: str, seeds: list[bytes], rng: random.Random) -> bytes:
    """A hostile file for a reader: a spoilt sound one, or one made for its format."""
    if name in HOSTILE and rng.random() < 0.5:
        return HOSTILE[name](rng)
    return mutated(rng.choice(seeds), rng)
