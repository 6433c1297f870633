"""C1, C2, C7, C8 and P1: differences of F1, and whether lane distortion predicts its loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.claims import paper_values
from bench.claims.evidence import Setting, Subject, result_of
from bench.claims.finding import Finding, PaperValue
from bench.claims.verdicts import CELLS_NEEDED, judge, judge_rank
from bench.statistics import Interval, mean_difference, paired_difference, shared_seeds, spearman

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
class Loss:
    """What C7 looks at: lane distortion in px and F1 points lost to full precision, means over a setting's seeds."""

    label: str
    seeds: int
    lds: float
    loss: float


def difference(one: Setting, other: Setting) -> Interval | None:
    """F1 points of ``one`` less those of ``other``; None without a seed in common."""
    if not shared_seeds([one.counts, other.counts]):
        return None
    return paired_difference(one.counts, other.counts).scaled(100)


def best_baseline(subject: Subject, bits: str, varied: bool = False) -> Setting | None:
    """The baseline of highest mean F1, chosen on the very frames it is compared on: at the method's expense.

    varied: labels that stand for a baseline with other options count as well.
    """
    return _best(s for s in subject.at(bits) if not s.ours and (varied or s.label == s.method))


def _best(settings: Iterable[Setting]) -> Setting | None:
    return max(settings, key=lambda setting: setting.f1.estimate, default=None)


def gains(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C1: one row a detector and bit setting, and one for the best detector at W4A4, for the paper's number."""
    for subject in subjects:
        yield from _gains_of(subject)
        yield from _gains_from_equal_ranges(subject)
    yield from _largest_gain(subjects)


def _gains_from_equal_ranges(subject: Subject) -> Iterator[Finding]:
    """In context: labels that start Selective Focus from other ranges, against baselines of that kind."""
    for bits in subject.bits:
        for ours in (s for s in subject.at(bits) if s.method == METHOD and s.label != METHOD):
            others = (s for s in subject.at(bits) if not s.is_selective_focus and s.ranges == ours.ranges)
            best = _best(others)
            if best is None or ours.ranges == subject.ranges_of(METHOD, bits):
                continue
            measured = difference(ours, best)
            verdict, why = judge(measured)
            yield Finding(
                "C1",
                f"F1 of {ours.label} less that of {best.label}, from ranges of the same kind",
                f"{ours.label.removeprefix(METHOD)[1:]}, less {best.label}",
                subject.name,
                bits,
                subject.data,
                PaperValue(),
                measured,
                "F1 points",
                verdict,
                why,
                in_context=True,
            )


def _largest_gain(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """The surest gain at W4A4 of the detectors whose method keeps at least half of full precision."""
    kept = [
        finding
        for subject in subjects
        if (ours := subject.find(METHOD, "W4A4")) and not subject.is_destroyed(ours)
        for finding in _gains_of(subject)
        if finding.bits == "W4A4" and finding.measured is not None and finding.verdict != "not tested"
    ]
    best = max(kept, key=lambda f: f.measured.low or 0.0 if f.measured else 0.0, default=None)
    paper = paper_values.best_gain()
    verdict, why = judge(best.measured if best else None, paper.value)
    yield Finding(
        "C1",
        "the surest F1 gain over the best baseline, of all detectors that keep half of their F1",
        "surest gain",
        "best of all" if best is None else f"{best.subject} (best)",
        "W4A4",
        best.data if best else "",
        paper,
        best.measured if best else None,
        "F1 points",
        verdict,
        f"{why}; the surest of {len(kept)}, chosen afterwards, so its interval promises too much",
        in_context=True,
    )


def _gains_of(subject: Subject, method: str = METHOD) -> Iterator[Finding]:
    claim = "C1" if method == METHOD else "P1"
    for bits in subject.bits:
        ours, best = subject.find(method, bits), best_baseline(subject, bits, varied=method == PLUS)
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
            in_context=claim == "C1" and bits != "W4A4",
        )


def advances(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """P1: what our own method gains over the best baseline, by the same rules."""
    for subject in subjects:
        yield from _gains_of(subject, PLUS)


def families(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C8: the mean gain over the best baselines in each family of detectors, and whether every family gains."""
    by_data: dict[str, list[Subject]] = defaultdict(list)
    for subject in subjects:
        by_data[subject.frames_digest].append(subject)
    for own in by_data.values():
        data = "; ".join(sorted({subject.data for subject in own}))
        for bits in dict.fromkeys(bits for subject in own for bits in subject.bits):
            found = [
                finding
                for family, members in FAMILIES.items()
                if (finding := _family_gain(family, [s for s in own if s.detector in members], bits))
            ]
            if found:
                yield from found
                yield _every_family(found, bits, data)


def _family_gain(family: str, members: Sequence[Subject], bits: str) -> Finding | None:
    pairs = {
        subject.name: (ours.counts, best.counts)
        for subject in members
        if (ours := subject.find(METHOD, bits)) and (best := best_baseline(subject, bits))
    }
    if not pairs:
        return None
    shared = shared_seeds([counts for pair in pairs.values() for counts in pair])
    measured = mean_difference(list(pairs.values())).scaled(100) if shared else None
    verdict, why = judge(measured)
    return Finding(
        "C8",
        f"mean gain of {METHOD} over the best baseline, {family} models",
        family,
        ", ".join(pairs),
        bits,
        members[0].data,
        paper_values.IN_NOTES,
        measured,
        "F1 points",
        verdict,
        why,
        in_context=True,
    )


def _every_family(found: Sequence[Finding], bits: str, data: str) -> Finding:
    """As good as the family whose gain is least sure; not tested while one is missing."""
    tested = [f for f in found if f.measured is not None and f.verdict != "not tested"]
    worst = min(tested, key=lambda f: f.measured.low or 0.0 if f.measured else 0.0, default=None)
    missing = [name for name in FAMILIES if name not in {f.short for f in tested}]
    if worst is None or (missing and worst.verdict == "reproduced"):
        verdict, why = judge(None)[0], f"no three seeds of the {' and '.join(missing)} family"
    else:
        verdict, why = worst.verdict, f"the {worst.short} family is least sure to gain: {worst.why}"
    return Finding(
        "C8",
        f"the mean gain of {METHOD} in the family where it is least sure",
        "least family",
        worst.subject if worst else "all",
        bits,
        data,
        paper_values.IN_NOTES,
        worst.measured if worst else None,
        "F1 points",
        verdict,
        why,
    )


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
            verdict, why = judge(measured, paper.value, sign=-1, size=False)
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


def losses_of(subject: Subject, bits: str | None = None) -> list[Loss]:
    """Every quantized setting, or those at one bit setting; none without full precision."""
    full = subject.full_f1
    if full is None:
        return []
    found = []
    for setting in subject.settings:
        results = [result_of(record) for record in setting.records.values()]
        f1 = [result.f1 for result in results if result.f1 is not None]
        if f1 and bits in (None, setting.bits):
            lds = sum(result.lds for result in results) / len(results)
            found.append(Loss(setting.label, len(f1), lds, 100 * (full - sum(f1) / len(f1))))
    return found


def predictions(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """C7: correlation of LDS and F1 loss over a detector's settings; in context, at one bit setting and over all."""
    if len(subjects) > 1:
        data = "; ".join(sorted({subject.data for subject in subjects}))
        every = [loss for subject in subjects for loss in losses_of(subject)]
        yield replace(_prediction("all", "all", data, every), in_context=True)
    for subject in subjects:
        yield _prediction(subject.name, "all", subject.data, losses_of(subject))
        for bits in subject.bits:
            yield replace(
                _prediction(subject.name, bits, subject.data, losses_of(subject, bits)), in_context=True
            )


def _prediction(name: str, bits: str, data: str, losses: Sequence[Loss]) -> Finding:
    found = None
    if len(losses) >= CELLS_NEEDED:
        found = spearman([loss.lds for loss in losses], [loss.loss for loss in losses])
    if found is not None:
        found = replace(found, seeds=max(loss.seeds for loss in losses))
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
        f"{len(losses)} settings{needed}; {why}",
    )
