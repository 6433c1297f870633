"""The one seam of the library: a model that gives named head tensors, and a decode that turns them into lanes.

Quantization touches ``model`` only; lane distortion, sensitivity and accuracy look through ``decode``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Heads = dict[str, Tensor]
"""Raw outputs of a network, by meaning. Every tensor has the batch as its first dimension."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lane:
    """One detected or annotated lane.

    points: [P, 2] float64, x and y in pixels of the original image, in the order the detector gives them.
    score: the detector's confidence in 0..1 (1 for annotations).
    """

    points: FloatArray
    score: float = 1.0

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"a lane's points must have shape [P, 2], not {list(points.shape)}")
        object.__setattr__(self, "points", points)


class MatMul(nn.Module):
    """A matrix product of two activations (attention), as a module so that both its inputs can be quantized."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """left [..., n, k] and right [..., k, m] give [..., n, m]."""
        return left @ right


class LaneDetector(ABC):
    """What every method needs to know of a lane detector. Subclass it to quantize a detector of your own.

    Set in ``__init__``:
        name, variant       words for tables
        model               [N, 3, H, W] -> Heads; a plain ``nn.Module`` in eval mode
        input_size          (H, W) of the network's input
        image_size          (H, W) of the camera frame that ``decode`` speaks of when it is not told another

    Optional declarations (class or instance attributes):
        confidence_heads        heads that say *whether* a lane is there; they keep a small weight in the background
        output_layers           names in ``model`` of the layers that produce the heads (kept at 8 bits);
                                empty: the last layer that runs
        reconstruction_blocks   names in ``model`` of the blocks that block-wise methods reconstruct, each called
                                once per forward; layers outside them become units of their own
        class_axes              heads of class logits: the dimension of the classes (softmax), or None where every
                                logit is a yes or no (sigmoid); read by methods that compare probabilities
    """

    name: str
    variant: str
    model: nn.Module
    input_size: tuple[int, int]
    image_size: tuple[int, int] = (590, 1640)
    confidence_heads: frozenset[str] = frozenset()
    output_layers: tuple[str, ...] = ()
    reconstruction_blocks: tuple[str, ...] = ()
    class_axes: Mapping[str, int | None] = {}

    @abstractmethod
    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """A camera frame [h, w, 3] uint8 in OpenCV's colour order, of any size -> network input [3, H, W]."""

    def heads(self, x: Tensor) -> Heads:
        """Network input [N, 3, H, W] -> named raw outputs, batch first."""
        heads: Heads = self.model(x)
        return heads

    @abstractmethod
    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Raw outputs -> the lanes of each of the N images, in pixels of a frame of ``image_size`` (H, W)."""

    @abstractmethod
    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where the lanes are, in the network's own opinion (the proxy of Semantic Guided Focus).

        For each head a detached weight in [0, 1] that broadcasts against that head's tensor.
        """

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Where the lanes run, differentiably, for methods that compare lanes rather than heads; None: not known.

        Coordinates in pixels of ``image_size`` and a weight in [0, 1] for each, without gradient, of the same
        shape [N, ...]; 0 where there is no lane.
        """
        return None

    def detect(self, x: Tensor, image_size: tuple[int, int] | None = None) -> list[list[Lane]]:
        """Network input [N, 3, H, W] -> lanes of each image."""
        with torch.inference_mode():
            return self.decode(self.heads(x), image_size)


@dataclass
class QuantizationLog:
    """What happened while a detector was quantized. Everything in it is plain data (see ``to_dict``)."""

    method: str
    bits: str
    config: dict[str, Any]
    """The resolved configuration: enough to run the same again."""
    reconstruction_s: float = 0.0
    """Seconds for ranges and reconstruction together, without loading images and without looking."""
    looking_s: float = 0.0
    """Seconds for measuring the learned states (``kept_state``): the loss on all calibration images, and with
    "best-lds" the lanes of the held-back ones."""
    iterations: int = 0
    """Optimizer steps, summed over units."""
    peak_memory_mb: float = 0.0
    units: list[dict[str, Any]] = field(default_factory=list)
    """One entry a reconstructed unit: "unit" (its name), "iterations", "seconds", "looking_seconds", losses, what each
    look found, "unsettled_roundings" (a share)."""
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    """Selective Focus only: {"iteration": int, "scores": {head: px}, "active": [head, ...], "measured": bool}."""
    caches: list[dict[str, Any]] = field(default_factory=list)
    """Block-wise methods: the memory that each phase's cached activations were estimated to take, and the plan."""
    focused_ranges: int = 0
    """Activation ranges that were found by importance; the others, if any, by the plain search."""
    equalised_inputs: int = 0
    """Layers whose input is divided channel by channel before it is quantized."""
    float_operations: list[str] = field(default_factory=list)
    """Parameterised or product layers that were left in floating point."""

    def to_dict(self) -> dict[str, Any]:
        """The log as plain data, ready for JSON."""
        return dict(vars(self))
