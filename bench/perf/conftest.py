"""Prints what the benchmarks measured besides milliseconds: ratios, goals, frames a second."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """A line a benchmark, as ``make perf`` shows it; ``--benchmark-json FILE`` keeps the same numbers."""
    session = getattr(config, "_benchmarksession", None)
    measured = [bench for bench in getattr(session, "benchmarks", []) if bench.extra_info]
    if measured:
        terminalreporter.section("ratios and rates")
    for bench in measured:
        words = ", ".join(
            f"{name.replace('_', ' ')} {_text(value)}" for name, value in bench.extra_info.items()
        )
        terminalreporter.write_line(f"{bench.name.removeprefix('test_')}: {words}")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
