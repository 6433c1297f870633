"""Ablations: readings of Selective Focus one option at a time, as named grids of a profile (``ablations.toml``).

A variant VARIANT of a grid runs as the label ``selective-focus-VARIANT``: the method with the options of the profile's
own table, and those of the variant. The unchanged method is in every grid, and what is compared are differences to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from bench.claims.accuracy import METHOD, difference
from bench.claims.evidence import Setting, Subject, result_of, subjects_of
from bench.errors import BenchError
from bench.profile import Profile
from bench.statistics import Interval, mean_of
from bench.store import Record, RunFolder
from bench.whole_file import write_whole

COLUMNS = (
    *("detector", "bits", "dataset", "images", "variant", "options", "seeds", "f1"),
    *("difference", "low", "high", "lds", "reconstruction_s"),
)


@dataclass(frozen=True)
class Variant:
    """One variant on one detector at one bit setting; F1 in percent, lane distortion in px, seconds."""

    subject: Subject
    bits: str
    name: str
    options: str
    """What differs from the unchanged method, in words; empty for itself."""
    f1: Interval
    difference: Interval | None
    """F1 points more than the unchanged method; None for itself, or without a seed in common."""
    lds: Interval
    seconds: Interval | None
    """None when the seeds were timed on another machine."""


def with_grids(profile: Profile, grids: Sequence[str]) -> Profile:
    """The profile with the unchanged method and the variants of the named grids as its methods.

    Raises BenchError for a grid that the profile does not have, or without a table for the method.
    """
    unknown = [grid for grid in grids if grid not in profile.grids]
    if unknown or not grids:
        known = ", ".join(profile.grids) or "none"
        raise BenchError(
            f"profile {profile.name}: no grid {unknown[0] if unknown else ''!r}; choose from: {known}"
        )
    if METHOD not in profile.methods:
        raise BenchError(f"profile {profile.name}: has grids, but no table [methods.{METHOD}] to vary")
    methods: dict[str, dict[str, Any]] = {
        name: profile.methods[name] for name in ("fp32", METHOD) if name in profile.methods
    }
    for grid in grids:
        for variant, options in profile.grids[grid].items():
            label = f"{METHOD}-{variant}"
            table = {**profile.methods[METHOD], **options, "method": METHOD}
            if methods.setdefault(label, table) != table:
                raise BenchError(
                    f"grid {grid}: variant {variant!r} has other options in another grid; rename it"
                )
    return Profile.model_validate({**profile.model_dump(), "methods": methods})


def compare(records: Iterable[Record]) -> tuple[list[Variant], tuple[str, ...]]:
    """Every setting of Selective Focus beside the unchanged one, and what was left out."""
    subjects, left_out = subjects_of(records)
    rows = []
    for subject in subjects:
        for bits in subject.bits:
            base = subject.find(METHOD, bits)
            ours = [setting for setting in subject.at(bits) if setting.method == METHOD]
            rows += [_variant(subject, setting, base) for setting in ours]
    return rows, left_out


def _variant(subject: Subject, setting: Setting, base: Setting | None) -> Variant:
    seconds = list(setting.seconds(subject.machine).values())
    changed = None if base is None or base is setting else difference(setting, base)
    return Variant(
        subject,
        setting.bits,
        setting.label.removeprefix(f"{METHOD}-"),
        "" if base is None else changes(base.options, setting.options),
        setting.f1.scaled(100),
        changed,
        mean_of([result_of(record).lds for record in setting.records.values()]),
        mean_of(seconds) if seconds else None,
    )


def changes(base: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The settings that differ, as "share=0.1, top_k=2"."""
    words = []
    for section, values in other.items():
        before = base.get(section, {})
        words += [f"{name}={value}" for name, value in values.items() if before.get(name) != value]
    return ", ".join(words)


def write(folder: RunFolder, rows: Sequence[Variant], left_out: Sequence[str]) -> None:
    """``ablation.csv`` and ``ablation.md`` of a run folder."""
    frame = pd.DataFrame([_csv_row(row) for row in rows], columns=list(COLUMNS))
    write_whole(
        folder.path / "ablation.csv",
        frame.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode(),
    )
    header = ["detector", "bits", "variant", "options", "seeds", "F1 %", "to the method", "LDS px", "seconds"]
    lines = [
        "# Readings of Selective Focus",
        "",
        "Differences are F1 points to the unchanged method, with 95 % intervals: a paired bootstrap over frames,",
        "joined with Student's t over seeds where there are several.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(_texts(row)) + " |" for row in rows),
        "",
        *sorted({f"- {row.subject.name}: {row.subject.data}; {row.subject.device}" for row in rows}),
        *(f"- left out: {note}" for note in left_out),
        "",
    ]
    write_whole(folder.path / "ablation.md", "\n".join(lines).encode())


def terminal(rows: Sequence[Variant]) -> Table:
    """The same in at most 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, title="Readings of Selective Focus", title_justify="left")
    for name in ("detector", "bits", "variant", "seeds", "F1 %", "to the method", "LDS px", "s"):
        table.add_column(name, justify="left" if name in ("detector", "bits", "variant") else "right")
    for row in rows:
        texts = _texts(row)
        table.add_row(*texts[:3], *texts[4:])
    return table


def _texts(row: Variant) -> list[str]:
    changed = row.difference
    words = "" if changed is None else f"{changed.estimate:+.2f}"
    if changed is not None and changed.low is not None and changed.high is not None:
        words += f" [{changed.low:+.2f}, {changed.high:+.2f}]"
    seconds = "" if row.seconds is None else f"{row.seconds.estimate:.1f}"
    numbers = [f"{row.f1.estimate:.2f}", words, f"{row.lds.estimate:.2f}", seconds]
    return [row.subject.name, row.bits, row.name, row.options, str(row.lds.seeds), *numbers]


def _csv_row(row: Variant) -> list[object]:
    changed = row.difference
    interval = [None] * 3 if changed is None else [changed.estimate, changed.low, changed.high]
    subject = row.subject
    return [
        *(subject.name, row.bits, subject.dataset, subject.images, row.name, row.options, row.lds.seeds),
        *(
            row.f1.estimate,
            *interval,
            row.lds.estimate,
            None if row.seconds is None else row.seconds.estimate,
        ),
    ]
