"""Detectors with weights that are known to fit: embedded ones, or released checkpoints found in a file or folder."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

import lane_models
from bench.errors import BenchError, one_line
from bench.paper.releases import releases
from bench.profile import Profile
from lane_models.checkpoint import CheckpointError, MismatchError, read
from selective_focus import LaneDetector

SUFFIXES = (".pth", ".pt", ".pkl", ".ckpt", ".zip", ".safetensors")
EMBEDDED = "synthetic"
"""The variant whose weights ship with the project."""
OTHER_DATASETS = ("tusimple", "llamas", "curvelanes", "culane")
ARCHIVES = "archives"
"""The folder in which scripts/download.py keeps archives that are not unpacked yet; no weights are looked for there."""


def build(
    detector: str, variant: str | None = None, weights: Path | None = None, dataset: str = ""
) -> tuple[LaneDetector, str]:
    """A detector in eval mode, and words for its weights.

    detector: a name of ``lane_models``, or "name:variant".
    weights: None: the embedded weights. A checkpoint: the first variant that it fits strictly. A folder: the first
        checkpoint in it that is named after the detector and fits (the variant "synthetic" stays embedded).
    Raises BenchError or CheckpointError; random weights are never used, they would give a score of nothing.
    """
    name, variant = check(detector, variant, weights)
    try:
        found, words = _built(name, variant, weights, dataset)
    except (BenchError, CheckpointError):
        raise
    except (AttributeError, TypeError, ValueError) as error:  # of a detector that lacks something
        raise _unusable(name, error) from error
    if found.name != name:
        raise BenchError(
            f"lane_models/{name}: its detector calls itself {found.name!r}; set its class's name to the folder's"
        )
    return found, words


def usable_variants(name: str) -> list[str]:
    """The variants of a detector. Raises BenchError (one line) where its package cannot be used."""
    try:
        found = lane_models.variants(name)
    except Exception as error:  # whatever somebody's own module raises
        raise _unusable(name, error) from error
    if not found or not all(isinstance(variant, str) and len(variant) > 1 for variant in found):
        raise BenchError(
            f"lane_models/{name}: VARIANTS is {found}; expected names, such as VARIANTS = ('tiny',)"
        )
    return found


def _unusable(name: str, error: Exception) -> BenchError:
    return BenchError(
        f"lane_models/{name}: cannot be used ({type(error).__name__}: {one_line(error)}); what it needs is in "
        "docs/add-a-detector.md"
    )


def _built(name: str, variant: str | None, weights: Path | None, dataset: str) -> tuple[LaneDetector, str]:
    if weights is None or (weights.is_dir() and variant == EMBEDDED):
        return _embedded(name, variant)
    if weights.is_dir():
        found = fitting(weights, name, variant, dataset)
        if not found:
            raise BenchError(
                f"{weights}: no checkpoint there is named after {name} and fits; expected a file such as "
                f"{name}_r18_culane.pth, or name the file itself with --weights FILE"
            )
        path, fitting_variant = found[0]
        return lane_models.build(name, fitting_variant, path), path.name
    return _from_file(name, variant, weights), weights.name


def check(detector: str, variant: str | None, weights: Path | None) -> tuple[str, str | None]:
    """Name and variant, when there is such a detector and something to take its weights from; BenchError otherwise."""
    name, _, own_variant = detector.partition(":")
    variant = own_variant or variant
    if name not in lane_models.names():
        raise BenchError(f"there is no detector {name!r}; choose one of {', '.join(lane_models.names())}")
    own = usable_variants(name)
    if variant is not None and variant not in own:
        known = ", ".join(own)
        raise BenchError(f"{name} has no variant {variant!r}; choose one of {known}")
    if weights is not None and not weights.exists():
        raise BenchError(f"{weights}: no such checkpoint; give a file, or a folder of checkpoints")
    embedded = variant or EMBEDDED
    if weights is None and (embedded not in own or lane_models.shipped_weights(name, embedded) is None):
        who = f"{name}:{variant}" if variant else name
        shipped = [f"{name}:{each}" for each in own if lane_models.shipped_weights(name, each)]
        if shipped:
            raise BenchError(f"{who} has no embedded weights; {' and '.join(shipped)} have")
        hint = f"; {_download(name)}" if any(release.detector == name for release in releases()) else ""
        raise BenchError(f"{who} has no embedded weights; give a checkpoint with --weights FILE{hint}")
    return name, variant


def fitting(folder: Path, name: str, variant: str | None = None, dataset: str = "") -> list[tuple[Path, str]]:
    """The checkpoints below ``folder`` named after a detector, each with the variant that it fits, in file order.

    Checkpoints whose path or variant names another data set than ``dataset`` are left out. Raises CheckpointError for
    one that is damaged, BenchError for one that fits no variant: other weights are never taken in its place.
    """
    others = [other for other in OTHER_DATASETS if dataset and other != dataset]
    found = []
    for path in checkpoint_files(folder):
        words = str(path.relative_to(folder)).lower()
        named = name in words.replace("-", "").replace("_", "")
        foreign = any(other in words for other in others) and dataset not in words
        if not named or foreign:
            continue
        try:
            fits = _from_file(name, variant, path).variant
        except BenchError:
            if variant is None:
                raise
            continue  # of another variant than the one that is looked for
        if fits not in others:
            found.append((path, fits))
    return found


def checkpoint_files(folder: Path) -> list[Path]:
    """The files below a folder that may be checkpoints, in order; hidden ones and archives to unpack left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") or part == ARCHIVES for part in path.relative_to(folder).parts)
    ]


def profile_for_folder(profile: Profile) -> tuple[Profile, list[str]]:
    """The profile with every detector that has fitting checkpoints in its weights folder, and what to tell about it.

    Where there is none at all, the profile's detectors with their embedded weights.
    """
    if profile.weights is not None and not profile.weights.is_dir():
        raise BenchError(f"{profile.weights}: no such folder; give WEIGHTS=DIR, a folder of checkpoints")
    notes, chosen = [], []
    for name in lane_models.names():
        found = fitting(profile.weights, name, dataset=profile.dataset) if profile.weights else []
        first_of_variant = {variant: path for path, variant in reversed(found)}
        for variant, path in sorted(first_of_variant.items()):
            notes.append(f"{name} {variant}: {path}")
            chosen.append(f"{name}:{variant}")
    if not chosen:
        where = f"none in {profile.weights}" if profile.weights else "none given"
        notes.append(
            f"official weights: {where} (make weights, then WEIGHTS=weights); the small "
            f"embedded ones, trained on synthetic roads, are used"
        )
        chosen = [f"{name}:{EMBEDDED}" for name in profile.detectors]
    return profile.model_copy(update={"detectors": chosen}), notes


def _embedded(name: str, variant: str | None) -> tuple[LaneDetector, str]:
    return lane_models.build(name, variant or EMBEDDED), "embedded"


def _from_file(name: str, variant: str | None, path: Path) -> LaneDetector:
    """Reads the file once; builds the variant that was asked for, or else the one that it fits."""
    content = read(path)
    try:
        return lane_models.build(name, variant or lane_models.variants(name)[0], content)
    except MismatchError as error:
        if variant is not None:
            fitting_variant = f"give {name}:{error.fits} as the detector" if error.fits else ""
            advice = fitting_variant or _other_detector(name, content) or _download(name)
            raise BenchError(f"{_placed(error, path)}; {advice}") from None
        if error.fits is None:
            raise BenchError(_fits_none(name, error.closest, content, path)) from None
        return lane_models.build(name, error.fits, content)
    except CheckpointError as error:
        raise CheckpointError(_placed(error, path)) from None


def _fits_none(name: str, closest: str | None, content: Any, path: Path) -> str:
    """What to say of a checkpoint that fits no variant: whose it is, or how it differs from the nearest."""
    said = f"{path}: fits no variant of {name} ({', '.join(lane_models.variants(name))})"
    other = _other_detector(name, content)
    if other:
        return f"{said}; {other}"
    try:
        lane_models.build(name, closest, content)
    except CheckpointError as error:
        said = f"{said}; {_bare(error)}"
    return f"{said}; {_download(name)}"


def _other_detector(name: str, content: Any) -> str:
    """Which other detector the weights fit, in words, if any."""
    for other in lane_models.names():
        try:
            variant = variant_of(other, content) if other != name else None
        except (AttributeError, TypeError, ImportError):  # somebody's unfinished detector
            continue
        if variant is not None:
            return f"it fits {other} {variant}: give {other}:{variant} as the detector"
    return ""


def _download(name: str) -> str:
    return f"get a checkpoint of {name} with python scripts/download.py --detector {name}"


def variant_of(name: str, content: Any) -> str | None:
    """The variant of a detector that weights fit, if any; no memory is taken."""
    first = lane_models.variants(name)[0]
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that nothing is copied
            detector: Any = lane_models.untrained(name, first)
            detector.load_official(content)
    except MismatchError as error:
        return error.fits
    except CheckpointError:
        return None
    return first


def _placed(error: CheckpointError, path: Path) -> str:
    return f"{path}: {_bare(error)}"


def _bare(error: CheckpointError) -> str:
    """A loader's message without the place, which it does not know, and its advice, which names no option."""
    text = str(error).removeprefix("the given state dict: ").removeprefix("the state dict: ")
    return re.sub(r": build that one$", "", text)
