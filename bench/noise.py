"""Noise of equal norm on the foreground and on the background of each head: how far do the lanes move? (claim C5)"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from bench.data import load_data
from bench.detectors import build
from bench.errors import BenchError, one_line
from bench.profile import Profile
from bench.runner import Listener, Subject
from bench.store import RunFolder
from bench.whole_file import write_whole
from selective_focus import Heads, LaneDetector
from selective_focus.focus import checked_foreground
from selective_focus.lane_distortion import lane_distortion_scores

THRESHOLD = 0.3
"""A position with at least this weight of ``foreground`` counts as foreground (our reading)."""
LEVELS = (0.1, 0.3, 1.0)
SEEDS = (0, 1, 2, 3, 4)


class Sides(BaseModel):
    """LDS in pixels of noise on one head: a value an image that has both sides, the mean over draws of noise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foreground: list[float] = Field(min_length=1)
    background: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Sides:
        if len(self.foreground) != len(self.background):
            raise ValueError("foreground and background: expected a value an image on both sides")
        return self

    positions: float = 0.0
    """That were disturbed on either side, of an image on the mean."""


class HeadNoise(BaseModel):
    """One detector at one level of noise; a file of a run's folder ``noise``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: str
    variant: str = "synthetic"
    weights: str = "embedded"
    data: str
    images: int = 0
    level: float = 0.0
    """Standard deviation of the noise, of the head's own."""
    threshold: float = THRESHOLD
    heads: dict[str, Sides] = Field(min_length=1)

    @property
    def words(self) -> str:
        """ "laneatt, 0.3 sd" """
        variant = "" if self.variant == "synthetic" else f" {self.variant}"
        return f"{self.detector}{variant}, {self.level:g} sd"

    def lines(self) -> list[str]:
        """Both sides of each head, the mean over images."""
        return [
            f"{self.words}: {head}: foreground {fmean(sides.foreground):.2f} px, "
            f"background {fmean(sides.background):.2f} px ({sides.positions:.1f} positions of an image)"
            for head, sides in self.heads.items()
        ]


def measure(profile: Profile, name: str, folder: RunFolder, listener: Listener) -> list[HeadNoise]:
    """Measures a detector on the profile's calibration images, and writes a file a level into the run's folder."""
    detector, weights = build(name, profile.variant, profile.weights, profile.dataset)
    profile = profile.model_copy(
        update={"frames_per_category": None, "limit": 1}
    )  # test frames are not looked at
    data = load_data(profile, listener.rendered)
    detector.model.to(profile.device)
    images = Subject(detector, data, profile, listener).calibration_images()
    heads = _heads(detector, images, profile.batch_size)
    foreground = checked_foreground(detector, heads)
    if not any(disturbed_positions(_a_weight_a_position(heads[k], foreground[k])).any() for k in heads):
        raise BenchError(
            f"{detector.name} {detector.variant}: no head has foreground and background on these images at a weight "
            f"of {THRESHOLD:g}, so nothing can be measured; are the weights trained, on images like these?"
        )
    measured = []
    for level in LEVELS:
        found = HeadNoise(
            detector=detector.name,
            variant=detector.variant,
            weights=weights,
            data=f"{len(images)} calibration images of {data.name}",
            images=len(images),
            level=level,
            heads=noise_on_heads(detector, heads, data.image_size, level),
        )
        path = folder.path / "noise" / f"{detector.name}-{detector.variant}-{level:g}.json"
        write_whole(path, found.model_dump_json(indent=1).encode())
        measured.append(found)
    return measured


def noise_on_heads(
    detector: LaneDetector,
    heads: Heads,
    image_size: tuple[int, int],
    level: float,
    seeds: Sequence[int] = SEEDS,
    threshold: float = THRESHOLD,
) -> dict[str, Sides]:
    """LDS between the lanes of ``heads`` and those with noise on one side of one head, for each of N images.

    heads: full-precision heads of N images. A head without background (or foreground) in any image is left out: a
    vector for the whole image, say. image_size: (H, W) of the frame that pixels are counted in.
    """
    weights = checked_foreground(detector, heads)
    reference = detector.decode(heads, image_size)
    found = {}
    for head, values in heads.items():
        weight = _a_weight_a_position(values, weights[head])
        count = disturbed_positions(weight, threshold)
        if not count.any():
            continue
        moved = {side: np.zeros(len(reference)) for side in (True, False)}
        for seed in seeds:
            for side, total in moved.items():
                generator = torch.Generator().manual_seed(seed)
                noise = noise_on_side(values, weight, side, level, generator, threshold)
                lanes = detector.decode({**heads, head: values + noise}, image_size)
                total += [score.score for score in lane_distortion_scores(reference, lanes, image_size)]
        kept = (count > 0).cpu().numpy()
        foreground, background = ((moved[side][kept] / len(seeds)).tolist() for side in (True, False))
        mean_count = float(count[count > 0].float().mean())
        found[head] = Sides(foreground=foreground, background=background, positions=mean_count)
    return found


def disturbed_positions(weight: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """[N]: how many positions of an image get noise: as many as the smaller of its two sides has."""
    above = (weight >= threshold).flatten(1)
    return torch.minimum(above.sum(1), (~above).sum(1))


def noise_on_side(
    head: Tensor,
    weight: Tensor,
    foreground: bool,
    level: float,
    generator: torch.Generator,
    threshold: float = THRESHOLD,
) -> Tensor:
    """Gaussian noise on randomly chosen positions of one side of a head, 0 elsewhere.

    head: [N, ...]; weight: [N, ...], of size 1 along the dimensions of one position's vector. Both sides of an image
    have equally many disturbed positions (``disturbed_positions``) and noise of the same norm: ``level`` times the
    standard deviation of all the head's values, times the root of the disturbed values' number.
    """
    above = (weight >= threshold).flatten(1)
    side = above if foreground else ~above
    order = torch.rand(side.shape, generator=generator).to(side.device).masked_fill(~side, -1.0)
    rank = order.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = (rank < disturbed_positions(weight, threshold)[:, None]).reshape(weight.shape).expand_as(head)
    noise = torch.randn(head.shape, generator=generator).to(head.device) * chosen
    dims = tuple(range(1, head.dim()))
    norm = noise.square().sum(dims, keepdim=True).sqrt()
    wanted = level * head.float().std(correction=0) * chosen.sum(dims, keepdim=True).sqrt()
    return (noise * (wanted / norm.clamp(min=1e-12))).to(head.dtype)


def read_all(folder: Path) -> list[HeadNoise]:
    """The measurements in a run's folder. Raises BenchError for a file that is none."""
    found = []
    for path in sorted(folder.glob("noise/*.json")):
        try:
            found.append(HeadNoise.model_validate_json(path.read_bytes()))
        except (ValidationError, OSError) as error:
            raise BenchError(
                f"{path}: not a measurement of noise on heads ({one_line(error)[:200]}); delete it and run "
                "python -m bench noise"
            ) from error
    return found


def _heads(detector: LaneDetector, images: Tensor, batch: int) -> Heads:
    """Of all images, on the CPU in single precision, where lanes are decoded."""
    with torch.no_grad():
        parts = [detector.heads(part) for part in images.split(batch)]
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def _a_weight_a_position(head: Tensor, weight: Tensor) -> Tensor:
    """The weight with the head's number of dimensions and its batch size."""
    shape = (1,) * (head.dim() - weight.dim()) + tuple(weight.shape)
    return weight.reshape(shape).expand(head.shape[0], *shape[1:])
