"""Records of one or several runs, sorted into what may be compared, and words for what may not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.cells import canonical_json
from bench.errors import BenchError
from bench.noise import HeadNoise, read_all
from bench.same_code import known_code
from bench.statistics import FrameCounts, Interval, mean_f1
from bench.store import Record, Result, RunFolder
from bench.table import method_rank

_WHAT = ("detector", "variant", "dataset", "subset", "device")
"""Cells that agree in these are about the same thing; only one version of it is judged."""
_VERSION = ("weights_digest", "data_digest", "code", "metric")
_CALIBRATION = ("calibration_images", "calibration", "calibration_digest")


@dataclass(frozen=True)
class Setting:
    """One method or label at one bit setting: its seeds, all with the same options."""

    label: str
    method: str
    w_bits: int
    a_bits: int
    records: dict[int, Record]
    """By seed."""

    @property
    def bits(self) -> str:
        return f"W{self.w_bits}A{self.a_bits}"

    @property
    def options(self) -> dict[str, Any]:
        """The resolved settings: "quantization", and where the method has them "reconstruction" and "options"."""
        return dict(next(iter(self.records.values())).cell["settings"])

    @property
    def learns(self) -> bool:
        return "reconstruction" in self.options

    @property
    def ours(self) -> bool:
        """Whether this is Selective Focus, a variation of it, or holds a part of ours, and so is no baseline."""
        return self.is_selective_focus or self.ranges_for_lanes or self.equalisation > 0

    @property
    def is_selective_focus(self) -> bool:
        return self.method.startswith("selective-focus")

    @property
    def ranges(self) -> tuple[str, str, float]:
        """How its activations' ranges are found, what they are searched for, and how far channels are equalised."""
        found = self.options.get("quantization", {})
        return found.get("activation_range", ""), found.get("activation_importance", ""), self.equalisation

    @property
    def equalisation(self) -> float:
        """How far channels are brought together before they are quantized."""
        return float(self.options.get("quantization", {}).get("activation_equalisation", 0.0))

    @property
    def ranges_for_lanes(self) -> bool:
        """Whether its ranges were searched for the lanes, which draws from the seed."""
        return self.options.get("quantization", {}).get("activation_importance") == "lanes"

    @cached_property
    def counts(self) -> FrameCounts:
        """Per-frame counts; a method that learns nothing and draws nothing does not depend on the seed."""
        frames = {seed: result_of(record).frames for seed, record in self.records.items()}
        return FrameCounts.of_frames(frames, any_seed=not (self.learns or self.ranges_for_lanes))

    @cached_property
    def f1(self) -> Interval:
        return mean_f1(self.counts)

    def seconds(self, machine: str) -> dict[int, float]:
        """Seconds of ranges and reconstruction by seed, of the cells measured on one machine."""
        return {
            seed: record.timing["reconstruction_s"]
            for seed, record in self.records.items()
            if record.machine == machine and "reconstruction_s" in record.timing
        }


@dataclass(frozen=True)
class Subject:
    """One detector on one set of frames: settings of the same weights, data, calibration, code and metric."""

    detector: str
    variant: str
    weights: str
    dataset: str
    images: int
    settings: tuple[Setting, ...]
    full_precision: Record | None

    @property
    def name(self) -> str:
        return self.detector if self.variant == "synthetic" else f"{self.detector} {self.variant}"

    @property
    def frames_digest(self) -> str:
        """Equal for subjects on the same test frames and device."""
        cell = next(iter(self.settings[0].records.values())).cell if self.settings else {}
        return canonical_json([cell.get(name) for name in ("dataset", "data_digest", "subset", "device")])

    @property
    def data(self) -> str:
        """Words for what was measured."""
        return f"{self.dataset}, {self.images} frames, {self.weights} weights"

    @property
    def bits(self) -> list[str]:
        """The bit settings, most bits first."""
        return list(dict.fromkeys(setting.bits for setting in self.settings))

    def at(self, bits: str) -> list[Setting]:
        return [setting for setting in self.settings if setting.bits == bits]

    def find(self, label: str, bits: str) -> Setting | None:
        """The setting of a method or label."""
        return next((setting for setting in self.at(bits) if setting.label == label), None)

    def ranges_of(self, label: str, bits: str) -> tuple[str, str, float] | None:
        """Those of a method or label, if it is there."""
        setting = self.find(label, bits)
        return None if setting is None else setting.ranges

    @property
    def full_f1(self) -> float | None:
        """F1 in full precision, 0..1."""
        return None if self.full_precision is None else result_of(self.full_precision).f1

    def is_destroyed(self, setting: Setting) -> bool:
        """Whether a setting keeps less than half of full precision's F1: differences to it mean little."""
        return self.full_f1 is not None and setting.f1.estimate < 0.5 * self.full_f1

    @property
    def machine(self) -> str:
        """The machine that measured most cells: seconds of others are left out."""
        found = Counter(r.machine for s in self.settings for r in s.records.values())
        return found.most_common(1)[0][0] if found else ""

    @property
    def device(self) -> str:
        """Words for the device of that machine."""
        every = (r for s in self.settings for r in s.records.values())
        return next((str(r.environment.get("device", "")) for r in every if r.machine == self.machine), "")


@dataclass(frozen=True)
class Evidence:
    """What the claims are judged by."""

    subjects: tuple[Subject, ...]
    noise: tuple[HeadNoise, ...]
    left_out: tuple[str, ...]


def gather(folders: Sequence[Path]) -> Evidence:
    """The evidence of runs: each folder is one (``records/`` in it) or holds some.

    Raises BenchError when a folder holds no run.
    """
    runs = [run for folder in folders for run in runs_in(folder)]
    found = [record for run in runs for record in RunFolder(run).records()]
    found.sort(key=lambda record: (record.status == "done", record.finished))
    records = {record.key: record for record in found}  # of copies the newest that is done
    noise = tuple(found for run in runs for found in read_all(run))
    subjects, left_out = subjects_of(records.values())
    return Evidence(subjects, noise, left_out)


def runs_in(folder: Path) -> list[Path]:
    """The run folders at or right below a folder."""
    candidates = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    runs = [p for p in candidates if any(p.glob("records/*.json")) or any(p.glob("noise/*.json"))]
    if not runs:
        raise BenchError(f"{folder}: no records of a run there; start one with python -m bench run")
    return runs


def subjects_of(records: Iterable[Record]) -> tuple[tuple[Subject, ...], tuple[str, ...]]:
    """Subjects by detector, and a line for everything that was left out and why."""
    by_subject: dict[str, list[Record]] = defaultdict(list)
    notes: list[str] = []
    unfinished, without_frames = 0, 0
    for record in records:
        if record.status != "done" or record.result is None:
            unfinished += 1
        elif not {"fp", "fn"} <= set(record.result.frames):
            without_frames += 1
        else:
            by_subject[_values(record, _WHAT)].append(record)
    if unfinished:
        notes.append(f"{unfinished} cells without a score (failed, skipped or interrupted)")
    if without_frames:
        notes.append(f"{without_frames} cells whose records hold no counts of each frame")
    subjects = [_subject(group, notes) for group in by_subject.values()]
    return tuple(sorted(subjects, key=lambda s: (s.dataset, s.detector, s.variant))), tuple(notes)


def _subject(records: list[Record], notes: list[str]) -> Subject:
    """The version with most cells (of equal ones, the newest) and its calibration with most cells."""
    name = f"{records[0].cell['detector']} {records[0].cell['variant']} on {records[0].cell['dataset']}"
    kept = _largest(records, _VERSION, f"{name}: other code, weights, data or metric", notes)
    full = [record for record in kept if record.cell["method"] == "fp32"]
    quantized = [record for record in kept if record.cell["method"] != "fp32"]
    quantized = _largest(quantized, _CALIBRATION, f"{name}: other calibration images", notes)
    by_setting: dict[str, list[Record]] = defaultdict(list)
    for record in quantized:
        by_setting[_values(record, ("method", "w_bits", "a_bits"))].append(record)
    settings = []
    for group in by_setting.values():
        words = f"{name}: {group[0].cell['method']} with other options"
        settings.append(_setting(_largest(group, ("settings",), words, notes)))
    settings.sort(key=lambda s: (-s.w_bits, -s.a_bits, method_rank(s.label), s.label))
    first = kept[0].cell
    subject = Subject(
        **{name: first[name] for name in ("detector", "variant", "weights", "dataset", "images")},
        settings=tuple(settings),
        full_precision=full[0] if full else None,
    )
    moved = sum(r.machine != subject.machine for s in settings for r in s.records.values())
    if moved:
        notes.append(
            f"{name}: seconds of {moved} cells measured on another machine, or with other threads or processes"
        )
    return subject


def _setting(records: Sequence[Record]) -> Setting:
    cell = records[0].cell
    return Setting(
        cell["method"],
        method_of(records[0]),
        cell["w_bits"],
        cell["a_bits"],
        {r.cell["seed"]: r for r in sorted(records, key=lambda r: (r.cell["seed"], r.finished))},
    )


def _largest(records: list[Record], names: Sequence[str], words: str, notes: list[str]) -> list[Record]:
    """Of records that differ in ``names``, the largest group that agrees; a note for the others."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[_values(record, names)].append(record)
    if len(groups) < 2:
        return records
    kept = max(groups.values(), key=lambda group: (len(group), max(record.finished for record in group)))
    notes.append(f"{words}: {len(records) - len(kept)} cells")
    return kept


def method_of(record: Record) -> str:
    """The method behind a record's label."""
    return str(record.cell.get("base_method") or record.cell["method"])


def result_of(record: Record) -> Result:
    """The result of a finished record."""
    assert record.result is not None
    return record.result


def _values(record: Record, names: Iterable[str]) -> str:
    return canonical_json(
        [known_code(record.cell) if name == "code" else record.cell[name] for name in names]
    )
