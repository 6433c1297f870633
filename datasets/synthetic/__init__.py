"""Synthetic road scenes with exact labels, in CULane's layout and its nine test categories."""

from .layout import DEFAULT_COUNTS, ensure, write
from .render import VERSION, render
from .scene import CATEGORIES, SPLITS, Scene, sample_scene
from .sheet import contact_sheet

__all__ = [
    "CATEGORIES",
    "DEFAULT_COUNTS",
    "SPLITS",
    "VERSION",
    "Scene",
    "contact_sheet",
    "ensure",
    "render",
    "sample_scene",
    "write",
]
