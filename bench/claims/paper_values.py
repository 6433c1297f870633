"""The paper's numbers behind each claim, from ``bench/paper/claims.csv``; a cell nobody could read stays empty."""

from __future__ import annotations

from functools import cache

from bench.claims.finding import PaperValue
from bench.paper import paper_f1, rows

BASELINES = ("ACIQ", "OMSE", "AdaRound", "BRECQ", "QDrop")
IN_WORDS = PaperValue(None, "verified, in words")
IN_NOTES = PaperValue(None, "inferred, in words")


@cache
def claim(metric: str, method: str = "") -> PaperValue:
    """The first row whose metric (and method, if given) begins like this."""
    for row in rows("claims"):
        if row["metric"].startswith(metric) and row["method"].startswith(method) and row["value"].strip():
            return PaperValue(float(row["value"]), row["status"])
    return PaperValue()


def best_gain() -> PaperValue:
    """F1 points that Selective Focus gains at most, over the paper's models."""
    return claim("F1 gain on CULane")


def gain(detector: str, w_bits: int, a_bits: int) -> PaperValue:
    """F1 points of one model, where someone typed the cells of Selective Focus and of all baselines."""
    ours, status = paper_f1(detector, "selective-focus", w_bits, a_bits, "culane")
    others = [paper_f1(detector, name, w_bits, a_bits, "culane")[0] for name in BASELINES]
    known = [value for value in others if value is not None]
    if ours is None or len(known) < len(others):
        return PaperValue()
    return PaperValue(100 * (ours - max(known)), status)


def without(half: str) -> PaperValue:
    """F1 points that the method changes by without a half of it; the paper's model is unknown."""
    words = {"SGF": "without Semantic Guided Focus", "SAS": "without Sensitivity Aware Selection"}
    return claim("F1 change", f"Selective Focus {words[half]}") if half in words else PaperValue()


def speed_up() -> PaperValue:
    """Seconds block-wise / seconds network-wise."""
    return claim("speed-up factor")


def least_share(detector: str) -> PaperValue:
    """K times the least head's share of the scores in Figure 1, whose head names are CondLaneNet's."""
    scores = [
        (float(row["value"]), row["status"])
        for row in rows("claims")
        if row["metric"].startswith("score printed")
    ]
    total = sum(value for value, _ in scores)
    if detector != "condlanenet" or not total:
        return PaperValue()
    value, status = min(scores)
    return PaperValue(len(scores) * value / total, status)
