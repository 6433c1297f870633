"""One claim on one subject: the measured value and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from bench.claims.verdicts import Verdict
from bench.statistics import Interval

CLAIMS = {
    "C1": "Selective Focus gains F1 over the best baseline (W4A4)",
    "C2": "both halves are needed: F1 falls without focus (SGF) and without selection (SAS)",
    "C3": "network-wise reconstruction is faster than block-wise at similar F1",
    "C4": "quantizing takes minutes on one GPU",
    "C5": "noise of equal norm hurts more on the foreground of a head than on its background",
    "C6": "heads differ in how sensitive the lanes are to them",
    "C7": "the Lane Distortion Score predicts the loss of F1",
    "C8": "every family of detectors gains: keypoint, anchor, curve, segmentation",
    "P1": "selective-focus-plus, ours and not the paper's, gains F1 over the best baseline",
}


@dataclass(frozen=True)
class PaperValue:
    """What the paper says; ``value`` None where nobody could read a number."""

    value: float | None = None
    status: str = "unreadable"


@dataclass(frozen=True)
class Finding:
    """A row of the table of claims."""

    claim: str
    statement: str
    short: str
    """The statement in a word or two, for the terminal and the figure."""
    subject: str
    """The detector, or "all" of them."""
    bits: str
    data: str
    paper: PaperValue
    measured: Interval | None
    unit: str
    verdict: Verdict
    why: str
    in_context: bool = False
    """Not what the claim itself is judged by: other settings, parts of it, a row chosen afterwards."""
