"""C3 and C4: seconds, always of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.claims import paper_values
from bench.claims.accuracy import METHOD, difference
from bench.claims.evidence import Setting, Subject
from bench.claims.finding import Finding
from bench.claims.verdicts import MINUTES, SIMILAR, Verdict, judge, judge_bar
from bench.statistics import Interval, mean_of, mean_ratio

REFERENCE = "qdrop"
"""The block-wise method that Selective Focus shares all else with: what is learned, and the dropping."""


@dataclass(frozen=True)
class TimeToReach:
    """Seconds until a setting of Selective Focus is as accurate as QDrop; None where none of them is."""

    subject: str
    bits: str
    qdrop_s: float
    seconds: float | None
    label: str


def speed(subject: Subject) -> Iterator[Finding]:
    """C3: seconds of every block-wise method against those of the network-wise one, and the F1 that goes with them."""
    for bits in subject.bits:
        network = subject.find(METHOD, bits)
        blocks = [s for s in subject.at(bits) if not s.ours and s.label == s.method and _unit(s) == "block"]
        for block in blocks if network is not None else []:
            assert network is not None
            yield _speed_up(subject, bits, network, block)
            yield _similar(subject, bits, network, block)


def _speed_up(subject: Subject, bits: str, network: Setting, block: Setting) -> Finding:
    """Seconds an iteration of a parameter: each moves in every iteration of the network, or of its block."""
    ours, theirs = network.seconds(subject.machine), block.seconds(subject.machine)
    seeds = sorted(set(ours) & set(theirs))
    steps = _iterations(network), _iterations(block)
    paper, measured = paper_values.speed_up(), None
    verdict: Verdict = "not tested"
    why = f"{subject.device}: no seed timed on one machine"
    if seeds and _batch(network) != _batch(block):
        why = f"batches of {_batch(network)} and {_batch(block)} images are not the same data an iteration"
    elif seeds:
        measured = mean_ratio([theirs[s] / steps[1] for s in seeds], [ours[s] / steps[0] for s in seeds])
        verdict, why = judge(measured, paper.value, no_effect=1)
        means = [sum(each[s] for s in seeds) / len(seeds) for each in (theirs, ours)]
        why += (
            f"; {means[0]:.1f} s block-wise, {means[1]:.1f} s network-wise on {subject.device}, "
            f"{steps[1]} and {steps[0]} iterations a parameter"
        )
    return Finding(
        "C3",
        f"seconds of {block.label} (block-wise) / seconds of selective-focus, an iteration of a parameter",
        f"time, {block.label}",
        subject.name,
        bits,
        subject.data,
        paper,
        measured,
        "ratio",
        verdict,
        why,
    )


def _similar(subject: Subject, bits: str, network: Setting, block: Setting) -> Finding:
    measured = difference(network, block)
    verdict, why = judge_bar(measured, -SIMILAR, 1, f"at most {SIMILAR:g} F1 point lower")
    return Finding(
        "C3",
        f"F1 of selective-focus less F1 of {block.label} (block-wise)",
        f"F1, {block.label}",
        subject.name,
        bits,
        subject.data,
        paper_values.IN_NOTES,
        measured,
        "F1 points",
        verdict,
        why,
    )


def minutes(subject: Subject) -> Iterator[Finding]:
    """C4: minutes of ranges and reconstruction together, on the device that measured them."""
    for bits in subject.bits:
        setting = subject.find(METHOD, bits)
        if setting is None:
            continue
        seconds = list(setting.seconds(subject.machine).values())
        measured = mean_of(seconds).scaled(1 / 60) if seconds else None
        verdict, why = _minutes_verdict(measured, subject)
        yield Finding(
            "C4",
            "minutes to quantize with selective-focus",
            "minutes",
            subject.name,
            bits,
            subject.data,
            paper_values.IN_WORDS,
            measured,
            "minutes",
            verdict,
            f"{subject.device}, {_iterations(setting)} iterations; {why}",
        )


def _minutes_verdict(measured: Interval | None, subject: Subject) -> tuple[Verdict, str]:
    if subject.device == "cpu":
        return "not tested", "the claim is about a GPU"
    return judge_bar(measured, MINUTES, -1, f"fewer than {MINUTES:g} minutes")


def time_to_reach(subject: Subject) -> list[TimeToReach]:
    """For each bit setting with QDrop: the fastest setting of Selective Focus (any label) that has QDrop's mean F1.

    The seconds are those of a whole run of that setting: the more budgets were run, the closer to the truth.
    """
    rows = []
    for bits in subject.bits:
        qdrop = subject.find(REFERENCE, bits)
        theirs = _mean_seconds(qdrop, subject.machine) if qdrop is not None else None
        if qdrop is None or theirs is None:
            continue
        reached = [
            (seconds, setting.label)
            for setting in subject.at(bits)
            if setting.ours
            and setting.f1.estimate >= qdrop.f1.estimate
            and (seconds := _mean_seconds(setting, subject.machine)) is not None
        ]
        seconds, label = min(reached, default=(None, ""))
        rows.append(TimeToReach(subject.name, bits, theirs, seconds, label))
    return rows


def _mean_seconds(setting: Setting, machine: str) -> float | None:
    seconds = list(setting.seconds(machine).values())
    return sum(seconds) / len(seconds) if seconds else None


def _unit(setting: Setting) -> str:
    return str(setting.options.get("reconstruction", {}).get("unit", ""))


def _iterations(setting: Setting) -> int:
    return int(setting.options.get("reconstruction", {}).get("iterations", 0))


def _batch(setting: Setting) -> int:
    return int(setting.options.get("reconstruction", {}).get("batch_size", 0))
