"""C5 and C6: what the heads of a detector mean to its lanes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from bench.claims import paper_values
from bench.claims.accuracy import METHOD
from bench.claims.evidence import Setting, Subject
from bench.claims.finding import Finding
from bench.claims.verdicts import LEAST_SHARE, Verdict, judge, judge_bar
from bench.noise import HeadNoise
from bench.statistics import Interval, mean_of

JUDGED_LEVEL = 0.3
"""Of the levels of noise the one that the claim is judged by; the others are context."""


def sensitivities(subject: Subject) -> Iterator[Finding]:
    """C6: the least sensitive head's share of all sensitivity over the run, 1 where all heads are equal."""
    for bits in subject.bits:
        setting = subject.find(METHOD, bits)
        scores = {} if setting is None else scores_of(setting)
        if setting is None or not scores:
            continue
        means = {head: sum(values) / len(values) for head, values in scores.items()}
        measured = least_share(scores)
        verdict, why = judge_bar(measured, LEAST_SHARE, -1, f"less than {LEAST_SHARE:g} of an equal share")
        each = ", ".join(f"{head} {value:.2f}" for head, value in means.items())
        yield Finding(
            "C6",
            "share of the least sensitive head, of an equal share",
            "least head",
            subject.name,
            bits,
            subject.data,
            paper_values.least_share(subject.detector),
            measured,
            "of 1/K",
            verdict,
            f"{why}; s_k in px: {each}; heads were dropped in {drops(setting)} of {len(setting.records)} seeds",
        )


def scores_of(setting: Setting) -> dict[str, list[float]]:
    """Sensitivity of each head in px, the mean of the measurements of each seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in setting.records.values():
        measured = [entry for entry in record.log.get("sensitivity", []) if entry.get("measured", True)]
        for head in measured[0]["scores"] if measured else []:
            found[head].append(sum(float(entry["scores"][head]) for entry in measured) / len(measured))
    return dict(found)


def least_share(scores: Mapping[str, Sequence[float]]) -> Interval | None:
    """K times the share of the head that is least sensitive on the mean; its interval over seeds."""
    if len(scores) < 2:
        return None
    least = min(scores, key=lambda head: sum(scores[head]))
    totals = [sum(values) for values in zip(*scores.values(), strict=True)]
    if not all(totals):
        return None
    return mean_of([len(scores) * s / total for s, total in zip(scores[least], totals, strict=True)])


def drops(setting: Setting) -> int:
    """Seeds in which selection dropped a head at some time."""
    return sum(
        any(len(entry["active"]) < len(entry["scores"]) for entry in record.log.get("sensitivity", []))
        for record in setting.records.values()
    )


def noise(measurements: Sequence[HeadNoise]) -> Iterator[Finding]:
    """C5: LDS of noise on a head's foreground less that of noise of equal norm on its background, over images.

    A difference, because no lane hangs on the background of most geometry heads: a ratio would be x / 0.
    """
    if not measurements:
        yield _of_noise(
            "all", "", "", None, "not tested", "no measurements among these runs; python -m bench noise"
        )
    for found in measurements:
        for head, sides in found.heads.items():
            pairs = zip(sides.foreground, sides.background, strict=True)
            measured = mean_of([one - other for one, other in pairs])
            verdict, why = judge(measured)
            both = f"foreground {fmean(sides.foreground):.2f} px, background {fmean(sides.background):.2f} px"
            row = _of_noise(found.words, found.data, head, measured, verdict, f"{both}; {why}")
            yield replace(row, in_context=found.level != JUDGED_LEVEL)


def _of_noise(
    subject: str, data: str, head: str, measured: Interval | None, verdict: Verdict, why: str
) -> Finding:
    return Finding(
        "C5",
        f"LDS of noise on the foreground less that on the background of {f'head {head}' if head else 'a head'}",
        head or "foreground",
        subject,
        "",
        data,
        paper_values.claim("LDS ratio"),
        measured,
        "px",
        verdict,
        why,
    )
