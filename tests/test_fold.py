"""A folded layer does what the layer and its batch normalisation did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from selective_focus.quantization.fold import fold_batch_norm, fold_batch_norm_
from selective_focus.quantization.trace import trace

CASES = {
    "conv2d": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 7, 7)),
    "conv2d groups": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 7, 7)),
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 9)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), (2, 4, 9)),
    "transposed 1d square": (nn.ConvTranspose1d(4, 4, 3, groups=2), nn.BatchNorm1d(4), (2, 4, 9)),
    "transposed 3d": (nn.ConvTranspose3d(4, 4, 2), nn.BatchNorm3d(4), (2, 4, 3, 3, 3)),
    "conv3d": (nn.Conv3d(4, 6, 2, groups=2), nn.BatchNorm3d(6), (2, 4, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "not affine": (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False), (2, 4, 3, 3)),
}


def _lived_in(norm: nn.Module, seed: int) -> nn.Module:
    """A copy with the statistics and weights of a trained layer."""
    generator = torch.Generator().manual_seed(seed)
    norm = copy.deepcopy(norm).eval()
    for name, value in (*norm.named_parameters(), *norm.named_buffers()):
        if value.is_floating_point():
            spread = torch.rand(value.shape, generator=generator)
            value.data = spread + 0.3 if "var" in name else spread * 2 - 0.7
    return norm


@pytest.mark.parametrize("name", CASES)
def test_folded_layer_is_equal(name: str) -> None:
    layer, norm, shape = CASES[name]
    layer, norm = copy.deepcopy(layer).eval(), _lived_in(norm, 1)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = norm(layer(x))
        before = layer.weight.clone()
        fold_batch_norm(layer, norm)
        assert torch.equal(layer.weight, before), "the pure variant changes nothing"
        fold_batch_norm_(layer, norm)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_by_hand() -> None:
    """w = 2, b = 1; mean 3, var 4, eps 0, gamma 5, beta 7: w' = 5, b' = (1 - 3) * 5 / 2 + 7 = 2."""
    layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)
    layer.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])})
    state = {"running_mean": 3.0, "running_var": 4.0, "weight": 5.0, "bias": 7.0}
    norm.load_state_dict({k: torch.tensor([v]) for k, v in state.items()}, strict=False)
    weight, bias = fold_batch_norm(layer, norm)
    assert (float(weight), float(bias)) == (5.0, 2.0)


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        fold_batch_norm(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))


def test_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="4 channels into 3"):
        fold_batch_norm(nn.Linear(2, 3), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(3), nn.SyncBatchNorm(3)], ids=lambda norm: type(norm).__name__
)
def test_every_foldable_norm_is_found(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), norm).eval()
    assert trace(model, torch.zeros(1, 2, 4, 4)).batch_norm_of == {"0": "1"}
