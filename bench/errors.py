"""Mistakes in what was asked for. The command line prints their one-line message and exits with code 2."""

from __future__ import annotations

from importlib import import_module

EXIT_OK = 0
EXIT_FAILED_CELLS = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class BenchError(ValueError):
    """The request cannot be met; the message is one line: what, where, what was expected, what to try."""


class StoreError(BenchError):
    """A run folder cannot be read or written."""


class CellTimeout(BaseException):
    """A cell ran past the time it was given. No ``Exception``: it may strike where those are caught for a reason."""


_OTHER_PACKAGES = (
    ("selective_focus.quantization.config", "ConfigurationError"),
    ("datasets.errors", "DatasetError"),
    ("lane_models.checkpoint", "CheckpointError"),
    ("bench.metrics.errors", "MetricError"),
)


def bad_input_errors() -> tuple[type[Exception], ...]:
    """The exception types that mean bad input, in every package of the benchmark."""
    return (BenchError, *(getattr(import_module(module), name) for module, name in _OTHER_PACKAGES))


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch says that memory, of the machine or of the accelerator, ran out."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__ == "OutOfMemoryError"
            or "out of memory" in words
            or "can't allocate memory" in words
        )
    )
