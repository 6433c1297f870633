"""The command that makes a row of results again, and in words what its records cannot know."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.cells import canonical_json
from bench.errors import BenchError
from bench.profile import load_profile, profile_names
from bench.store import Record
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantize import resolve_options

SUBSET = re.compile(
    r"(?:at most (\d+) of each category)?(?:, )?(?:at most (\d+) in all)? of \d+, drawn with seed 0"
)
"""What ``bench.data.subset_words`` writes."""

Limits = tuple[int | None, int | None]
"""At most so many frames of each category, and in all."""


@dataclass(frozen=True)
class Again:
    """A command for a shell; empty where nothing was measured. notes: what to put for its capital words, and more."""

    command: str
    notes: tuple[str, ...]


def again(run: str, records: Sequence[Record]) -> Again:
    """What makes the cells of one row again: all seeds of one setting. run: the name of the run that they are in."""
    if not records:
        return Again("", ("No cell of this row is done.",))
    cell = records[0].cell
    profile = _profile(run, cell)
    options = {**_measured(cell), **_frames(cell, profile)}
    options["--seeds"] = ",".join(str(seed) for seed in sorted({record.cell["seed"] for record in records}))
    places = {"--profile": "FILE.toml" if profile is None else profile}
    if cell["dataset"].partition("-")[0] != "synthetic":
        places["--root"] = "DIR"
    if cell["weights"] != "embedded":
        places["--weights"] = "CHECKPOINT"
    words = [word for pair in {**places, **options}.items() for word in pair]
    return Again(shlex.join(["python", "-m", "bench", "run", *words]), tuple(_notes(cell, profile)))


def _measured(cell: Mapping[str, Any]) -> dict[str, str]:
    """The options that say what was measured, each as the record has it."""
    dataset, _, split = cell["dataset"].partition("-")
    own = cell["weights"] == "embedded" and cell["variant"] == "synthetic"
    options = {
        "--detectors": cell["detector"] if own else f"{cell['detector']}:{cell['variant']}",
        "--methods": cell["method"],
        "--dataset": dataset,
        "--split": split or "test",
        "--device": cell["device"],
    }
    if cell["method"] != "fp32":
        options["--bits"] = _bits(cell)
        options["--calibration-images"] = str(cell["calibration_images"])
    return options


def _frames(cell: Mapping[str, Any], profile: str | None) -> dict[str, str]:
    """The options that choose the record's test frames, whatever the profile would choose."""
    options = {}
    limits = _limits(cell) or (None, None)
    own = (None, None) if profile is None else _limits_of(profile)
    for name, limit, other in zip(("--frames-per-category", "--limit"), limits, own, strict=True):
        if limit is not None:
            options[name] = str(limit)
        elif other is not None and cell["subset"] == "all":
            options[name] = str(cell["images"])  # leaves nothing out
    return options


def _notes(cell: Mapping[str, Any], profile: str | None) -> Iterator[str]:
    base = cell.get("base_method") or cell["method"]
    if profile is None:
        label = f', with method = "{base}"' if base != cell["method"] else ""
        yield (
            f"FILE.toml: a profile whose table [methods.{cell['method']}] gives the settings below{label}, without "
            f"frames_per_category or limit; none that ships with the benchmark gives these settings on these frames."
        )
    if cell["dataset"].partition("-")[0] != "synthetic":
        yield f"DIR: the folder of data set {cell['dataset']}."
    if cell["weights"] != "embedded":
        yield f"CHECKPOINT: the file {cell['weights']} (digest of its weights: {cell['weights_digest'][:12]})."
    if _limits(cell) is None:
        yield f"Test frames: {cell['subset']}; no option chooses them."


def _profile(run: str, cell: Mapping[str, Any]) -> str | None:
    """A profile that ships with the benchmark and gives the record's settings and frames: the run's own one first."""
    for name in sorted(profile_names(), key=lambda name: (name != run, name != "quick", name)):
        same = _settings(name, cell["method"], _bits(cell)) == (
            cell.get("base_method") or cell["method"],
            canonical_json(cell["settings"]),
        )
        limits = _limits(cell) or (None, None)
        cuts = any(
            mine is not None and theirs is None for mine, theirs in zip(_limits_of(name), limits, strict=True)
        )
        if same and (cell["subset"] == "all" or not cuts):
            return name
    return None


@cache
def _settings(profile: str, label: str, bits: str) -> tuple[str, str] | None:
    """The method behind a label of a profile and, as text, its resolved settings; None where it has none such."""
    try:
        chosen = load_profile(profile)
        if label not in chosen.methods:
            return None
        method = chosen.method_of(label)
        return method, canonical_json(resolve_options(method, bits, chosen.options_of(label)))
    except (BenchError, ConfigurationError):
        return None


@cache
def _limits_of(profile: str) -> Limits:
    chosen = load_profile(profile)
    return chosen.frames_per_category, chosen.limit


def _limits(cell: Mapping[str, Any]) -> Limits | None:
    """As the record's rule says; None where it is no rule of ours."""
    if cell["subset"] == "all":
        return None, None
    found = SUBSET.fullmatch(cell["subset"])
    if found is None:
        return None
    category, total = (int(number) if number else None for number in found.groups())
    return category, total


def _bits(cell: Mapping[str, Any]) -> str:
    return f"w{cell['w_bits']}a{cell['a_bits']}"
