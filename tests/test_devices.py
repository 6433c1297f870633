"""A network on one device and its heads on another: nothing of ours is made on the CPU by habit.

The device "meta" stands in for an accelerator: PyTorch refuses to mix it with the CPU just the same.
"""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

import lane_models
from selective_focus import Heads, LaneDetector
from selective_focus.quantization.bias import mean_outputs, shift_bias

PRIORS = ("laneatt", "clrnet")


def heads_of(detector: LaneDetector) -> Heads:
    """Heads of noise."""
    x = torch.rand(1, 3, *detector.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return detector.heads(x)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("place", ["heads", "model"])
def test_lanes_are_where_the_heads_are(name: str, place: str) -> None:
    detector = lane_models.untrained(name, "synthetic")
    heads = heads_of(detector)
    lane_xs = import_module(f"lane_models.{name}.decode").lane_xs
    expected = lane_xs(heads, detector.model)
    if place == "heads":
        found = lane_xs({key: head.to("meta") for key, head in heads.items()}, detector.model)
        assert (found.device.type, found.shape) == ("meta", expected.shape)
    elif torch.cuda.is_available():
        detector.model.to("cuda")
        assert torch.equal(lane_xs(heads, detector.model), expected)
        assert detector.decode(heads)
    else:
        pytest.skip("needs a CUDA device: buffers of the device meta hold no values that could be moved")


def test_bias_correction_stays_on_the_network_s_device() -> None:
    layer = nn.Linear(2, 3, bias=False, device="meta")
    model = nn.Sequential(layer)
    means = mean_outputs(model, ["0"], [torch.empty(4, 2, device="meta")])
    assert means["0"].device.type == "meta"
    shift_bias(layer, torch.zeros(3, dtype=torch.float64, device="meta"))
    assert layer.bias.device.type == "meta"
    assert layer.bias.dtype == torch.float32
