"""Synthetic road scenes with exact labels, in CULane's layout and its nine test categories."""

from .render import VERSION, render
from .scene import CATEGORIES, SPLITS, Scene, sample_scene

__all__ = ["CATEGORIES", "SPLITS", "VERSION", "Scene", "render", "sample_scene"]
