"""C1, C2, C7, C8 and P1: differences of F1, and whether lane distortion predicts its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.claims import paper_values
from bench.claims.evidence import Setting, Subject, result_of
from bench.claims.finding import Finding, PaperValue
from bench.claims.verdicts import CELLS_NEEDED, judge, judge_rank
from bench.statistics import Interval, paired_difference, shared_seeds, spearman

METHOD = "selective-focus"
PLUS = "selective-focus-plus"
NOT_THE_PAPERS = PaperValue(None, "not the paper's")
FAMILIES = {
    "keypoint": ("condlanenet", "ganet"),
    "anchor": ("clrnet", "laneatt"),
    "curve": ("bezierlanenet", "lstr"),
    "segmentation": ("scnn", "resa"),
}
"""The paper's families, by our detectors."""
HALVES = {
    "SGF": {"focus": False, "selection": True},
    "SAS": {"focus": True, "selection": False},
    "both": {"focus": False, "selection": False},
}


@dataclass(frozen=True)
class QuantizedCell:
    """What C7 looks at: lane distortion in px and the F1 points lost to full precision."""

    label: str
    seed: int
    lds: float
    loss: float


def difference(one: Setting, other: Setting) -> Interval | None:
    """F1 points of ``one`` less those of ``other``; None without a seed in common."""
    if not shared_seeds([one.counts, other.counts]):
        return None
    return paired_difference(one.counts, other.counts).scaled(100)


def best_baseline(subject: Subject, bits: str) -> Setting | None:
    """The baseline of highest mean F1, chosen on the very frames it is compared on: at the method's expense."""
    baselines = [setting for setting in subject.at(bits) if not setting.ours]
    return max(baselines, key=lambda setting: setting.f1.estimate, default=None)


def gains(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C1: one row a detector and bit setting, and one for the best detector at W4A4."""
    found = [finding for subject in subjects for finding in _gains_of(subject)]
    yield from found
    at_w4a4 = [f for f in found if f.bits == "W4A4" and f.measured is not None]
    best = max(at_w4a4, key=lambda f: f.measured.estimate if f.measured else 0.0, default=None)
    paper = paper_values.best_gain()
    verdict, why = judge(best.measured if best else None, paper.value)
    yield Finding(
        "C1",
        "largest F1 gain over the best baseline, of all detectors",
        "largest gain",
        "best of all" if best is None else f"{best.subject} (best)",
        "W4A4",
        best.data if best else "",
        paper,
        best.measured if best else None,
        "F1 points",
        verdict,
        why,
    )


def _gains_of(subject: Subject, method: str = METHOD) -> Iterator[Finding]:
    claim = "C1" if method == METHOD else "P1"
    for bits in subject.bits:
        ours, best = subject.find(method, bits), best_baseline(subject, bits)
        if ours is None:
            continue
        measured = None if best is None else difference(ours, best)
        paper = NOT_THE_PAPERS
        if method == METHOD:
            paper = paper_values.gain(subject.detector, ours.w_bits, ours.a_bits)
        verdict, why = judge(measured, paper.value)
        name = "the best baseline" if best is None else best.label
        yield Finding(
            claim,
            f"F1 of {method} less that of {name}",
            f"gain, {name}",
            subject.name,
            bits,
            subject.data,
            paper,
            measured,
            "F1 points",
            verdict,
            why,
        )


def advances(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """P1: what our own method gains over the best baseline, by the same rules."""
    for subject in subjects:
        yield from _gains_of(subject, PLUS)


def families(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C8: the mean gain over the best baselines in each family of detectors, a row a bit setting and method."""
    for method in (METHOD, PLUS):
        for family, members in FAMILIES.items():
            own = [subject for subject in subjects if subject.detector in members]
            for bits in dict.fromkeys(bits for subject in own for bits in subject.bits):
                yield from _family_gain(family, own, bits, method)


def _family_gain(family: str, own: Sequence[Subject], bits: str, method: str) -> Iterator[Finding]:
    gains = {
        subject.name: gain
        for subject in own
        if (ours := subject.find(method, bits)) and (best := best_baseline(subject, bits))
        if (gain := difference(ours, best))
    }
    if gains:
        measured = mean_of(list(gains.values()))
        verdict, why = judge(measured)
        yield Finding(
            "C8",
            f"mean gain of {method} over the best baseline, {family} models",
            f"{family}{'' if method == METHOD else ', plus'}",
            ", ".join(gains),
            bits,
            own[0].data,
            paper_values.IN_NOTES if method == METHOD else NOT_THE_PAPERS,
            measured,
            "F1 points",
            verdict,
            why,
        )


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent estimates; half widths add up as their squares do, on each side."""
    estimate = sum(each.estimate for each in intervals) / len(intervals)
    seeds = min(each.seeds for each in intervals)
    ends: list[float | None] = []
    for side in ("low", "high"):
        reach = [getattr(each, side) for each in intervals]
        if None in reach:
            return Interval(estimate, None, None, seeds)
        squares = ((end - each.estimate) ** 2 for end, each in zip(reach, intervals, strict=True))
        spread = sum(squares) ** 0.5 / len(intervals)
        ends.append(estimate - spread if side == "low" else estimate + spread)
    return Interval(estimate, *ends, seeds)


def ablations(subject: Subject) -> Iterator[Finding]:
    """C2: the method without a half of it; variants are recognised by their options, whatever their label."""
    for bits in subject.bits:
        full = subject.find(METHOD, bits)
        if full is None or "options" not in full.options:
            continue
        for half, changes in HALVES.items():
            wanted = {**full.options, "options": {**full.options["options"], **changes}}
            without = next((s for s in subject.at(bits) if s.ours and s.options == wanted), None)
            measured = None if without is None else difference(without, full)
            paper = paper_values.without(half)
            verdict, why = judge(measured, paper.value, sign=-1)
            words = "either half" if half == "both" else half
            yield Finding(
                "C2",
                f"F1 without {words} less F1 of the whole method",
                f"without {half}",
                subject.name,
                bits,
                subject.data,
                paper,
                measured,
                "F1 points",
                verdict,
                f"{why}; the paper's model is unknown" if paper.value is not None else why,
            )


def cells_of(subject: Subject, bits: str | None = None) -> list[QuantizedCell]:
    """Every quantized cell, or those at one bit setting; none without full precision."""
    full = None if subject.full_precision is None else result_of(subject.full_precision).f1
    if full is None:
        return []
    cells = []
    for setting in subject.settings:
        for seed, record in setting.records.items():
            result = result_of(record)
            if result.f1 is not None and bits in (None, setting.bits):
                cells.append(QuantizedCell(setting.label, seed, result.lds, 100 * (full - result.f1)))
    return cells


def predictions(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C7: rank correlation of LDS and F1 loss over all cells, a detector's, and those at one bit setting."""
    if len(subjects) > 1:
        data = "; ".join(sorted({subject.data for subject in subjects}))
        yield _prediction("all", "all", data, [cell for subject in subjects for cell in cells_of(subject)])
    for subject in subjects:
        yield _prediction(subject.name, "all", subject.data, cells_of(subject))
        for bits in subject.bits:
            cells = cells_of(subject, bits)
            if len(cells) >= CELLS_NEEDED:
                yield _prediction(subject.name, bits, subject.data, cells)


def _prediction(name: str, bits: str, data: str, cells: Sequence[QuantizedCell]) -> Finding:
    found = None
    if len(cells) >= CELLS_NEEDED:
        found = spearman([cell.lds for cell in cells], [cell.loss for cell in cells])
    if found is not None:
        found = replace(found, seeds=len({cell.seed for cell in cells}))
    verdict, why = judge_rank(found)
    needed = "" if found is not None else f" beside full precision, {CELLS_NEEDED} needed"
    return Finding(
        "C7",
        "Spearman's rank correlation of LDS and F1 loss",
        "LDS, F1 loss",
        name,
        bits,
        data,
        paper_values.claim("rank correlation"),
        found,
        "rho",
        verdict,
        f"{len(cells)} cells{needed}; {why}",
    )
