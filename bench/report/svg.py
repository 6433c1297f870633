"""Drawn figures as a part of the page: they scale, take its light or dark colours, and speak."""

from __future__ import annotations

import re
from html import escape

from bench.colours import COLOURS
from bench.plot_style import GRID, INK

THEMED = {
    INK: "currentColor",
    GRID: "var(--grid)",
    COLOURS["fp32"].lower(): "var(--fp32)",
    COLOURS["bias-correction"].lower(): "var(--bias)",
}
"""Colours of figures that would be lost on one of the page's two backgrounds."""


def for_page(content: bytes, name: str, alt: str) -> str:
    """The <svg> element of a figure file, with ids that no other figure on the page has."""
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])
    head = f'<svg role="img" aria-label="{escape(alt)}" style="--drawn:{width * 4 / 3:.0f}px" '
    text = re.sub(r'width="[\d.]+pt"|height="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", head, 1)
