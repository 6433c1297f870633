"""Writing scenes to disk in CULane's exact layout, and keeping such a folder whole.

A split's manifest (`manifest/SPLIT.json`) holds the renderer's version, the seed, and size and checksum of
every file. Files are written under a temporary name and then moved, so a killed run leaves no half file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2

from .labels import class_map, to_text
from .render import VERSION, render
from .scene import CATEGORIES, SPLITS, Scene, sample_scene
from .workers import WRITING, end_with_parent

DEFAULT_COUNTS: Mapping[str, int] = {"train": 0, "val": 450, "calibration": 512, "test": 1800}
DEFAULT_SPLITS = ("val", "calibration", "test")
JPEG_QUALITY = 92
Progress = Callable[[int, int], None]  # frames done, frames to do

_DRIVERS = {"train": 11, "val": 12, "calibration": 13, "test": 21}
_CLIP = 450  # frames a folder
_CHUNK = 16  # frames a task: what a killed run can lose
_Stamps = dict[str, tuple[int, str]]  # path below the root -> (bytes, checksum)


@dataclass(frozen=True)
class _Task:
    root: str
    split: str
    seed: int
    indices: tuple[int, ...]


def frame_name(split: str, index: int) -> str:
    """Path of a frame's image below the data set's root."""
    return f"driver_{_DRIVERS[split]}_synthetic/{index // _CLIP:04d}.MP4/{index:05d}.jpg"


def write(
    root: str | Path,
    splits: Sequence[str] = DEFAULT_SPLITS,
    counts: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Path:
    """Render every frame of `splits` into `root`, whatever is there, and write lists and manifest.

    `counts`: frames a split, missing ones as in DEFAULT_COUNTS. `workers`: processes, by default one a core.
    Raises ValueError for an unknown split or a negative count, OSError when the disk refuses.
    """
    return _make(root, splits, counts, workers, progress, seed, lambda _root, _stamps: set(), {})


def ensure(
    root: str | Path,
    splits: Sequence[str] = DEFAULT_SPLITS,
    counts: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    full_check: bool = False,
    only: Mapping[str, Iterable[int]] | None = None,
) -> Path:
    """Like `write`, but render only what is missing, of another version or seed, or damaged; return the root.

    A file of the wrong size counts as damaged; with `full_check` a wrong checksum does too. A killed call goes
    on where it was. Several callers at once do needless work but leave the same files.
    `only`: of these splits no more than the frames of these indices; the lists name all, so that a part of a split is
    the same whether or not the rest is there.
    """

    return _make(
        root, splits, counts, workers, progress, seed, partial(_sound, full_check=full_check), only or {}
    )


def frames_on_disk(
    root: str | Path,
    splits: Sequence[str] = DEFAULT_SPLITS,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[int, int]:
    """How many frames of `splits` are whole in `root`, of how many there are; nothing is written.

    Whole as for `ensure`: all files of this version and seed are there with the right size. A missing folder has 0.
    Raises ValueError for an unknown split or a negative count.
    """
    wanted, whole = _wanted(splits, counts), 0
    for split, count in wanted.items():
        good = _sound(Path(root), _read_manifest(Path(root), split, seed))
        whole += sum(good.issuperset(_files(split, index)) for index in range(count))
    return whole, sum(wanted.values())


def _make(
    root: str | Path,
    splits: Sequence[str],
    counts: Mapping[str, int] | None,
    workers: int | None,
    progress: Progress | None,
    seed: int,
    sound: Callable[[Path, _Stamps], set[str]],
    only: Mapping[str, Iterable[int]],
) -> Path:
    wanted = _wanted(splits, counts)
    folder = Path(root)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file, expected a folder for the frames; choose another --root"
        )
    folder.mkdir(parents=True, exist_ok=True)
    stamps: dict[str, _Stamps] = {}
    tasks: list[_Task] = []
    for split, count in wanted.items():
        kept = _read_manifest(folder, split, seed)
        good = sound(folder, kept)
        stamps[split] = {name: stamp for name, stamp in kept.items() if name in good}
        looked_at = sorted(set(only.get(split, range(count))) & set(range(count)))
        todo = [i for i in looked_at if not good.issuperset(_files(split, i))]
        for start in range(0, len(todo), _CHUNK):
            tasks.append(_Task(str(folder), split, seed, tuple(todo[start : start + _CHUNK])))
    total, done = sum(len(task.indices) for task in tasks), 0
    for task, made in _run(tasks, workers):
        stamps[task.split].update(made)
        _write_manifest(folder, task.split, seed, stamps[task.split])
        done += len(task.indices)
        if progress is not None:
            progress(done, total)
    for split, count in wanted.items():
        if count:
            _write_lists(folder, split, count, seed)
    return folder


def _wanted(splits: Sequence[str], counts: Mapping[str, int] | None) -> dict[str, int]:
    for name in (*splits, *(counts or {})):
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; use one of {', '.join(SPLITS)}")
    wanted = {split: int({**DEFAULT_COUNTS, **(counts or {})}[split]) for split in splits}
    for split, count in wanted.items():
        if not 0 <= count <= 99_999:
            raise ValueError(f"count {count} of split {split!r} is not between 0 and 99999")
    return wanted


def _run(tasks: Sequence[_Task], workers: int | None) -> Iterable[tuple[_Task, _Stamps]]:
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield task, _render_task(task)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as pool:
        running = {pool.submit(_render_task, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _files(split: str, index: int) -> list[str]:
    image = frame_name(split, index)
    files = [image, image.replace(".jpg", ".lines.txt")]
    if split in ("train", "val"):
        files.append(_map_name(image))
    return files


def _map_name(image: str) -> str:
    return "laneseg_label_w16/" + image.replace(".jpg", ".png")


def _render_task(task: _Task) -> _Stamps:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    stamps: _Stamps = {}
    try:
        for index in task.indices:
            scene = sample_scene(task.split, index, seed=task.seed)
            for name, content in zip(_files(task.split, index), _contents(scene, task.split), strict=True):
                _replace(Path(task.root) / name, content)
                stamps[name] = (len(content), _checksum(content))
    finally:
        cv2.setNumThreads(threads)
    return stamps


def _contents(scene: Scene, split: str) -> list[bytes]:
    image = cv2.imencode(".jpg", render(scene), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    contents = [image, to_text(scene.lanes).encode()]
    if split in ("train", "val"):
        contents.append(cv2.imencode(".png", class_map(scene.lanes, scene.slots))[1].tobytes())
    return contents


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with WRITING:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _sound(folder: Path, stamps: _Stamps, full_check: bool = False) -> set[str]:
    return {name for name, stamp in stamps.items() if _is_sound(folder / name, stamp, full_check)}


def _is_sound(path: Path, stamp: tuple[int, str], full_check: bool) -> bool:
    try:
        if not full_check:
            return path.stat().st_size == stamp[0]
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) == stamp[0] and _checksum(content) == stamp[1]


def _manifest_path(root: Path, split: str) -> Path:
    return root / "manifest" / f"{split}.json"


def _read_manifest(root: Path, split: str, seed: int) -> _Stamps:
    """What the manifest vouches for; nothing when it is missing, damaged, or of another version or seed."""
    try:
        manifest = json.loads(_manifest_path(root, split).read_text(encoding="utf-8"))
        if (manifest["renderer"], manifest["seed"]) != (VERSION, seed):
            return {}
        return {str(name): (int(size), str(checksum)) for name, (size, checksum) in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_manifest(root: Path, split: str, seed: int, stamps: _Stamps) -> None:
    manifest = {"renderer": VERSION, "seed": seed, "files": dict(sorted(stamps.items()))}
    _replace(_manifest_path(root, split), json.dumps(manifest).encode())


def _write_lists(root: Path, split: str, count: int, seed: int) -> None:
    """`list/SPLIT.txt`; for test the nine categories; for train and val the label map and four flags too."""
    names = [frame_name(split, index) for index in range(count)]
    _write_lines(root / "list" / f"{split}.txt", [f"/{name}" for name in names])
    if split == "test":
        for number, category in enumerate(CATEGORIES):
            own = [f"/{name}" for i, name in enumerate(names) if CATEGORIES[i % len(CATEGORIES)] == category]
            _write_lines(root / "list" / "test_split" / f"test{number}_{category}.txt", own)
    if split in ("train", "val"):
        lines = []
        for index, name in enumerate(names):
            slots = sample_scene(split, index, seed=seed).slots
            flags = " ".join(str(int(slot in slots)) for slot in (1, 2, 3, 4))
            lines.append(f"/{name} /{_map_name(name)} {flags}")
        _write_lines(root / "list" / f"{split}_gt.txt", lines)


def _write_lines(path: Path, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    if not path.is_file() or path.read_bytes() != content:
        _replace(path, content)
