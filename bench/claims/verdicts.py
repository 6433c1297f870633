"""When a claim counts as reproduced."""

from __future__ import annotations

from typing import Literal

from bench.statistics import Interval

Verdict = Literal["reproduced", "partly", "not reproduced", "not tested"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "partly", "not reproduced", "not tested")
SEEDS_NEEDED = 3
CELLS_NEEDED = 10
RANK_BAR = 0.5
SIMILAR = 1.0
"""F1 points that a faster method may lose and still be as accurate."""
MINUTES = 60.0
LEAST_SHARE = 0.5
"""Of an equal share of the sensitivity: below it a head is one that the lanes hardly feel."""

RULES = f"""\
Every measured value has a 95 % interval. For F1 it is a paired bootstrap over test frames, joined with Student's t over
seeds (`bench/statistics.py`); for seconds and sensitivities, Student's t over seeds; for noise, over images; for rank
correlations, a bootstrap over settings. With fewer than {SEEDS_NEEDED} seeds a value is shown, but the claim counts as
**not tested**.

- **reproduced**: the whole interval lies on the claimed side of "no effect", and the paper's number, where there is a
  readable one for this setting, does not lie beyond its far end.
- **partly**: the whole interval lies on the claimed side, but the effect is smaller than the paper's number, or a
  second condition of the claim does not hold.
- **not reproduced**: the interval reaches "no effect", or lies on the other side.
- **not tested**: cells, seeds or measurements are missing; the reason is given.

"No effect" is a difference of 0 F1 points (C1, C2, C8, P1) or 0 px (C5), or a ratio of 1 (C3). Four claims need a bar
of our own:

- *similar accuracy* (C3): an F1 at most {SIMILAR:g} point lower;
- *minutes* (C4): fewer than {MINUTES:g} on one GPU; on any other device the claim is not tested;
- *heads differ* (C6): the least sensitive head has less than {LEAST_SHARE:g} of an equal share of the sensitivity;
- *LDS predicts F1* (C7): the whole interval of the rank correlation is above {RANK_BAR:g}; partly when it is above 0;
  from {CELLS_NEEDED} settings on, each the mean over its seeds.

Every row stands for itself, at 95 %, uncorrected for their number: of a hundred true "no effects" a few pass. Rows "in
context" are not counted in the summary. Seeds vary batches and dropping; weights, calibration images and test frames
are the same in all.

A paper cell that nobody could read stays empty and is judged by its direction alone. The paper's status is "verified"
(abstract, Figure 1) or "inferred" (secondary notes). The paper measured CULane with official weights: what was measured
here stands in the column "data". Accuracy from other code, weights, data or metric versions is left out and never
averaged, timings of other machines likewise; what was left out is listed at the end.
"""


def judge(
    measured: Interval | None,
    paper: float | None = None,
    *,
    no_effect: float = 0.0,
    sign: int = 1,
    size: bool = True,
) -> tuple[Verdict, str]:
    """The verdict on an effect and the reason, by ``RULES``.

    paper: the paper's number in the unit of ``measured``; None where it is unreadable.
    sign: 1 when the claim is "more than ``no_effect``", -1 when it is "less".
    size: whether the paper's number is for this setting, so that its size can be compared.
    """
    lacking = _lacking(measured)
    if measured is None or measured.low is None or measured.high is None or lacking:
        return "not tested", lacking
    near, far = sorted(sign * (end - no_effect) for end in (measured.low, measured.high))
    if near <= 0:
        words = "the interval includes no effect" if far >= 0 else "the effect is the opposite"
        return "not reproduced", words
    if paper is None or not size:
        return "reproduced", "direction only"
    if sign * (paper - no_effect) > far:
        return "partly", "the direction holds, the effect is smaller than the paper's"
    return "reproduced", "the direction holds, and the interval reaches the paper's number"


def judge_bar(measured: Interval | None, bar: float, sign: int, words: str) -> tuple[Verdict, str]:
    """The verdict on a value that has to be beyond a bar of our own (``sign`` 1: above, -1: below)."""
    lacking = _lacking(measured)
    if measured is None or measured.low is None or measured.high is None or lacking:
        return "not tested", lacking
    if min(sign * (end - bar) for end in (measured.low, measured.high)) > 0:
        return "reproduced", words
    if max(sign * (end - bar) for end in (measured.low, measured.high)) > 0:
        return "not reproduced", f"the interval includes the bar of {bar:g}"
    return "not reproduced", f"not beyond the bar of {bar:g}"


def with_condition(verdict: Verdict, holds: Verdict) -> Verdict:
    """The verdict on an effect that counts only beside a second condition, whose own verdict is ``holds``."""
    if holds == "not tested" or verdict == "not tested":
        return "not tested"
    return "partly" if verdict == "reproduced" and holds != "reproduced" else verdict


def _lacking(measured: Interval | None) -> str:
    if measured is None:
        return "no cells to compare"
    if measured.seeds < SEEDS_NEEDED:
        seeds = "one seed" if measured.seeds == 1 else f"{measured.seeds} seeds"
        return f"{seeds} only; {SEEDS_NEEDED} needed"
    return "" if measured.low is not None else "no interval"


def judge_rank(measured: Interval | None) -> tuple[Verdict, str]:
    """The verdict on a rank correlation over cells."""
    lacking = _lacking(measured)
    if measured is None or measured.low is None or measured.high is None or lacking:
        return "not tested", lacking
    if measured.low > RANK_BAR:
        return "reproduced", f"the whole interval is above {RANK_BAR:g}"
    if measured.low > 0:
        return "partly", f"above 0, but the interval reaches below {RANK_BAR:g}"
    return "not reproduced", "the interval includes no correlation"
