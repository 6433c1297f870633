"""Whose weights are in a folder: by the detector and variant that the keys fit, and by released files' checksums."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path

import lane_models
from bench.detectors import checkpoint_files, variant_of
from bench.download import sha256
from bench.finding import Finding, bad, good, note
from bench.paper.releases import Release, releases
from lane_models.checkpoint import CheckpointError, read


def check_weights(folder: Path) -> Iterator[Finding]:
    """The checkpoints below a folder, or one checkpoint, and which released ones are not there."""
    if not folder.exists():
        yield bad(f"{folder}: no such folder of weights; make weights WEIGHTS={folder} fetches released ones")
        return
    fitting: set[tuple[str, str]] = set()
    paths = [folder] if folder.is_file() else checkpoint_files(folder)
    for path in paths:
        try:
            fits = fits_of(path)
        except CheckpointError as error:
            yield bad(str(error))
            continue
        fitting |= set(fits)
        yield _identity(path, fits)
    here = {
        release.address
        for release in releases()
        if (release.detector, release.variant) in fitting
        or any(_is_named_like(path, release) for path in paths)
    }
    missing = [release for release in releases() if release.address not in here]
    if missing and folder.is_dir():
        names = ", ".join(dict.fromkeys(f"{release.detector} {release.variant}" for release in missing))
        yield note(
            f"{folder}: no released weights of {names}; make weights WEIGHTS={folder} DETECTOR={missing[0].detector}"
        )


def fits_of(path: Path) -> list[tuple[str, str]]:
    """(detector, variant) pairs whose keys and shapes a checkpoint has. Raises CheckpointError for a damaged one."""
    content = read(path)
    pairs = ((name, variant_of(name, content)) for name in lane_models.names())
    return [(name, variant) for name, variant in pairs if variant is not None]


def _identity(path: Path, fits: list[tuple[str, str]]) -> Finding:
    if not fits:
        return note(f"{path}: fits no detector here; it is not used")
    words = f"{path}: fits {', '.join(' '.join(pair) for pair in fits)}"
    named = [release for release in releases() if _is_named_like(path, release)]
    known = [release for release in named if release.sha256]
    if known and sha256(path) not in {release.sha256 for release in known}:
        return bad(
            f"{words}, but is not the released file of that name (SHA-256 differs), so the published score is not its: "
            f"delete it and make weights DETECTOR={known[0].detector}, or rename it"
        )
    if named and not any((release.detector, release.variant) in fits for release in named):
        release = named[0]
        return bad(
            f"{words}, but is named like the released {release.detector} {release.variant}; rename one of them"
        )
    if known:
        return good(f"{words}; the released file (SHA-256)")
    if named:
        return good(f"{words}; named like the released file, of which no checksum is known")
    return note(f"{words}; not a released file by name: no published score belongs to it")


def _is_named_like(path: Path, release: Release) -> bool:
    if release.members:
        return fnmatch.fnmatch(path.as_posix(), release.members)
    return path.name == Path(release.save_as).name and release.detector in path.as_posix().lower()
