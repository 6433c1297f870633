"""Reconstruction against the methods' own loops: the golden ``recon_*`` entries, through the engine's functions.

The entries are ranges of a stochastic loop over three seeds, with an acceptance rule each (see their
``definition``). At 4 bits rounding to nearest nearly passes; the 2- and 3-bit entries discriminate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ptq_golden import Entry, Golden
from torch import Tensor, nn

from selective_focus.quantization.affine import Grid, fake_quantize, grid_from_range, mix_inputs
from selective_focus.quantization.config import ReconstructionConfig
from selective_focus.quantization.fold import fold_batch_norm_
from selective_focus.quantization.layers import ActivationQuantizer, QuantizedLayer
from selective_focus.quantization.ranges import mse_grid, mse_shrink
from selective_focus.quantization.reconstruct import Learnable, dropping, optimise, unit_loss

SEED = 20


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Tiny convolutions: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adaround_entry(entry: Entry) -> tuple[QuantizedLayer, dict[str, Any]]:
    """Learn the rounding of the entry's convolution; the layer and the engine's log."""
    x, w, bias = (entry.inputs[key] for key in ("x", "w", "b"))
    conv = nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1)
    conv.weight.data, conv.bias.data = w.clone(), bias.clone()
    with torch.no_grad():
        target = torch.relu(conv(x))
    layer = QuantizedLayer(conv, entry.params["bits"], activation_bits=32)
    layer.set_weight_grid(mse_shrink(w, entry.params["bits"], per_channel=True, p=2.4))
    start, end = entry.params["beta"]
    config = ReconstructionConfig(
        iterations=entry.params["iters"],
        batch_size=entry.params["batch"],
        weight_lr=entry.params["lr"],
        regulariser_weight=entry.params["lam"],
        warmup=entry.params["warmup"],
        beta_start=start,
        beta_end=end,
    )

    def loss(index: Tensor) -> Tensor:
        return unit_loss([torch.relu(layer(x[index]))], [target[index]])

    learnable = Learnable.of(layer.requires_grad_(False), weights=True, scales=False)
    log = learn(
        learnable, lambda index, step: loss(index), lambda: loss(torch.arange(len(x))), len(x), config
    )
    return layer, log


def learn(
    learnable: Learnable,
    step_loss: Callable[[Tensor, int], Tensor],
    hard_loss: Callable[[], Tensor],
    images: int,
    config: ReconstructionConfig,
) -> dict[str, Any]:
    """The engine's loop on a unit of the test's own making."""

    def hard() -> float:
        with torch.no_grad(), dropping(learnable.quantizers, 1.0, 0):
            return float(hard_loss())

    return optimise("golden", learnable, step_loss, hard, images, config, SEED)


@pytest.mark.parametrize(
    "name",
    ["2bit_2000it", "3bit_2000it", "4bit_2000it", pytest.param("4bit_10000it", marks=pytest.mark.slow)],
)
def test_adaround_meets_the_official_loop(golden: Golden, name: str) -> None:
    entry = golden.entry(f"recon_adaround_conv_{name}")
    layer, log = adaround_entry(entry)
    expected = entry.outputs
    torch.testing.assert_close(layer.weight_scale, expected["scale"], rtol=1e-4, atol=1e-6)
    assert log["hard_loss_before"] == pytest.approx(expected["loss_before_nearest"], rel=entry.rtol)
    assert log["hard_loss_after"] <= 1.05 * expected["loss_after_max"]
    assert log["hard_loss_after"] < expected["loss_before_nearest"]
    assert log["hard_loss_after"] >= 0.9 * expected["loss_after_min"], (
        "scales trained, or soft weights measured"
    )
    if entry.params["bits"] < 4:
        assert log["hard_loss_after"] < 0.8 * expected["loss_before_nearest"], "nearest rounding passes"
    moved = layer.layer.weight != fake_quantize(layer.float_weight, layer.weight_grid)
    flipped = expected["fraction_weights_flipped"]
    assert 0.8 * float(flipped.min()) <= float(moved.float().mean()) <= 1.2 * float(flipped.max())


class GoldenBlock(nn.Module):
    """A basic block with quantizers where QDrop has them: after each ReLU, none on its own input."""

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.conv1 = QuantizedLayer(conv1, weight_bits, activation_bits=32)
        self.conv2 = QuantizedLayer(conv2, weight_bits, activation_bits=32)
        self.middle, self.output = ActivationQuantizer(activation_bits), ActivationQuantizer(activation_bits)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.middle(torch.relu(self.conv1(x)))
        return self.output(torch.relu(self.conv2(middle) + x))


def folded_convolution(entry: Entry, number: int) -> nn.Conv2d:
    """A convolution of the entry with its batch norm folded in."""
    weight = entry.inputs[f"conv{number}_weight"]
    conv, norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
    conv.weight.data = weight.clone()
    norm.load_state_dict(
        {
            name: entry.inputs[f"bn{number}_{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        },
        strict=False,
    )
    fold_batch_norm_(conv, norm.eval())
    return conv


def searched_grid(x: Tensor, bits: int) -> Grid:
    return grid_from_range(*mse_grid(x, bits), bits)


def qdrop_entry(entry: Entry) -> tuple[GoldenBlock, ActivationQuantizer, dict[str, Any]]:
    """Reconstruct the entry's block; the block, the quantizer before it, and the engine's log.

    It learns from the quantized input. The entry's losses before and after are those of the float input (found
    by trying: only this gives its loss before, to seven digits).
    """
    x, bits, keep = entry.inputs["x"], entry.params["bits_a"], entry.params["p"]
    convolutions = [folded_convolution(entry, number) for number in (1, 2)]
    with torch.no_grad():
        middle = torch.relu(convolutions[0](x))
        target = torch.relu(convolutions[1](middle) + x)
    block = GoldenBlock(*convolutions, entry.params["bits_w"], bits)
    before = ActivationQuantizer(bits)
    for quantizer, seen in ((before, x), (block.middle, middle), (block.output, target)):
        quantizer.set_grid(searched_grid(seen, bits))
    for layer in (block.conv1, block.conv2):
        weight = layer.float_weight
        lo, hi = mse_grid(weight, entry.params["bits_w"], per_channel=True)
        layer.set_weight_grid(grid_from_range(lo, hi, entry.params["bits_w"]))
    with torch.no_grad():
        quantized = before(x)
    config = ReconstructionConfig(
        iterations=entry.params["iters"],
        batch_size=32,
        batch_sampling="with-replacement",
        keep_probability=keep,
        scale_steps="absolute",
    )
    learnable = Learnable.of(block.requires_grad_(False), weights=True, scales=True)
    with dropping(learnable.quantizers, keep, SEED) as drop:

        def step_loss(index: Tensor, step: int) -> Tensor:
            mask = None if drop.pool is None else drop.pool.draw(x[index])
            return unit_loss([block(mix_inputs(quantized[index], x[index], mask))], [target[index]])

        log = learn(learnable, step_loss, lambda: unit_loss([block(x)], [target]), len(x), config)
    return block, before, log


@pytest.mark.parametrize("keep", ["0.5", "1.0"])
def test_qdrop_meets_the_official_loop(golden: Golden, keep: str) -> None:
    entry = golden.entry(f"recon_qdrop_block_p{keep}")
    block, before, log = qdrop_entry(entry)
    expected = entry.outputs
    assert log["hard_loss_before"] == pytest.approx(expected["loss_before"], rel=1e-4)
    assert log["hard_loss_after"] <= 1.10 * expected["loss_after_max"]
    assert log["hard_loss_after"] >= 0.9 * expected["loss_after_min"]
    scales = expected["scales_after_seed0"]
    assert float(before.scale) == pytest.approx(scales["pre"], rel=1e-4)
    assert float(block.middle.scale) == pytest.approx(scales["mid"], rel=0.01)
    assert float(block.output.scale) == pytest.approx(scales["out"], rel=0.01)
