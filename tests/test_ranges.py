"""Range setting: observers, searches against brute force, and the histogram that stands in for raw values."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selective_focus.quantization import affine, ranges
from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.ranges import quantization_error

KINDS = ("normal", "relu", "laplace", "shifted", "negative")


def sample(kind: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    if kind == "laplace":
        return x.sign() * -torch.log(torch.rand(*shape, generator=generator) + 1e-6)
    return {"normal": x, "relu": x.relu(), "shifted": x * 0.5 + 0.7, "negative": -x.abs()}[kind]


def grid_of(found: tuple[Tensor, Tensor], bits: int, symmetric: bool = False) -> affine.Grid:
    return affine.grid_from_range(*found, bits, symmetric)


def test_percentile_by_hand() -> None:
    """0..10: the 90th percentile is 9, the 95th lies half way between 9 and 10."""
    x = torch.arange(11.0)
    assert [float(v) for v in ranges.percentile(x, 90)] == [1.0, 9.0]
    assert float(ranges.percentile(x, 95)[1]) == pytest.approx(9.5)
    assert [float(v) for v in ranges.percentile(-x, 100, symmetric=True)] == [-10.0, 10.0]


@pytest.mark.parametrize("p", [49.0, 100.5])
def test_impossible_percentile_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        ranges.percentile(torch.zeros(3), p)


def test_observers_by_hand() -> None:
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]), torch.tensor([1.0, 6.0])]
    assert [float(v) for v in ranges.average_min_max(batches)] == [-1.0, 3.0]
    observer = ranges.RunningMinMax()
    with pytest.raises(ValueError, match="at least one"):
        observer.range()
    for batch in batches:
        observer.update(batch)
    assert [float(v) for v in observer.range()] == [-3.0, 6.0]


def _every_candidate(x: Tensor, bits: int, p: float = 2.4) -> affine.Grid:
    """The 2-D search as it is written down: all widths, all zero points, the first smallest error."""
    lo, hi = float(x.min().clamp(max=0)), float(x.max().clamp(min=0))
    best, winner = float("inf"), None
    for i, zero_point in itertools.product(range(1, 101), range(2**bits)):
        width = torch.tensor(i / 100) * (torch.tensor(hi) - torch.tensor(lo))
        scale = width / (2**bits - 1)
        tried = affine.Grid(scale, torch.tensor(float(zero_point)), 0, 2**bits - 1)
        error = float((x - affine.fake_quantize(x, tried)).abs().pow(p).double().mean())
        if error < best:
            best, winner = error, tried
    assert winner is not None
    return winner


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["normal", "laplace", "shifted"])
def test_pruned_grid_search_equals_all_candidates(kind: str, bits: int) -> None:
    x = sample(kind, 60, seed=bits)
    found, expected = grid_of(ranges.mse_grid(x, bits), bits), _every_candidate(x, bits)
    assert float(found.scale) == pytest.approx(float(expected.scale), rel=1e-6)
    assert float(found.zero_point) == float(expected.zero_point)


@pytest.mark.parametrize("search", [ranges.mse_grid, ranges.golden_section])
@pytest.mark.parametrize("kind", ["normal", "shifted"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_channels_are_searched_as_if_alone(search, kind: str, symmetric: bool) -> None:
    w = sample(kind, 6, 4, 3, 3)
    together = search(w, 3, per_channel=True, symmetric=symmetric)
    for channel in range(6):
        alone = search(w[channel], 3, symmetric=symmetric)
        for both, one in zip(together, alone, strict=True):
            # the golden section ends anywhere in a flat minimum
            tolerance = 1e-5 if search is ranges.mse_grid else 1e-3
            assert float(both[channel]) == pytest.approx(float(one), rel=tolerance)


def test_shrink_channels_are_searched_as_if_alone() -> None:
    w = sample("laplace", 6, 40)
    together = ranges.mse_shrink(w, 4, per_channel=True)
    for channel in range(6):
        alone = ranges.mse_shrink(w[channel], 4)
        assert float(together.scale[channel]) == pytest.approx(float(alone.scale), rel=1e-6)
        assert float(together.zero_point[channel]) == float(alone.zero_point)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KINDS), st.sampled_from([2, 4, 8]), st.integers(0, 100))
def test_a_search_is_never_worse_than_min_max(kind: str, bits: int, seed: int) -> None:
    x = sample(kind, 300, seed=seed)
    plain = float(quantization_error(x, grid_of(ranges.min_max(x), bits))) * (1 + 1e-6)
    assert float(quantization_error(x, grid_of(ranges.mse_grid(x, bits), bits))) <= plain
    assert float(quantization_error(x, ranges.mse_shrink(x, bits, include_zero=True))) <= plain


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_two_dimensional_search_beats_the_shrink_search(bits: int) -> None:
    """Every shrunk range of two-sided data is (nearly) among the 2-D candidates."""
    x = sample("shifted", 500)
    shrunk = quantization_error(x, ranges.mse_shrink(x, bits))
    assert float(quantization_error(x, grid_of(ranges.mse_grid(x, bits), bits))) <= float(shrunk) * 1.001


@pytest.mark.parametrize(("kind", "side"), [("relu", 0), ("negative", 1)])
@pytest.mark.parametrize("search", [ranges.mse_grid, ranges.golden_section])
def test_one_sided_data_spends_no_codes_on_the_other_side(search, kind: str, side: int) -> None:
    assert float(search(sample(kind, 400), 4)[side]) == 0


def test_one_negative_value_in_the_last_batch_is_seen() -> None:
    """Sidedness is that of the whole calibration set, not of its first batch."""
    histogram = Histogram()
    for _ in range(3):
        histogram.update(sample("relu", 500))
    histogram.update(torch.full((200,), -2.0))
    assert float(ranges.mse_grid(histogram, 4)[0]) < -1


def test_shrink_without_zero_can_leave_the_codes() -> None:
    """BRECQ's raw extremes: data in 2..3 has a zero point below 0; include_zero keeps it a code."""
    x = torch.linspace(2, 3, 50)
    assert float(ranges.mse_shrink(x, 4).zero_point) < 0
    with_zero = ranges.mse_shrink(x, 4, include_zero=True)
    assert float(with_zero.zero_point) == 0
    assert affine.fake_quantize(torch.zeros(1), with_zero).item() == 0


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_golden_section_is_close_to_the_grid_search(kind: str, bits: int) -> None:
    x = sample(kind, 2000)
    golden = quantization_error(x, grid_of(ranges.golden_section(x, bits), bits))
    grid = quantization_error(x, grid_of(ranges.mse_grid(x, bits), bits))
    assert float(golden) <= 1.05 * float(grid)


def test_dead_channel_is_harmless() -> None:
    w = sample("normal", 3, 20)
    w[1] = 0
    lo, hi = ranges.mse_grid(w, 4, per_channel=True)
    assert (float(lo[1]), float(hi[1])) == (0, 0)
    for made in (affine.grid_from_range(lo, hi, 4), ranges.mse_shrink(w, 4, per_channel=True)):
        assert torch.isfinite(affine.fake_quantize(w, made)).all()
        assert bool((affine.fake_quantize(w, made)[1] == 0).all())


def test_empty_and_channelled_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ranges.mse_shrink(torch.empty(0), 4)
    with pytest.raises(ValueError, match="no channels"):
        ranges.mse_grid(Histogram.of(torch.ones(3)), 4, per_channel=True)
    with pytest.raises(ValueError, match=r"1\.\.100"):
        ranges.mse_shrink(torch.ones(3), 4, candidates=101)


# the histogram


@pytest.mark.parametrize("bits", [2, 4])
def test_histogram_finds_the_grid_of_the_raw_values(bits: int) -> None:
    """The same scale and zero point but for near-ties, and then an error within 0.1 %."""
    same = []
    for kind, seed, search in itertools.product(KINDS, range(3), _searches(bits)):
        x = sample(kind, 20_000, seed=seed)
        histogram = Histogram()
        for batch in x.split(3000):
            histogram.update(batch)
        raw, binned = search(x), search(histogram)
        close = torch.isclose(raw.scale, binned.scale, rtol=1e-5)
        same.append(bool(close & (raw.zero_point == binned.zero_point)))
        assert float(quantization_error(x, binned)) <= 1.001 * float(quantization_error(x, raw))
    assert sum(same) >= 0.9 * len(same)


def _searches(bits: int) -> tuple[Callable[[Tensor | Histogram], affine.Grid], ...]:
    return (lambda v: grid_of(ranges.mse_grid(v, bits), bits), lambda v: ranges.mse_shrink(v, bits))


@pytest.mark.parametrize("kind", KINDS)
def test_histogram_at_8_bits_costs_at_most_2_percent(kind: str) -> None:
    x = sample(kind, 20_000)
    raw = quantization_error(x, grid_of(ranges.mse_grid(x, 8), 8))
    binned = quantization_error(x, grid_of(ranges.mse_grid(Histogram.of(x), 8), 8))
    assert float(binned) <= 1.02 * float(raw)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_histogram_keeps_count_extremes_and_mean(batches: list[list[float]]) -> None:
    histogram = Histogram(64)
    for batch in batches:
        histogram.update(torch.tensor(batch))
    everything = torch.tensor([v for batch in batches for v in batch], dtype=torch.float64)
    points, counts = histogram.points()
    width = (histogram.maximum - histogram.minimum) / 64
    assert histogram.count == everything.numel() == int(counts.sum())
    assert (histogram.minimum, histogram.maximum) == (float(everything.min()), float(everything.max()))
    mean = float((points * counts).sum() / counts.sum())
    assert mean == pytest.approx(
        # 1e-30: no bin is narrower than that divided by their number (a range of 1e-38 is one value)
        float(everything.mean()),
        abs=0.02 * width + 1e-6 * float(everything.abs().max()) + 1e-30,
    )


def test_histogram_grows_without_losing_resolution() -> None:
    """A first batch in 0..1, then one in -300..500: still at least 2048 bins over what was seen."""
    histogram = Histogram(2048)
    histogram.update(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    spread = torch.linspace(-300, 500, 20_000)
    histogram.update(spread)
    points, _ = histogram.points()
    assert len(points) >= 2048


def test_order_of_batches_hardly_matters() -> None:
    batches = [sample("normal", 500, seed=i) * (i + 1) for i in range(5)]
    found = []
    for order in (batches, batches[::-1]):
        histogram = Histogram()
        for batch in order:
            histogram.update(batch)
        found.append(grid_of(ranges.mse_grid(histogram, 4), 4))
    assert float(found[0].scale) == pytest.approx(float(found[1].scale), rel=1e-5)
    assert float(found[0].zero_point) == float(found[1].zero_point)


def test_zeros_are_exact() -> None:
    histogram = Histogram.of(torch.tensor([0.0, 0.0, 0.0, 0.001, 5.0]))
    points, counts = histogram.points()
    assert dict(zip(points.tolist(), counts.tolist(), strict=True))[0.0] == 3


def test_histogram_of_zeros_only_then_data() -> None:
    histogram = Histogram()
    histogram.update(torch.zeros(10))
    assert histogram.count == 10
    histogram.update(torch.tensor([-1.0, 2.0]))
    assert (histogram.count, histogram.zeros) == (12, 10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_histogram_refuses_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Histogram().update(torch.tensor([1.0, bad]))


def test_empty_histogram_says_so() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Histogram().points()
