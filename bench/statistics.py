"""Intervals from records: what frames and seeds leave open about an F1, a difference of two, or a rank correlation.

The bootstrap is paired. All settings of a comparison are scored on the same frames, so one draw of frames serves all of
them, and seeds that two settings share are drawn together. Every draw comes from a generator with a fixed seed: the
same records give the same intervals.

    frames  the bootstrap: drawn with replacement, as many as there are (a draw is a vector of how often each frame
            counts), of the mean over seeds
    seeds   Student's t: draws of two or three seeds can never leave those that were seen, so a bootstrap of them would
            promise too much

The two reaches add up as their squares do, on each side of the estimate. A setting with one seed has an interval over
frames alone, and whoever prints it has to say so. Seeds vary the batches and what is dropped; weights and calibration
images are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.errors import BenchError

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 100
"""Draws of frames that are held in memory at once."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval; both None where one observation tells no spread."""

    estimate: float
    low: float | None
    high: float | None
    seeds: int
    """Seeds behind it: 1 means that the interval covers frames alone."""

    def scaled(self, factor: float) -> Interval:
        """The same in another unit (``factor`` above 0)."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Interval(factor * self.estimate, low, high, self.seeds)


@dataclass(frozen=True)
class FrameCounts:
    """Per-frame numbers of one setting: ``by_seed[seed]`` is [F, 3].

    Columns are TP, FP, FN (CULane's metric: summed, then F1), or with ``means`` 1, FP, FN of TuSimple, whose means
    over frames make precision 1 - FP and recall 1 - FN.
    """

    by_seed: Mapping[int, FloatArray]
    means: bool = False
    any_seed: bool = False
    """The setting does not depend on the seed: its one table stands for every seed of what it is compared with."""

    @classmethod
    def of_frames(
        cls, frames_by_seed: Mapping[int, Mapping[str, Sequence[float]]], any_seed: bool = False
    ) -> FrameCounts:
        """From ``Result.frames`` of each seed. Raises BenchError where a record holds no counts per frame."""
        tables, kinds = {}, set()
        for seed, frames in frames_by_seed.items():
            if not {"fp", "fn"} <= set(frames):
                raise BenchError(
                    f"seed {seed}: its record has no fp and fn of each frame, but {sorted(frames) or 'nothing'}; "
                    "run the cell again"
                )
            means = "tp" not in frames
            first = np.ones(len(frames["fp"])) if means else frames["tp"]
            tables[seed] = np.array([first, frames["fp"], frames["fn"]], dtype=np.float64).T
            kinds.add(means)
        if not tables or len({table.shape for table in tables.values()}) > 1 or len(kinds) > 1:
            raise BenchError(f"seeds {sorted(tables)}: expected records of the same frames and metric")
        return cls(tables, kinds.pop(), any_seed)

    @property
    def frames(self) -> int:
        """F."""
        return len(next(iter(self.by_seed.values())))

    def tables(self, seeds: Sequence[int]) -> FloatArray:
        """[S, F, 3] of these seeds."""
        own = next(iter(self.by_seed.values()))
        return np.stack([own if self.any_seed else self.by_seed[seed] for seed in seeds])


def f1_of(sums: FloatArray, means: bool = False) -> FloatArray:
    """F1 in 0..1 of summed numbers [..., 3]; not a number where there was nothing to find and nothing was found."""
    first, fp, fn = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if not means:
            return 2 * first / (2 * first + fp + fn)
        precision, recall = 1 - fp / first, 1 - fn / first
        return np.where(precision + recall == 0, 0.0, 2 * precision * recall / (precision + recall))


def mean_f1(setting: FrameCounts, resamples: int = RESAMPLES) -> Interval:
    """F1 of a setting, the mean over its seeds; no end of the interval lies outside of 0 to 1."""
    found = _interval([(1.0, setting)], resamples)
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return Interval(found.estimate, low, high, found.seeds)


def paired_difference(one: FrameCounts, other: FrameCounts, resamples: int = RESAMPLES) -> Interval:
    """F1 of ``one`` less F1 of ``other``, each the mean over the seeds that they share.

    Raises BenchError when they do not share frames, metric or a seed.
    """
    return mean_difference([(one, other)], resamples)


def mean_difference(pairs: Sequence[tuple[FrameCounts, FrameCounts]], resamples: int = RESAMPLES) -> Interval:
    """The mean over pairs of settings of ``paired_difference``, all of them scored on the same frames.

    Raises BenchError when they do not all share frames, metric and a seed.
    """
    settings = [setting for pair in pairs for setting in pair]
    for setting in settings[1:]:
        if (setting.frames, setting.means) != (settings[0].frames, settings[0].means):
            raise BenchError(
                f"{settings[0].frames} and {setting.frames} frames cannot be paired; compare records of the same "
                "frames and metric"
            )
    share = 1 / len(pairs)
    return _interval([term for one, other in pairs for term in ((share, one), (-share, other))], resamples)


def shared_seeds(settings: Sequence[FrameCounts]) -> list[int]:
    """The seeds that all settings have; a setting that does not depend on the seed has any."""
    sets = [set(setting.by_seed) for setting in settings if not setting.any_seed]
    if not sets:
        return sorted(settings[0].by_seed)[:1]
    return sorted(set.intersection(*sets))


def spearman(x: Sequence[float], y: Sequence[float], resamples: int = RESAMPLES) -> Interval | None:
    """Spearman's rank correlation of n pairs, interval over draws of pairs; None below 4 pairs or without spread.

    The pairs count as independent. Settings of one detector are not quite that: the interval is a lower bound of the
    uncertainty.
    """
    table = np.array([x, y], dtype=np.float64)
    if table.shape[1] < 4 or any(len(np.unique(row)) < 2 for row in table):
        return None
    drawn = table[:, _generator().integers(table.shape[1], size=(resamples, table.shape[1]))]
    ranks = stats.rankdata(drawn, axis=-1)
    estimate = _correlation(stats.rankdata(table, axis=-1)[:, None])[0]
    low, high = _ends(_correlation(ranks))
    return Interval(float(estimate), low, high, seeds=1)


def mean_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Geometric mean of paired ratios, its interval Student's t on the logarithms over the pairs (one pair: none)."""
    logs = np.log(np.asarray(numerators, dtype=np.float64)) - np.log(
        np.asarray(denominators, dtype=np.float64)
    )
    return _exponential(mean_of(logs.tolist()))


def mean_of(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's t interval; no ends for a single seed."""
    centre = float(np.mean(values))
    if len(values) < 2:
        return Interval(centre, None, None, len(values))
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(centre, centre - reach, centre + reach, len(values))


def _exponential(interval: Interval) -> Interval:
    low, high = (None if end is None else float(np.exp(end)) for end in (interval.low, interval.high))
    return Interval(float(np.exp(interval.estimate)), low, high, interval.seeds)


def _interval(terms: Sequence[tuple[float, FrameCounts]], resamples: int) -> Interval:
    """A weighted sum of mean F1s: the bootstrap over frames, and Student's t over seeds."""
    settings = [setting for _, setting in terms]
    seeds = shared_seeds(settings)
    if not seeds:
        raise BenchError("settings without a seed in common cannot be paired; run them with the same seeds")
    tables = [setting.tables(seeds) for setting in settings]
    by_seed, drawn = np.zeros(len(seeds)), np.zeros(resamples)
    for (weight, setting), table in zip(terms, tables, strict=True):
        by_seed += weight * f1_of(table.sum(axis=1), setting.means)
        drawn += weight * f1_of(_resampled_sums(table, resamples), setting.means).mean(axis=1)
    estimate = float(by_seed.mean())
    low, high = _ends(drawn)
    if low is None or high is None:
        return Interval(estimate, None, None, len(seeds))
    over_seeds = mean_of(by_seed.tolist())
    reach = 0.0 if over_seeds.high is None else over_seeds.high - estimate
    below, above = (float(np.hypot(max(0.0, side), reach)) for side in (estimate - low, high - estimate))
    return Interval(estimate, estimate - below, estimate + above, len(seeds))


def _resampled_sums(table: FloatArray, resamples: int) -> FloatArray:
    """[S, F, 3] -> [B, S, 3]: the sums over each draw of frames."""
    seeds, frames, columns = table.shape
    flat = np.moveaxis(table, 0, 1).reshape(frames, seeds * columns).astype(np.float32)
    parts = [_frame_weights(frames, start) @ flat for start in range(0, resamples, _CHUNK)]
    return np.concatenate(parts)[:resamples].reshape(resamples, seeds, columns).astype(np.float64)


@lru_cache(maxsize=RESAMPLES // _CHUNK)
def _frame_weights(frames: int, start: int) -> npt.NDArray[np.float32]:
    """[_CHUNK, F]: how often each frame counts in the draws from ``start`` on."""
    generator = np.random.default_rng([frames, start])
    drawn = generator.integers(frames, size=(_CHUNK, frames)) + frames * np.arange(_CHUNK)[:, None]
    return np.bincount(drawn.ravel(), minlength=_CHUNK * frames).reshape(_CHUNK, frames).astype(np.float32)


def _correlation(ranks: FloatArray) -> FloatArray:
    """Pearson's correlation of [2, B, n] along the last axis."""
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred[0] * centred[1]).sum(-1) / np.sqrt((centred**2).sum(-1).prod(0))


def _ends(drawn: FloatArray) -> tuple[float | None, float | None]:
    """The ends of the central 95 % of the draws that are numbers."""
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)
