"""C3 and C4: seconds, always of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.claims import paper_values
from bench.claims.accuracy import METHOD, PLUS, difference
from bench.claims.evidence import Setting, Subject
from bench.claims.finding import Finding
from bench.claims.verdicts import MINUTES, SIMILAR, Verdict, judge, judge_bar, with_condition
from bench.statistics import Interval, mean_of, mean_ratio

REFERENCE = "qdrop"
"""The block-wise method that Selective Focus shares all else with: what is learned, and the dropping."""


@dataclass(frozen=True)
class TimeToReach:
    """Seconds until a method of ours is as accurate as QDrop; None where none of its settings is."""

    subject: str
    bits: str
    method: str
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
            similar = _similar(subject, bits, network, block)
            faster = _speed_up(subject, bits, network, block)
            yield replace(faster, verdict=with_condition(faster.verdict, similar.verdict))
            yield similar


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
        verdict, why = judge(measured, paper.value, no_effect=1, size=False)
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
    if subject.is_destroyed(block):
        verdict, why = "not tested", "the block-wise method keeps less than half of full precision"
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
        in_context=True,
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
    """For each bit setting with a QDrop that works: the fastest setting of each method of ours that has its F1.

    On the seeds that both have, timed alike; a method without such a seed has no row. The seconds are those of a whole
    run of that setting: the more budgets were run, the closer to the truth.
    """
    rows = []
    for bits in subject.bits:
        qdrop = subject.find(REFERENCE, bits)
        if qdrop is None or subject.is_destroyed(qdrop) or not qdrop.seconds(subject.machine):
            continue
        theirs = qdrop.seconds(subject.machine)
        for method in (METHOD, PLUS):
            own = [setting for setting in subject.at(bits) if setting.method == method]
            settings = [setting for setting in own if setting.seconds(subject.machine).keys() & theirs.keys()]
            reached = [found for setting in settings if (found := _reached(subject, setting, qdrop))]
            seconds, label, qdrop_s = min(reached, default=(None, "", sum(theirs.values()) / len(theirs)))
            if settings:
                rows.append(TimeToReach(subject.name, bits, method, qdrop_s, seconds, label))
    return rows


def _reached(subject: Subject, setting: Setting, qdrop: Setting) -> tuple[float, str, float] | None:
    """Seconds, label and QDrop's seconds on the seeds of both, if the setting has QDrop's F1 there."""
    gain = difference(setting, qdrop)
    ours, theirs = setting.seconds(subject.machine), qdrop.seconds(subject.machine)
    seeds = sorted(set(ours) & set(theirs))
    if gain is None or gain.estimate < 0 or not seeds:
        return None
    return sum(ours[s] for s in seeds) / len(seeds), setting.label, sum(theirs[s] for s in seeds) / len(seeds)


def _unit(setting: Setting) -> str:
    return str(setting.options.get("reconstruction", {}).get("unit", ""))


def _iterations(setting: Setting) -> int:
    return int(setting.options.get("reconstruction", {}).get("iterations", 0))


def _batch(setting: Setting) -> int:
    return int(setting.options.get("reconstruction", {}).get("batch_size", 0))
