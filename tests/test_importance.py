"""Ranges by importance: which values are drawn, what is differentiated for it, and what it does to a range."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy import ToyDetector

from selective_focus import quantize
from selective_focus.detector import Heads
from selective_focus.lane_importance import lane_probe
from selective_focus.quantization.calibrate import calibrate_activations, recalibrate_by_importance
from selective_focus.quantization.config import QuantizationConfig
from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.importance import ImportanceObserver, drawn_by_importance, random_signs
from selective_focus.quantization.layers import activation_quantizers
from selective_focus.quantization.wrap import twin_models


def test_values_are_drawn_as_often_as_they_matter() -> None:
    values, importance = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0, 0.0, 3.0])
    assert drawn_by_importance(values, importance, 4).tolist() == [2.0, 4.0, 4.0, 4.0]
    assert drawn_by_importance(values.view(2, 2), importance.view(2, 2), 8).tolist() == [2.0] * 2 + [4.0] * 6


@pytest.mark.parametrize("importance", [0.0, torch.nan, torch.inf])
def test_nothing_is_drawn_where_nothing_matters(importance: float) -> None:
    assert drawn_by_importance(torch.ones(3), torch.full((3,), importance), 10).numel() == 0


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=40), st.integers(1, 200))
def test_every_value_comes_within_one_of_its_share(weights: list[float], count: int) -> None:
    importance = torch.tensor(weights, dtype=torch.float64)
    drawn = drawn_by_importance(torch.arange(len(weights)).float(), importance, count)
    if importance.sum() == 0:
        assert drawn.numel() == 0
        return
    shares = count * importance / importance.sum()
    found = torch.bincount(drawn.long(), minlength=len(weights))
    assert ((found - shares).abs() <= 1 + 1e-6).all()


def test_signs_are_one_up_or_down_and_follow_the_seed() -> None:
    one, same, other = (random_signs(torch.empty(1000), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert set(one.tolist()) == {1.0, -1.0}
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(float(one.mean())) < 0.2


class Proposals(nn.Module):
    """Each of 16 proposals with 4 values, of which those of the last eight are a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = torch.ones(16).index_fill(0, torch.arange(8, 16), 100.0)
        features = self.stem(x) * size[:, None]
        return {"offsets": self.layer(features), "ignored": self.unused(features).detach()}


def test_a_range_fits_what_matters_and_stays_where_nothing_does() -> None:
    torch.manual_seed(0)
    images = torch.rand(32, 16, 4)
    config = QuantizationConfig(4, 4)
    twins = twin_models(Proposals().eval(), images[:1], config, ("layer", "unused"))
    model = twins.quantized_model
    calibrate_activations(model, [images], config)
    quantizers = activation_quantizers(model)
    before = {name: float(quantizer.scale) for name, quantizer in quantizers.items()}

    def first_eight(heads: Heads) -> Tensor:
        return heads["offsets"][:, :8].sum()

    again = recalibrate_by_importance(model, [images[:16], images[16:]], config, [first_eight] * 2)
    after = {name: float(quantizer.scale) for name, quantizer in quantizers.items()}
    assert again == 1, "the image is not quantized, and nothing depends on the other layer"
    assert 50 < before["layer.input"] / after["layer.input"] < 200
    assert after["unused.input"] == before["unused.input"]
    assert all(quantizer.observer is None for quantizer in quantizers.values())


class OneLane(ToyDetector):
    """Only the first lane slot is in the foreground."""

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = torch.zeros(len(heads["existence"]), 4, 1)
        weight[:, 0] = 1.0
        return {"existence": weight, "columns": weight}


def test_the_squared_gradient_of_a_probe_is_the_diagonal_of_the_focused_loss() -> None:
    """Heads that are 3 x and 2 x: squares of the slopes over variance and number of positions, in the foreground."""
    images = 6
    x = torch.randn(images, 4, 9, generator=torch.Generator().manual_seed(0))

    def heads_of(x: Tensor) -> Heads:
        return {"existence": 3 * x[..., :1], "columns": 2 * x[..., 1:]}

    reference = heads_of(x)
    squares = torch.zeros_like(x)
    for seed in range(8):
        probe = lane_probe(OneLane(), reference, lambda image, seed=seed: seed)
        leaf = x.clone().requires_grad_()
        probe(heads_of(leaf), torch.arange(images)).backward()
        assert leaf.grad is not None
        squares += leaf.grad.square() / 8
    for name, slope, part in (("existence", 3, slice(0, 1)), ("columns", 2, slice(1, 9))):
        channels = reference[name].shape[-1]
        expected = slope**2 / (channels * float(reference[name].var(correction=0)) * images)
        torch.testing.assert_close(squares[:, 0, part], torch.full((images, channels), expected))
    assert squares[:, 1:].abs().max() == 0


@pytest.mark.parametrize("method", ["omse", "qdrop", "selective-focus-plus"])
def test_it_is_an_option_of_every_method(method: str) -> None:
    images = torch.rand(20, 3, 16, 32, generator=torch.Generator().manual_seed(3))
    options = {} if method == "omse" else {"iterations": 3, "batch_size": 4}
    uniform, log = quantize(ToyDetector(), images, method, activation_importance="uniform", **options)
    assert log.focused_ranges == 0
    by_lanes, log = quantize(ToyDetector(), images, method, activation_importance="lanes", **options)
    assert log.focused_ranges == 6, "all but the image"
    scales = [
        {name: float(q.scale) for name, q in activation_quantizers(found.model).items() if q.calibrated}
        for found in (uniform, by_lanes)
    ]
    assert scales[0].keys() == scales[1].keys()
    assert scales[0] != scales[1]


def test_images_made_for_inference_and_models_that_work_in_place_are_fine() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x -= 0.5
            return {"out": self.last(self.layer(x).relu())}

    with torch.inference_mode():
        images = torch.rand(8, 4)
    config = QuantizationConfig(4, 4)
    twins = twin_models(InPlace().eval(), images[:1].clone(), config)
    calibrate_activations(twins.quantized_model, [images.clone()], config)
    before = images.clone()
    assert (
        recalibrate_by_importance(twins.quantized_model, [images], config, [lambda heads: heads["out"].sum()])
        == 1
    )
    assert torch.equal(images, before)
    silent = recalibrate_by_importance(
        twins.quantized_model, [images], config, [lambda heads: torch.zeros(())]
    )
    assert silent == 0, "an output that depends on nothing"


def test_a_chunk_counts_by_its_images() -> None:
    observers = [ImportanceObserver(Histogram(), draws=8) for _ in range(2)]
    for observer, sizes in zip(observers, ([6], [4, 2]), strict=True):
        for part in torch.split(torch.arange(1.0, 7.0)[:, None].clone(), sizes):
            x = part.requires_grad_()
            seen = x.view_as(x)
            observer.update(seen)
            seen.sum().backward()
    counts = [observer.histogram.points() for observer in observers]
    torch.testing.assert_close(counts[0][0], counts[1][0], rtol=0, atol=2e-3)
    assert torch.equal(counts[0][1], counts[1][1])
    assert observers[0].histogram.count == 48
