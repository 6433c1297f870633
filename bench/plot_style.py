"""The one look of every figure: sizes and letters of a two-column paper, and the formats that figures are saved in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.colours import colour_of, label_of, marker_of
from bench.whole_file import write_whole

COLUMN, PAGE = 3.4, 7.0
"""Inches: one column, and the full width of a paper. Letters are 6 to 9 points at that size."""
DPI = 200
INK = "#1b1b1c"
GRID = "#d9d9dc"
LETTERS_PER_INCH = 15
"""Of a headline."""
LEGEND_LETTERS_PER_INCH = 13
FORMATS = ("png", "svg", "pdf")
LONGEST_NAME = 120
"""Letters of a figure's name; file systems end at 255 bytes."""
_STYLE = {
    **{"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False},
    **{"font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8},
    **{"figure.titlesize": 9, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7.5},
    **{"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK},
    **{"axes.edgecolor": GRID, "grid.color": GRID, "grid.linewidth": 0.6, "axes.linewidth": 0.8},
    **{"lines.linewidth": 1.2, "lines.markersize": 4, "patch.linewidth": 0.4, "legend.frameon": False},
    **{"xtick.major.pad": 2, "ytick.major.pad": 2, "axes.titlepad": 4},
    # a $ in a name is a $, no formula
    **{"text.parse_math": False},
    # letters stay letters: files are small, can be searched, and take the reader's colours
    **{"svg.fonttype": "none", "svg.hashsalt": "selective-focus", "pdf.fonttype": 42},
}


@dataclass(frozen=True)
class Plot:
    """A figure that records allow: its name as a file, what it says in words, and how to draw it.

    Names come from records, which may be anybody's: every one becomes a ``file_name``.
    """

    name: str
    kind: str
    """What it belongs to: "f1", "lds-f1", "time-f1", "bits-f1", "cost", "categories", "sensitivity", ..."""
    alt: str
    """What there is to see, with its numbers, for those who cannot see it."""
    draw: Callable[[], Figure]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", file_name(self.name))


def file_name(words: str) -> str:
    """Words as the name of a file and the beginning of an id: of A-Z a-z 0-9 . _ - alone, with no dot in front.

    Words that cannot stay as they are get digits of their digest, so that different ones stay different.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", words).lstrip(".")[:LONGEST_NAME]
    if name and name == words:
        return name
    digest = hashlib.sha256(words.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}-{digest}"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Everything that is drawn in this block has the one look."""
    with sns.axes_style("whitegrid"), plt.rc_context(_STYLE):
        yield


def encoded(plot: Plot, formats: Sequence[str] = ("png",)) -> dict[str, bytes]:
    """The figure in each format, without a date, so that equal records make equal files."""
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    files = {}
    with style():
        figure = plot.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for all formats
        for name in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, dpi=DPI, metadata=dates[name], transparent=name == "svg")
            files[name] = buffer.getvalue()
        plt.close(figure)
    return files


def save(plots: Sequence[Plot], folder: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes every figure into a folder; gives the paths."""
    written = []
    for plot in plots:
        for name, content in encoded(plot, formats).items():
            written.append(folder / f"{plot.name}.{name}")
            write_whole(written[-1], content)
    return written


def headline(figure: Figure, words: str) -> None:
    """The title above a figure, in as many lines as its width asks for."""
    figure.suptitle(textwrap.fill(words, int(figure.get_figwidth() * LETTERS_PER_INCH)))


def method_legend(figure: Figure, methods: Sequence[str], extra: Sequence[Line2D] = ()) -> None:
    """One legend of methods below all panels, instead of labels that could cover each other."""
    look = {"linestyle": "", "markeredgecolor": INK, "markeredgewidth": 0.4, "markersize": 5.5}
    handles = [
        Line2D([], [], color=colour_of(m), marker=marker_of(m), label=label_of(m), **look) for m in methods
    ]
    legend_below(figure, [*handles, full_precision_handle(), *extra])


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """A legend in as many columns as its words leave room for."""
    longest = max(len(str(handle.get_label())) for handle in handles) + 5
    columns = max(1, int(figure.get_figwidth() * LEGEND_LETTERS_PER_INCH / longest))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def full_precision_handle() -> Line2D:
    return Line2D([], [], color=colour_of("fp32"), linestyle="--", linewidth=1, label="FP32")
