"""Synthetic scenes: determinism, labels, pictures that fit the labels and each other."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.synthetic import CATEGORIES, SPLITS, render, sample_scene

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"size": (128, 384), "rows": (206, 590)}


def fingerprint(indices: range) -> str:
    digest = hashlib.sha256()
    for index in indices:
        scene = sample_scene("test", index)
        digest.update(render(scene, **SMALL).tobytes())
        for lane in scene.lanes:
            digest.update(lane.tobytes())
    return digest.hexdigest()


def test_other_process_draws_the_same() -> None:
    code = "from tests.test_synthetic import fingerprint; print(fingerprint(range(9)))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    backwards = [fingerprint(range(i, i + 1)) for i in reversed(range(9))]  # order and state must not matter
    assert other.stdout.strip() == fingerprint(range(9))
    assert len(set(backwards)) == 9


def test_splits_seeds_and_indices_differ() -> None:
    views = {
        sample_scene(split, index, "normal", seed).view
        for split in SPLITS
        for index in (0, 9)
        for seed in (0, 1)
    }
    assert len(views) == len(SPLITS) * 4


def test_categories_take_turns() -> None:
    assert [sample_scene("val", i).category for i in range(18)] == list(CATEGORIES) * 2


@pytest.mark.parametrize("index", range(0, 270, 10))
def test_labels(index: int) -> None:
    scene = sample_scene("train", index)
    lanes = scene.lanes
    if scene.category == "cross":
        assert lanes == []
        return
    assert 1 <= len(lanes) <= 4
    assert scene.slots == sorted(set(scene.slots))
    assert set(scene.slots) <= {1, 2, 3, 4}
    for lane in lanes:
        assert lane.dtype == np.float64
        assert len(lane) >= 5
        assert np.all(np.diff(lane[:, 1]) == -10)
        assert np.all(lane[:, 1] % 10 == 0)
        assert lane[:, 1].max() <= 590
        assert lane[:, 1].min() > scene.view.skyline - 15
        assert lane[:, 0].min() >= -20
        assert lane[:, 0].max() <= 1660
    for left, right in itertools.pairwise(lanes):
        both = np.intersect1d(left[:, 1], right[:, 1])
        if len(both):
            assert np.all(left[np.isin(left[:, 1], both), 0] < right[np.isin(right[:, 1], both), 0])
        else:
            assert left[0, 0] < right[0, 0]


def test_label_lies_on_the_projected_line() -> None:
    for index in (0, 6, 24):  # normal, curve, curve or noline: all with hills by chance
        scene = sample_scene("test", index)
        lines = {line.slot: line for line in scene.road.lines if line.slot}
        for slot, lane in zip(scene.slots, scene.lanes, strict=True):
            curve = scene.view.project(lines[slot].u, np.geomspace(2, scene.view.far, 20000))
            gap = np.abs(curve[:, None] - lane[None]).sum(axis=2).min(axis=0)
            assert gap.max() < 0.6


def test_paint_is_brighter_than_asphalt_beside_it() -> None:
    """In 'normal' frames the picture has a mark under the label: brighter than 0.45 m to both sides."""
    differences = []
    for index in range(0, 9 * 14, 9):
        scene = sample_scene("test", index)
        grey = cv2.cvtColor(render(scene), cv2.COLOR_BGR2GRAY).astype(float)
        for lane in scene.lanes:
            for x, y in lane[(lane[:, 1] > scene.view.skyline + 45) & (lane[:, 1] < 430)]:
                aside = 0.45 * (y - scene.view.horizon) / scene.view.height
                if aside < x < 1639 - aside:
                    row = grey[int(y)]
                    beside = max(row[round(x - aside)], row[round(x + aside)])
                    differences.append(row[round(x) - 1 : round(x) + 2].mean() - beside)
    differences = np.array(differences)
    # Dashes have gaps and paint is worn, so not everywhere; without paint the mean would be negative.
    assert np.mean(differences > 12) > 0.25
    assert np.mean(differences) > 6


def test_noline_shows_little_paint_and_night_is_dark_but_not_black() -> None:
    night = [render(sample_scene("test", 8 + 9 * k), **SMALL) for k in range(8)]
    day = [render(sample_scene("test", 9 * k), **SMALL) for k in range(8)]
    assert 4 < np.mean(night) < 50 < np.mean(day)
    assert min(np.percentile(image[40:90, 120:260], 90) for image in night) > 14
    strengths = [line.strength for k in range(20) for line in sample_scene("test", 4 + 9 * k).road.lines]
    assert max(strengths) < 0.2


def test_small_render_is_like_the_full_one_reduced() -> None:
    gaps = []
    for index in range(9):
        scene = sample_scene("val", index)
        reduced = cv2.resize(render(scene)[206:], (384, 128), interpolation=cv2.INTER_AREA)
        gaps.append(np.abs(reduced.astype(float) - render(scene, **SMALL)).mean())
    assert np.mean(gaps) < 4.0, gaps
    assert max(gaps) < 6.5, gaps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("tests", 0), "split 'tests'"), (("test", -1), "-1"), (("test", 0, "fog"), "'fog'")],
)
def test_mistakes_in_names(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sample_scene(*arguments)


@pytest.mark.parametrize(
    "wrong", [{"size": (0, 10)}, {"size": (1180, 1640)}, {"rows": (300, 300)}, {"rows": (0, 700)}]
)
def test_mistakes_in_sizes(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        render(sample_scene("test", 0), **wrong)
