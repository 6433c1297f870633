"""Bias correction in lane space: on curves whose two coefficients cancel, and on a shift that is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy import ToyDetector

from selective_focus import Heads, quantize
from selective_focus.job import QuantizationJob
from selective_focus.lane_bias import lane_error, lane_shifts
from selective_focus.methods import Method, _registered, find
from selective_focus.quantization.config import ConfigurationError

ROWS = torch.linspace(0.4, 1.0, 7)
OUTPUTS = ("exists", "curves")


class CurveNet(nn.Module):
    """Four lanes x(y) = b2 y - b3 in parts of the width, and whether each is there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU()
        self.exists, self.curves = nn.Linear(8 * 4 * 8, 4), nn.Linear(8 * 4 * 8, 8)

    def forward(self, x: Tensor) -> Heads:
        features = self.relu(self.stem(x)).flatten(1)
        return {
            "existence": self.exists(features)[..., None],
            "curves": self.curves(features).unflatten(1, (4, 2)),
        }


class CurveDetector(ToyDetector):
    output_layers = OUTPUTS
    reconstruction_blocks = ()

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = CurveNet().eval()

    def foreground(self, heads: Heads) -> Heads:
        confidence = (20 * heads["existence"].detach()).sigmoid()
        return {"existence": confidence, "curves": confidence}

    def geometry(self, heads: Heads) -> tuple[Tensor, Tensor]:
        b2, b3 = heads["curves"][..., None].unbind(-2)
        x = (b2 * ROWS - b3) * self.image_size[1]
        return x, self.foreground(heads)["curves"].expand_as(x)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(37, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def error(detector: CurveDetector, images: Tensor) -> float:
    """Root mean square in pixels, over the lanes that full precision sees."""
    with torch.no_grad():
        (expected, weight), (found, _) = (d.geometry(d.heads(images)) for d in (CurveDetector(), detector))
    return float(((weight * (found - expected).square()).sum() / weight.sum()).sqrt())


def test_lanes_come_nearer_than_by_the_mean_of_coefficients(images: Tensor) -> None:
    errors = {}
    for space in ("heads", "lanes"):
        quantized, log = quantize(CurveDetector(), images, "bias-correction", "w4a4", space=space)
        assert log.config["options"] == {"space": space}
        errors[space] = error(quantized, images)
    nearest = error(
        quantize(CurveDetector(), images, "omse", "w4a4", weight_power=2.4, activation_power=2.4)[0], images
    )
    assert errors["lanes"] < errors["heads"] < nearest


def test_a_known_shift_is_found(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quantized network is full precision but for biases: they come back, and other channels keep the fallback."""
    moved = torch.tensor([0.3, 0.1, -0.2, 0.0, 0.05, 0.05, 0.0, -0.4])
    found = {}

    def run(job: QuantizationJob) -> None:
        job.model.curves.layer.bias.data += moved
        fallback = {"exists": torch.full((4,), 7.0), "curves": torch.zeros(8)}
        found.update(lane_shifts(job, fallback))
        assert lane_error(job, found) < 1e-6 * lane_error(job, fallback)

    monkeypatch.setitem(_registered, "known-shift", Method("known-shift", "", run))
    quantize(CurveDetector(), images, "known-shift", "w32a32")
    torch.testing.assert_close(found["curves"], -moved.double(), rtol=0, atol=1e-4)
    assert found["exists"].tolist() == [7.0] * 4, "existence moves no lane"


def test_where_lanes_cannot_be_improved_the_means_stay(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(job: QuantizationJob) -> None:
        fallback = {"exists": torch.zeros(4), "curves": torch.zeros(8)}
        assert lane_shifts(job, fallback) is fallback

    monkeypatch.setitem(_registered, "no-shift", Method("no-shift", "", run))
    quantize(CurveDetector(), images, "no-shift", "w32a32")


def test_a_detector_without_geometry_is_refused_in_one_line(images: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="declares no geometry; expected space='heads'") as caught:
        quantize(ToyDetector(), images, "bias-correction", space="lanes")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="space='pixels': expected one of: heads, lanes"):
        quantize(ToyDetector(), images, "bias-correction", space="pixels")
    assert find("bias-correction").reconstruction is None
