"""All claims on all the evidence."""

from __future__ import annotations

from itertools import chain

from bench.claims import accuracy, heads, timing
from bench.claims.evidence import Evidence
from bench.claims.finding import CLAIMS, Finding, PaperValue


def examine(evidence: Evidence) -> list[Finding]:
    """Findings in the order of the claims; a claim that nothing was found for is there with its reason."""
    subjects = evidence.subjects
    found = [
        *accuracy.gains(subjects),
        *chain.from_iterable(map(accuracy.ablations, subjects)),
        *chain.from_iterable(map(timing.speed, subjects)),
        *chain.from_iterable(map(timing.minutes, subjects)),
        *heads.noise(evidence.noise),
        *chain.from_iterable(map(heads.sensitivities, subjects)),
        *accuracy.predictions(subjects),
        *accuracy.families(subjects),
        *accuracy.advances(subjects),
    ]
    missing = set(CLAIMS) - {finding.claim for finding in found}
    found += [_untested(claim) for claim in missing]
    return sorted(found, key=lambda finding: finding.claim)


def _untested(claim: str) -> Finding:
    why = "no cells of selective-focus with what it is compared with among these runs"
    return Finding(claim, CLAIMS[claim], "", "all", "", "", PaperValue(), None, "", "not tested", why)
