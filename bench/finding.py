"""One line of what the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """ok: as it should be. note: worth knowing, stops nothing. BAD: something will fail; the text says what to do."""

    level: Literal["ok", "note", "BAD"]
    text: str

    @property
    def line(self) -> str:
        """As the terminal shows it."""
        return f"{self.level:<4} {self.text}"


def good(text: str) -> Finding:
    """As it should be."""
    return Finding("ok", text)


def note(text: str) -> Finding:
    """Worth knowing."""
    return Finding("note", text)


def bad(text: str) -> Finding:
    """Something will fail."""
    return Finding("BAD", text)


def good_if(fine: bool, text: str, advice: str = "") -> Finding:
    """ok or BAD, with the advice if BAD."""
    return good(text) if fine else bad(text + advice)
