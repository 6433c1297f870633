"""The paper's claims put to the test on the records of finished runs: ``python -m bench claims``. Nothing runs again.

C1  F1 gain over the best baseline               C5  noise hurts more on the foreground of a head
C2  both halves of the method are needed         C6  heads differ in how sensitive the lanes are to them
C3  network-wise is faster than block-wise       C7  the Lane Distortion Score predicts F1
C4  minutes to quantize                          C8  every family of detectors gains
P1  F1 gain of our own selective-focus-plus

How a verdict comes about is said in ``verdicts.py``; the same text opens the Markdown.
"""

from bench.claims.evidence import Evidence, gather
from bench.claims.examine import examine
from bench.claims.finding import Finding

__all__ = ["Evidence", "Finding", "examine", "gather"]
