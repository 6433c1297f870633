"""BRECQ's Fisher weighting for lane heads: the gradient is the task's, and the weights do what they say."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from toy import ToyDetector, ToyNet

from selective_focus import quantize
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.fisher import FisherWeights, task_gradients
from selective_focus.quantization.rows import MemoryRows

SETTINGS = {"iterations": 12, "batch_size": 8, "rounding": "straight-through", "weight_lr": 1e-2}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(21, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def task(model: nn.Module, images: torch.Tensor, expected: dict, scales: dict) -> float:
    """T of the module's docstring, written plainly, in float64."""
    heads = model(images)
    total = 0.0
    for image in range(len(images)):
        for name, target in expected.items():
            error = heads[name][image].double() - target[image].double()
            total += float(error.square().mean()) / scales[name]
    return total


@pytest.mark.parametrize("unit", ["blocks.0", "blocks.1", "columns"])
def test_gradients_by_differences(unit, images):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, other = ToyNet().double().eval(), ToyNet().double().eval()
    images = images[:3].double()
    with torch.no_grad():
        expected, scales = other(images), {"existence": 0.5, "columns": 2.0}
    module = model.get_submodule(unit)
    (found,) = task_gradients(model.requires_grad_(False), images, expected, scales, module)
    for place in (0, 17, found.numel() - 1):
        step = 1e-4
        values = []
        for sign in (step, -step):

            def moved(m, args, output, sign=sign, place=place):
                output = output.clone()
                output.view(-1)[place] += sign
                return output

            handle = module.register_forward_hook(moved)
            values.append(task(model, images, expected, scales))
            handle.remove()
        slope = abs(values[0] - values[1]) / (2 * step)
        assert float(found.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


class Sloped(nn.Module):
    """A layer and its ReLU, and a head that adds both its sides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(2, 2, bias=False), nn.ReLU()
        self.layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.relu(self.layer(self.relu(x))).sum(1, keepdim=True)}


def test_a_layer_s_gradient_is_taken_after_its_relu():
    """Also where the ReLU gives zero, and not at the other call of the same ReLU."""
    model = Sloped().requires_grad_(False)
    images, expected = torch.tensor([[3.0, 5.0]]), {"sum": torch.tensor([[1.0]])}
    (found,) = task_gradients(model, images, expected, {"sum": 1.0}, model.layer, model.relu)
    assert found.tolist() == [[4.0, 4.0]]  # d (3 + 0 - 1)^2


def test_weights_by_hand():
    rows = MemoryRows(2)
    rows.append(torch.tensor([[0.0, 3.0], [4.0, 0.0]]))
    output, target, index = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.tensor([1])
    normalised = FisherWeights.of("diagonal", "normalised", [rows.finish()], gradient_rms=2.5)
    assert float(normalised.loss([output], [target], index)) == pytest.approx((4 / 2.5) ** 2)
    authors = FisherWeights.of("diagonal", "authors", [rows.finish()], gradient_rms=2.5)
    assert float(authors.loss([output], [target], index)) == pytest.approx(25 + 1)
    unfelt = FisherWeights.of("diagonal", "normalised", [rows.finish()], gradient_rms=0.0)
    assert float(unfelt.loss([output], [target], index)) == pytest.approx(2)


def heads(detector, images):
    with torch.no_grad():
        return torch.cat([head.flatten() for head in detector.heads(images).values()])


def test_weighting_changes_brecq_and_is_recorded(images):
    plain, log = quantize(ToyDetector(), images, "brecq", **SETTINGS)
    assert log.config["options"]["fisher"] == "none"
    assert not any("fisher" in unit for unit in log.units)
    found = {}
    for kind in ("diagonal", "full"):
        weighted, log = quantize(ToyDetector(), images, "brecq", fisher=kind, **SETTINGS)
        found[kind] = heads(weighted, images)
        weights = [unit for unit in log.units if unit["roundings"]]
        assert all(unit["fisher"]["gradient_rms"] > 0 and unit["fisher"]["shift"] == 0 for unit in weights)
        assert not any("fisher" in unit for unit in log.units if not unit["roundings"])
        assert not torch.equal(found[kind], heads(plain, images))
        json.dumps(log.to_dict())
    assert not torch.equal(found["diagonal"], found["full"])


def test_a_memory_budget_changes_no_bit(images):
    first, second = (
        quantize(ToyDetector(), images, "brecq", fisher="diagonal", memory_budget_mb=budget, **SETTINGS)[0]
        for budget in (None, 1e-6)
    )
    assert torch.equal(heads(first, images), heads(second, images))


@pytest.mark.parametrize("option", [{"fisher": "diag"}, {"fisher_scale": "none"}, {"activation_phase": 0}])
def test_bad_options_are_refused(option, images):
    with pytest.raises(ConfigurationError, match="expected"):
        quantize(ToyDetector(), images, "brecq", **option)
