"""Selective Focus Plus: Selective Focus with its loss on what the heads decode to. Ours, not the paper's.

    loss = a sum over class heads of KL(full precision || quantized)      where lanes are, and a little elsewhere
         + b Huber of the decoded x in pixels                             along the lanes
         + c the focused loss of Selective Focus                          (also ends of lanes, and what has no decoding)

Class heads and decoded x are what the detector declares (``class_axes``, ``geometry``); a detector that declares
neither has Selective Focus's loss alone. Before, the channels of convolutions' inputs are brought half-way together
(``quantization/equalise.py``), and ranges are searched each activation weighed by what it does to the heads
where lanes are (``lane_importance.py``). The rest, from dropping to learning the step sizes, is Selective Focus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from selective_focus.detector import Heads
from selective_focus.job import QuantizationJob
from selective_focus.lane_distortion import DELTA, REFERENCE_SIZE
from selective_focus.lane_loss import class_divergence, lane_displacement
from selective_focus.method import HeadReconstruction, SelectiveFocusOptions, reconstruct_heads
from selective_focus.methods import Method
from selective_focus.quantization.config import ConfigurationError


@dataclass(frozen=True)
class PlusOptions(SelectiveFocusOptions):
    """Those of Selective Focus, and the shares of the three terms.

    class_weight, lane_weight, head_weight: a, b and c above.
    delta: of the Huber distance, in pixels of a frame 1640 wide; of LDS by default.
    """

    selection: bool = False
    class_weight: float = 1.0
    lane_weight: float = 1.0
    head_weight: float = 0.3
    delta: float = DELTA

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (self.class_weight, self.lane_weight, self.head_weight)
        if min(weights) < 0 or max(weights) == 0 or self.delta <= 0:
            raise ConfigurationError(
                f"class_weight, lane_weight, head_weight = {weights}, delta={self.delta}: expected weights of at "
                f"least 0, one of them positive, and a positive delta"
            )


class LaneReconstruction(HeadReconstruction):
    """The network as one unit: the loss over the heads' probabilities, the lanes' x, and the heads themselves."""

    def __init__(self, job: QuantizationJob, options: PlusOptions) -> None:
        super().__init__(job, options)
        self.weights = options
        self.delta = options.delta * job.detector.image_size[1] / REFERENCE_SIZE[1]
        self.class_axes = {
            name: axis for name, axis in job.detector.class_axes.items() if options.class_weight > 0
        }
        some = {name: head[:1] for name, head in self.reference.items()}
        self.has_lanes = options.lane_weight > 0 and job.detector.geometry(some) is not None

    def batch_loss(self, quantized: Heads, index: Tensor, head_weights: Mapping[str, float] | None) -> Tensor:
        """The three terms for the heads of the calibration images ``index``."""
        plain = not self.class_axes and not self.has_lanes
        share = 1.0 if plain else self.weights.head_weight
        total = share * super().batch_loss(quantized, index, head_weights)
        for name, axis in self.class_axes.items():
            weight = self.foreground[name][index]
            if self.options.focus and name in self.job.detector.confidence_heads:
                weight = weight + self.options.epsilon
            divergence = class_divergence(quantized[name], self.reference[name][index], weight, axis)
            total = total + self.weights.class_weight * divergence
        if self.has_lanes:
            total = total + self.weights.lane_weight * self._displacement(quantized, index)
        return total

    def _displacement(self, quantized: Heads, index: Tensor) -> Tensor:
        geometry = self.job.detector.geometry
        expected = geometry({name: head[index] for name, head in self.reference.items()})
        found = geometry(quantized)
        assert expected is not None
        assert found is not None
        return lane_displacement(found[0], *expected, self.delta)


def run(job: QuantizationJob) -> None:
    """Ranges by a search for the lanes, then the joint reconstruction of what the heads decode to."""
    reconstruct_heads(job, LaneReconstruction(job, job.options))


METHOD = Method(
    "selective-focus-plus",
    "Selective Focus with its loss on lane probabilities and decoded x, inputs equalised, ranges where the lanes are",
    run,
    source="ours; see docs/method.md",
    quantization={"activation_importance": "lanes", "activation_equalisation": 0.5},
    reconstruction={"unit": "network", "keep_probability": 0.5},
    options=PlusOptions,
)
