"""C5 and C6: what the heads of a detector mean to its lanes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.claims import paper_values
from bench.claims.accuracy import METHOD
from bench.claims.evidence import Setting, Subject
from bench.claims.finding import Finding
from bench.claims.verdicts import LEAST_SHARE, judge, judge_bar
from bench.statistics import Interval, mean_of, mean_ratio


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


def noise(measurements: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """C5: LDS of noise on a head's foreground / LDS of noise of equal norm on its background, over seeds."""
    if not measurements:
        yield Finding(
            "C5",
            "LDS of noise on the foreground / on the background of a head",
            "fore/background",
            "all",
            "",
            "",
            paper_values.claim("LDS ratio"),
            None,
            "ratio",
            "not tested",
            "no measurement of noise on heads among these runs; python -m bench noise",
        )
    for entry in measurements:
        for head, sides in entry["heads"].items():
            pairs = list(zip(sides["foreground"], sides["background"], strict=True))
            positive = [(one, other) for one, other in pairs if one > 0 and other > 0]
            measured = mean_ratio(*map(list, zip(*positive, strict=True))) if positive else None
            verdict, why = judge(measured, None, no_effect=1)
            if len(positive) < len(pairs):
                why += (
                    f"; {len(pairs) - len(positive)} of {len(pairs)} seeds left out, one side moves no lane"
                )
            yield Finding(
                "C5",
                f"LDS of noise on the foreground / on the background of head {head}",
                head,
                entry["detector"],
                "",
                entry["data"],
                paper_values.claim("LDS ratio"),
                measured,
                "ratio",
                verdict,
                why,
            )
