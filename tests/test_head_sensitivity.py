"""Sensitivity of heads on a detector so small that every lane can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from selective_focus.detector import Heads, Lane, LaneDetector
from selective_focus.head_sensitivity import head_sensitivity
from selective_focus.lane_distortion import sample_rows


class TwoLanes(LaneDetector):
    """Upright lanes on rows 590..500: head ``x`` [N, L] says where, ``score`` [N, L] > 0 whether."""

    name, variant = "two lanes", "test"
    input_size = (8, 8)
    confidence_heads = frozenset({"score"})

    def __init__(self) -> None:
        self.model = nn.Identity()
        self.decoded = 0

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        raise NotImplementedError

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        self.decoded += 1
        height, width = image_size or self.image_size
        y = height / 590 * np.arange(590.0, 499, -10)
        return [
            [
                Lane(np.stack([np.full(10, float(x) * width / 1640), y], axis=1))
                for x, score in zip(xs, scores, strict=True)
                if score > 0
            ]
            for xs, scores in zip(heads["x"], heads["score"], strict=True)
        ]


def heads(x: list[list[float]], score: list[list[float]]) -> Heads:
    return {
        "x": torch.tensor(x).float(),
        "score": torch.tensor(score).float(),
        "spare": torch.zeros(len(x), 3),
    }


FULL = heads([[400, 800], [300, 900]], [[1, 1], [1, -1]])
# image 0: both lanes move by 6 px, the second is lost; image 1: its lane moves by 2 px
QUANTIZED = heads([[406, 806], [302, 950]], [[1, -1], [1, -1]])


def test_swap_one_by_hand() -> None:
    # x alone: (6 + 2) / 2; score alone: image 0 loses 10 of 20 points, (15 + 0) / 2
    assert head_sensitivity(TwoLanes(), FULL, QUANTIZED) == pytest.approx({"x": 4, "score": 7.5, "spare": 0})


def test_leave_one_out_by_hand() -> None:
    # all: image 0 (10 x 6 + 10 x 30) / 20 = 18, image 1 2: mean 10
    # x restored: (15 + 0) / 2 = 7.5; score restored: (6 + 2) / 2 = 4
    scores = head_sensitivity(TwoLanes(), FULL, QUANTIZED, mode="leave-one-out")
    assert scores == pytest.approx({"x": 2.5, "score": 6.0, "spare": 0})


def test_alpha_scales_the_error() -> None:
    # half the error: x moves by 3 and 1 px, the lost lane's score falls to 0, which is still lost
    scores = head_sensitivity(TwoLanes(), FULL, QUANTIZED, alpha=0.5)
    assert scores == pytest.approx({"x": 2, "score": 7.5, "spare": 0})
    # a quarter of it: the score stays above 0
    scores = head_sensitivity(TwoLanes(), FULL, QUANTIZED, alpha=0.25)
    assert scores == pytest.approx({"x": 1, "score": 0, "spare": 0})


def test_no_error_no_sensitivity() -> None:
    for mode in ("swap-one", "leave-one-out"):
        assert set(head_sensitivity(TwoLanes(), FULL, FULL, mode=mode).values()) == {0.0}


def test_reference_lanes_spare_a_decode_and_change_nothing() -> None:
    detector = TwoLanes()
    lanes = detector.decode(FULL)
    expected = head_sensitivity(detector, FULL, QUANTIZED)
    detector.decoded = 0
    assert head_sensitivity(detector, FULL, QUANTIZED, reference_lanes=lanes) == expected
    assert detector.decoded == len(FULL)
    rows = [sample_rows(image) for image in lanes]
    assert head_sensitivity(detector, FULL, QUANTIZED, reference_lanes=rows) == expected


def test_pixels_are_those_of_the_frame_asked_for() -> None:
    scores = head_sensitivity(TwoLanes(), FULL, QUANTIZED, image_size=(295, 820))
    assert scores == pytest.approx({"x": 2, "score": 3.75, "spare": 0})
    assert head_sensitivity(TwoLanes(), FULL, QUANTIZED, delta=4.0)["x"] == pytest.approx(3)  # (4 + 2) / 2


def test_gradients_are_not_built_and_heads_not_changed() -> None:
    quantized = {name: head.clone().requires_grad_() for name, head in QUANTIZED.items()}
    before = {name: head.clone() for name, head in FULL.items()}
    head_sensitivity(TwoLanes(), FULL, quantized, alpha=0.5)
    assert all(torch.equal(FULL[name], before[name]) for name in FULL)
    assert all(head.grad is None for head in quantized.values())


def test_refusals_name_the_value() -> None:
    detector = TwoLanes()
    with pytest.raises(ValueError, match="swap-one, leave-one-out, not 'both'"):
        head_sensitivity(detector, FULL, QUANTIZED, mode="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], not 0"):
        head_sensitivity(detector, FULL, QUANTIZED, alpha=0)
    with pytest.raises(ValueError, match="must be the full-precision ones"):
        head_sensitivity(detector, FULL, {"x": FULL["x"]})
    with pytest.raises(ValueError, match=r"head 'x' has shape \[2, 2\] in full precision but \[1, 2\]"):
        head_sensitivity(detector, FULL, {**QUANTIZED, "x": QUANTIZED["x"][:1]})
    with pytest.raises(ValueError, match="at least one head"):
        head_sensitivity(detector, {}, {})
    with pytest.raises(ValueError, match="1 references and 2 others"):
        head_sensitivity(detector, FULL, QUANTIZED, reference_lanes=[[]])
