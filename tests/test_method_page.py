"""docs/method.md must name every option of Selective Focus with the default that the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from selective_focus.method import SelectiveFocusOptions
from selective_focus.plus import PlusOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "method.md"


def documented_defaults() -> dict[str, str]:
    """Option -> default as the tables print it; a row may hold several of both, separated by commas."""
    defaults: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 5 or not cells[1].startswith("`"):
            continue
        names = re.findall(r"`(\w+)`", cells[1])
        values = [value.strip(" `") for value in cells[2].split(", ")]
        defaults.update(zip(names, values, strict=False))
    return defaults


OPTIONS = {
    option.name: option
    for kind in (PlusOptions, SelectiveFocusOptions)
    for option in dataclasses.fields(kind)
}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_option_is_documented_with_its_default(option: dataclasses.Field[object]) -> None:
    printed = documented_defaults().get(option.name)
    assert printed is not None, f"docs/method.md lacks option {option.name!r} of SelectiveFocusOptions"
    default = option.default
    if isinstance(default, float):
        assert float(printed) == default
    else:
        expected = {None: "none"}.get(default, f'"{default}"' if isinstance(default, str) else str(default))
        assert printed == expected
