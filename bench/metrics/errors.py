"""Mistakes in what a metric was given."""


class MetricError(ValueError):
    """Lanes or settings that cannot be scored. The message is one line: what, the expectation, what to try."""
