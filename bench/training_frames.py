"""Rendered training frames, kept on disk at network size, and their augmentation."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from bench.whole_file import whole_file
from lane_models.road_crop import FRAME, RoadCrop

Image = npt.NDArray[np.uint8]
Polyline = npt.NDArray[np.float64]


class TrainingError(ValueError):
    """A training run that cannot start or go on; the message is one line and says what to do."""


class Example(NamedTuple):
    """An image [H, W, 3] at network size, its lanes [P, 2] in network pixels, and each lane's slot.

    slots: CULane's places 1..4 from the left, 2 and 3 being the borders of the own lane; 0 where unknown.
    """

    image: Image
    lanes: list[Polyline]
    slots: list[int]


SHARD = 250
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class SyntheticSource:
    """Frame ``index`` of a split of the synthetic roads, cut and shrunk as the network sees it.

    Scenes are rendered ``oversampling`` times larger and averaged down: test frames are shrunk from full-size
    pictures, and directly rendered small frames would look sharper than those.
    """

    crop: RoadCrop
    split: str = "train"
    seed: int = 0
    oversampling: int = 2

    def __call__(self, index: int) -> Example:
        from datasets.synthetic import render, sample_scene

        scene = sample_scene(self.split, index, seed=self.seed)
        height, width = self.crop.size
        large_size = (height * self.oversampling, width * self.oversampling)
        large = render(scene, size=large_size, rows=self.crop.rows)
        image = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
        return Example(image, [self.crop.to_network(lane) for lane in scene.lanes], list(scene.slots))

    def key(self) -> str:
        """Names these frames: changes with the renderer's code and with every setting."""
        digest = hashlib.sha256(repr(self).encode())
        for path in sorted((ROOT / "datasets" / "synthetic").glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


class TrainingFrames(Sequence[Example]):
    """Frames in a folder, one memory-mapped array of images and one file of lanes a shard.

    Raises TrainingError for a file that is missing or damaged.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._count = count
        shards = range(math.ceil(count / SHARD))
        self._images = [_read_images(_shard_files(folder, shard)[0]) for shard in shards]
        labels = [_read_labels(_shard_files(folder, shard)[1]) for shard in shards]
        self._lanes = [lanes for shard, _ in labels for lanes in shard]
        self._slots = [slots for _, shard in labels for slots in shard]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        image = np.array(self._images[index // SHARD][index % SHARD])
        return Example(image, self._lanes[index], self._slots[index])

    @property
    def lanes(self) -> list[list[Polyline]]:
        """The labels of all frames, in order."""
        return self._lanes[: self._count]


def render_frames(
    folder: Path,
    source: Callable[[int], Example],
    count: int,
    processes: int = 2,
    report: Callable[[str], None] = print,
) -> TrainingFrames:
    """Render what is missing of ``count`` frames into ``folder`` and open them. A shard is written whole
    or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(math.ceil(count / SHARD))
    missing = [i for i in shards if not all(path.is_file() for path in _shard_files(folder, i))]
    if missing:
        started = time.monotonic()
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_render_shard, folder, source, shard) for shard in missing]
            for done, future in enumerate(as_completed(waiting), 1):
                future.result()
                left = (time.monotonic() - started) / done * (len(missing) - done)
                report(f"rendered {done * SHARD} of {len(missing) * SHARD} frames, about {left:.0f} s left")
    return TrainingFrames(folder, count)


def _render_shard(folder: Path, source: Callable[[int], Example], shard: int) -> None:
    cv2.setNumThreads(1)
    examples = [source(index) for index in range(shard * SHARD, (shard + 1) * SHARD)]
    lanes = [lane for one in examples for lane in one.lanes]
    points = np.concatenate(lanes) if lanes else np.zeros((0, 2))
    images_file, lanes_file = _shard_files(folder, shard)
    with whole_file(lanes_file) as file:
        np.savez(
            file,
            points=points.astype(np.float32),
            lengths=np.array([len(lane) for lane in lanes], dtype=np.int64),
            counts=np.array([len(one.lanes) for one in examples], dtype=np.int64),
            slots=np.array([slot for one in examples for slot in one.slots], dtype=np.int64),
        )
    with whole_file(images_file) as file:
        np.save(file, np.stack([one.image for one in examples]))


def _shard_files(folder: Path, shard: int) -> tuple[Path, Path]:
    """A shard's images and its lanes."""
    return folder / f"{shard:05d}.images.npy", folder / f"{shard:05d}.lanes.npz"


def _read_images(path: Path) -> Image:
    """The images of a shard [SHARD, H, W, 3], memory-mapped."""
    try:
        images: Image = np.load(path, mmap_mode="r")
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != SHARD:
            raise ValueError(f"{images.dtype} {list(images.shape)}, expected uint8 [{SHARD}, H, W, 3]")
    except Exception as error:
        raise damaged(path, error, "it is rendered again") from None
    return images


def damaged(path: Path, error: Exception, then: str) -> TrainingError:
    """What to say of a file of ours that cannot be read: loaders raise nearly anything for half a file."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return TrainingError(f"{path}: truncated or damaged ({reason}); remove it and start again: {then}")


def _read_labels(path: Path) -> tuple[list[list[Polyline]], list[list[int]]]:
    """The lanes and the slots of each frame of a shard."""
    try:
        with np.load(path) as file:
            lanes = np.split(file["points"].astype(np.float64), np.cumsum(file["lengths"])[:-1])
            slots, counts = file["slots"].tolist(), file["counts"]
        if len(counts) != SHARD or counts.sum() != len(slots):
            raise ValueError(f"{len(slots)} lanes of {len(counts)} frames, expected {SHARD} frames")
    except Exception as error:
        raise damaged(path, error, "it is rendered again") from None
    frames = [slice(end - count, end) for end, count in zip(np.cumsum(counts), counts, strict=True)]
    return [lanes[frame] for frame in frames], [slots[frame] for frame in frames]


def augmented(example: Example, rng: np.random.Generator) -> Example:
    """A training example changed at random: mirrored, moved, light and colour, blur, noise. All from
    ``rng``.
    """
    if rng.random() < 0.5:
        example = mirrored(example)
    if rng.random() < 0.5:
        example = _moved(example, rng)
    image = example.image
    image = cv2.LUT(image, _tone_curve(rng))
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(2, 8), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return example._replace(image=image)


def mirrored(example: Example) -> Example:
    """Left and right exchanged. Column c of a frame goes to 1639 - c, in network pixels likewise."""
    width = example.image.shape[1]
    edge = width - width / FRAME[1]
    lanes = [np.array([edge, 0]) + lane * [-1, 1] for lane in example.lanes]
    slots = [5 - slot if slot else 0 for slot in example.slots]
    return Example(np.ascontiguousarray(example.image[:, ::-1]), lanes, slots)


def _moved(example: Example, rng: np.random.Generator) -> Example:
    """Scaled about the middle by up to 8 % and shifted by up to 3 % of each side."""
    height, width = example.image.shape[:2]
    scale = rng.uniform(0.92, 1.08)
    centre = np.array([width, height]) / 2
    shift = rng.uniform(-0.03, 0.03, 2) * (width, height) + (1 - scale) * centre
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    moved = cv2.warpAffine(example.image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return example._replace(image=moved, lanes=[lane * scale + shift for lane in example.lanes])


def _tone_curve(rng: np.random.Generator) -> Image:
    """A look-up table [256] of contrast, brightness and gamma."""
    level = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.35, 0.35))
    level = (level - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.12, 0.12)
    return np.clip(level * 255, 0, 255).astype(np.uint8)
