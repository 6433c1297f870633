"""Synthetic road scenes with exact labels, in CULane's layout and its nine test categories."""

from .layout import DEFAULT_COUNTS, ensure, frames_on_disk, write
from .render import VERSION, render
from .scene import CATEGORIES, SPLITS, Scene, sample_scene
from .sheet import contact_sheet
from .workers import end_with_parent

__all__ = [
    "CATEGORIES",
    "DEFAULT_COUNTS",
    "SPLITS",
    "VERSION",
    "Scene",
    "contact_sheet",
    "end_with_parent",
    "ensure",
    "frames_on_disk",
    "render",
    "sample_scene",
    "write",
]
