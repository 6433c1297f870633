"""What a reconstruction step costs beside the convolutions it cannot do without.

pytest bench/perf/test_engine_speed.py --benchmark-only -s

One basic block of 64 channels on 64 x 20 x 50 features, batch 32, one thread: the engine's whole loop (gathering a
batch, mixing, quantizing, loss, regulariser, Adam) against forward and backward of the block's two convolutions alone.
Both run in turn, and processor time is compared, so that other jobs disturb the ratio little. Nothing is asserted on
it: a busy machine is no mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selective_focus.quantization.affine import grid_from_range
from selective_focus.quantization.config import ReconstructionConfig
from selective_focus.quantization.layers import ActivationQuantizer, QuantizedLayer
from selective_focus.quantization.ranges import mse_grid, mse_shrink
from selective_focus.quantization.reconstruct import Learnable, dropping, optimise
from selective_focus.quantization.unit_data import UnitData

CHANNELS, HEIGHT, WIDTH, BATCH, IMAGES = 64, 20, 50, 32, 96
STEPS, ROUNDS = 6, 7
GOALS: dict[str, float | None] = {"brecq": 1.15, "qdrop": 1.35, "qdrop-inputs": None}
"""qdrop: quantized where the authors do. qdrop-inputs: at the inputs of both layers, as our wrapping does; learning the
first step size needs the gradient to the block's input, one convolution (a sixth of the floor) more than the others.
"""

REFERENCE: dict[str, float | None] = {"brecq": 14.1 / 12.0, "qdrop": 25.2 / 12.0, "qdrop-inputs": None}
"""The authors' own loops on the same block, measured once on one thread of an AVX-512 server: seconds for 100
iterations, with the regulariser, over those of the convolutions."""


class Block(nn.Module):
    """A basic block quantized as QDrop does it: after its first ReLU and, with ``output``, after its last."""

    def __init__(self, first: nn.Module, second: nn.Module, activation_bits: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = first, second
        self.middle, self.output = ActivationQuantizer(activation_bits), ActivationQuantizer(activation_bits)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.middle(torch.relu(self.conv1(x)))
        return self.output(torch.relu(self.conv2(middle) + x))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def convolutions() -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
    return first, second


def bare_step(features: Tensor) -> Callable[[], None]:
    """Forward and backward of the two convolutions, gradients to their weights."""
    first, second = convolutions()
    x = features[:BATCH].clone()
    upstream = torch.ones_like(x)

    def step() -> None:
        first.weight.grad = second.weight.grad = None
        second(first(x)).backward(upstream)

    return step


def engine_steps(features: Tensor, method: str) -> Callable[[], None]:
    """``STEPS`` steps of the engine in the state that it has after the warm-up: the regulariser counts."""
    first, second = convolutions()
    joint = method != "brecq"
    keep = 0.5 if joint else 1.0
    input_bits, output_bits = {"brecq": (32, 32), "qdrop": (32, 4), "qdrop-inputs": (4, 32)}[method]
    with torch.no_grad():
        middle = torch.relu(first(features))
        target = torch.relu(second(middle) + features)
    block = Block(QuantizedLayer(first, 4, input_bits), QuantizedLayer(second, 4, input_bits), output_bits)
    block.requires_grad_(False)
    for layer in (block.conv1, block.conv2):
        layer.set_weight_grid(mse_shrink(layer.float_weight, 4, per_channel=True))
    places = [(block.middle, middle), (block.output, target)]
    places += [(block.conv1.input, features), (block.conv2.input, middle)]
    for quantizer, seen in places:
        if quantizer.bits == 4:
            quantizer.set_grid(grid_from_range(*mse_grid(seen[:1], 4), 4))
    noisy = features + 0.05
    mixed = [features] if keep < 1 else None
    _, spec = torch.utils._pytree.tree_flatten(((features,), {}))
    data = UnitData([noisy], mixed, [True], spec, [target], IMAGES)
    config = ReconstructionConfig(
        iterations=STEPS, batch_size=BATCH, keep_probability=keep, warmup=0.0, scale_steps="absolute"
    )

    masks = dropping(
        [quantizer for quantizer, _ in places], keep, 0
    )  # the random numbers are drawn once a unit

    def steps() -> None:
        learnable = Learnable.of(block, weights=True, scales=joint)
        with masks as drop:
            optimise(
                "block",
                learnable,
                lambda index, step: data.loss(block, index, 2.0, drop.pool),
                lambda: 0.0,
                IMAGES,
                config,
                seed=0,
            )

    return steps


def processor_time(run: Callable[[], None], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        run()
    return time.process_time() - started


def test_steps_against_bare_convolutions(benchmark: Any) -> None:
    features = torch.rand(IMAGES, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    bare = bare_step(features)
    methods = {method: engine_steps(features, method) for method in GOALS}
    ratios: dict[str, list[float]] = {method: [] for method in GOALS}

    def one_round() -> None:
        for method, steps in methods.items():
            before = processor_time(bare, STEPS)
            taken = processor_time(steps, 1)
            floor = (before + processor_time(bare, STEPS)) / 2
            ratios[method].append(taken / floor)

    one_round()
    for found in ratios.values():
        found.clear()
    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    for method, found in ratios.items():
        reference = REFERENCE[method]
        benchmark.extra_info[method] = round(median(found), 3)
        benchmark.extra_info[f"{method} goal"] = GOALS[method]
        benchmark.extra_info[f"{method} reference"] = reference and round(reference, 2)
        print(
            f"\n{method}: {median(found):.2f} x (of {min(found):.2f} to {max(found):.2f}), goal {GOALS[method]}, "
            f"authors' code {reference and round(reference, 2)}"
        )
