"""How long range searches take: on raw activations, on their histogram, on weights.

pytest bench/perf/test_range_search.py --benchmark-only
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.ranges import mse_grid, mse_shrink
from selective_focus.quantization.samples import Samples

VALUES = 500_000
REFERENCE_S = 4.3
"""QDrop's own search on as many values, measured once on one thread of an AVX-512 server."""


@pytest.fixture(scope="module")
def activation() -> Tensor:
    """Two-sided activations, as many as one layer gives for a small batch."""
    return torch.randn(VALUES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("bits", [4, 8])
def test_histogram_search(benchmark, activation: Tensor, bits: int) -> None:
    """Filling the histogram and searching all 100 * 2^bits candidates on it."""
    benchmark(lambda: mse_grid(Histogram.of(activation), bits))


def test_filling_a_histogram(benchmark, activation: Tensor) -> None:
    histogram = Histogram.of(activation)
    benchmark(histogram.update, activation)


def test_raw_search(benchmark, activation: Tensor) -> None:
    """The same search on the raw values (candidates that cannot win are left out here too)."""
    benchmark.pedantic(mse_grid, (activation, 4), rounds=2)


def test_weight_search_per_channel(benchmark) -> None:
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    benchmark(mse_shrink, weight, 4, per_channel=True)


def every_candidate(x: Tensor, bits: int) -> Tensor:
    """The error of all 100 * 2^bits candidates, measured on every raw value."""
    samples = Samples.of(x)
    scale = (samples.hi - samples.lo) * torch.arange(1, 101)[:, None] / 100 / (2**bits - 1)
    scale = scale.expand(-1, 2**bits).reshape(-1)
    zero_point = torch.arange(2.0**bits).repeat(100)
    owner = torch.zeros(scale.numel(), dtype=torch.long)
    return samples.errors(owner, scale, zero_point, 0, 2**bits - 1, 2.4)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_histogram_search_beside_the_raw_one(benchmark, activation: Tensor) -> None:
    """4 bits: 1,600 candidates on 0.5 M values against the histogram, its filling included."""
    raw = seconds(lambda: every_candidate(activation, 4))
    benchmark.pedantic(lambda: mse_grid(Histogram.of(activation), 4), rounds=3, warmup_rounds=1)
    ratio = raw / benchmark.stats.stats.min
    benchmark.extra_info.update(raw_s=raw, ratio=ratio, goal=50, reference_raw_s=REFERENCE_S)
    print(
        f"\nrange search: {ratio:.0f} x its raw search ({raw:.2f} s), goal 50; the authors' code {REFERENCE_S} s "
        f"(2-D, on another machine), {REFERENCE_S / benchmark.stats.stats.min:.0f} x"
    )
