"""A cell: one detector, method, bit setting, data set and seed, with everything that decides its outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """Frozen and resolved. Cells with the same key have the same outcome, up to the machine's arithmetic."""

    detector: str
    variant: str
    weights: str
    """Words for tables: "embedded", or the name of the checkpoint file."""
    weights_digest: str
    method: str
    w_bits: int
    a_bits: int
    dataset: str
    data_digest: str
    images: int
    subset: str
    """The rule that chose the test frames."""
    calibration_images: int
    calibration: str
    """The rule that chose the calibration frames."""
    calibration_digest: str
    seed: int
    settings: Mapping[str, Any]
    """All options of the method, defaults filled in."""
    device: str
    code: str
    """Digest of the sources that decide the quantized network."""
    metric: str
    """Digest of the sources that decide the scores."""
    base_method: str = ""
    """The method behind a profile's label; empty where ``method`` is a method's own name."""

    @property
    def bits(self) -> str:
        return f"w{self.w_bits}a{self.a_bits}"

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all fields but the words for the weights, whose digest counts.

        A method's own name leaves ``base_method`` out as well, so that records from before there were labels count.
        """
        left_out = {"weights"} if self.base_method else {"weights", "base_method"}
        deciding = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        return hashlib.sha256(canonical_json(deciding).encode()).hexdigest()

    @property
    def label(self) -> str:
        seed = f" seed {self.seed}" if self.seed else ""
        bits = "" if self.method == "fp32" else f" {self.bits}"
        return f"{self.detector} {self.method}{bits}{seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return dataclasses.asdict(self)


def canonical_json(value: Any) -> str:
    """One text for equal data: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def digest_of_state(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and buffers, so file formats do not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def code_version(detector: str, project: Path = PROJECT) -> str:
    """Digest of the library, the baselines, this detector, the readers and PyTorch's version.

    Plots, tables and training losses do not count.
    """
    sources = [
        *_python_files(project / "selective_focus", leave_out=("export",)),
        *_python_files(project / "baselines"),
        *(project / "lane_models").glob("*.py"),
        *_python_files(project / "lane_models" / "backbones"),
        *(path for path in _python_files(project / "lane_models" / detector) if path.name != "loss.py"),
        *(project / "datasets").glob("*.py"),
    ]
    return digest_of_files(sources, project, f"torch {torch.__version__}")


@cache
def metric_version(project: Path = PROJECT) -> str:
    """Digest of the sources that turn lanes into scores, and of OpenCV's version, which draws the strokes."""
    sources = [
        *_python_files(project / "bench" / "metrics"),
        project / "bench" / "evaluate.py",
        project / "bench" / "scorers.py",
        project / "selective_focus" / "lane_distortion.py",
    ]
    return digest_of_files(sources, project, f"opencv {cv2.__version__}")


def digest_of_files(paths: Iterable[Path], project: Path, words: str = "") -> str:
    """SHA-256 over ``words``, and relative names and contents of files, line ends normalised."""
    digest = hashlib.sha256(words.encode())
    for path in sorted(set(paths)):
        digest.update(f"{path.relative_to(project).as_posix()}\n".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def _python_files(folder: Path, leave_out: tuple[str, ...] = ()) -> list[Path]:
    skipped = [folder / name for name in leave_out]
    return [path for path in folder.rglob("*.py") if not any(part in path.parents for part in skipped)]
