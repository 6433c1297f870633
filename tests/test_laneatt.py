"""LaneATT: equal to the official code's numbers; anchors, suppression, geometry and matching by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden

import lane_models
from lane_models.laneatt.anchors import anchor_xs, cover, culane_anchors, feature_columns, line_anchors
from lane_models.laneatt.detector import LaneATTDetector
from lane_models.laneatt.loss import Labels, TrainingLoss, match
from lane_models.laneatt.model import _insert_diagonal
from lane_models.nms import suppress
from lane_models.row_lanes import lane_points, lane_rows


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "laneatt_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> LaneATTDetector:
    detector = lane_models.build("laneatt", "r18", {"model": golden.state_dict(), "epoch": 15})
    assert isinstance(detector, LaneATTDetector)
    return detector


def test_keys_are_the_official_ones(golden: Golden) -> None:
    model = lane_models.untrained("laneatt", "r18").model
    official = {e["key"]: e["shape"] for e in golden.meta["state_dict"]}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == official
    assert sum(p.numel() for p in model.parameters()) == golden.meta["counts"]["parameters"]


def test_anchors_are_the_official_ones(golden: Golden) -> None:
    anchors, stored = culane_anchors(), golden.arrays["geometry/anchors"]
    np.testing.assert_allclose(anchor_xs(anchors, 72, 640), stored[:, 5:], atol=1e-3)
    columns, readable = feature_columns(anchors, (360, 640), 32)
    assert np.array_equal(columns, golden.arrays["geometry/cut_xs"])
    assert np.array_equal(readable, ~golden.arrays["geometry/invalid_mask"])
    for order in ("stable", "quicksort"):
        key = "geometry/anchor_order" + ("_quicksort" if order == "quicksort" else "")
        assert np.array_equal(culane_anchors(order), line_anchors()[golden.arrays[key]])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["noise2024", "smooth0.4"])
def test_heads_and_lanes_equal_the_official_code(
    golden: Golden, official: LaneATTDetector, name: str
) -> None:
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
    regression = torch.cat([heads["length"], heads["offsets"]], dim=2)[0]
    for key, value in ((f"{name}/cls_logits", heads["classification"][0]), (f"{name}/reg", regression)):
        golden.assert_close(key, value, atol=2e-4 * golden.describe(key)["std"], rtol=0)
    lanes = official.decode(heads)[0]
    counts = golden.expected(f"{name}/lanes_after_nms.count")
    assert [len(lane.points) for lane in lanes] == counts.tolist()
    points = np.concatenate([lane.points for lane in lanes])
    np.testing.assert_allclose(points, golden.expected(f"{name}/lanes_after_nms.points"), atol=0.05)
    scores = [lane.score for lane in lanes]
    np.testing.assert_allclose(scores, golden.expected(f"{name}/lanes_after_nms.score"), atol=1e-5)


def test_lanes_scale_with_the_frame(golden: Golden, official: LaneATTDetector) -> None:
    with torch.inference_mode():
        heads = official.heads(golden.inputs()["smooth0.4"])
    small, large = official.decode(heads, (295, 820))[0], official.decode(heads, (590, 1640))[0]
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(2 * one.points, other.points)


def test_anchor_orders_differ_and_change_the_attention(golden: Golden) -> None:
    state, x = golden.state_dict(), golden.inputs()["noise2024"]
    heads = [lane_models.build("laneatt", variant, state).heads(x) for variant in ("r18", "r18-quicksort")]
    assert not torch.allclose(heads[0]["classification"], heads[1]["classification"], atol=1e-3)


def test_depth_122_has_the_published_layout() -> None:
    with torch.device("meta"):
        model = lane_models.untrained("laneatt", "r122").model
    keys = model.state_dict()
    assert keys["feature_extractor.layer3.19.conv2.weight"].shape == (64, 64, 3, 3)
    assert keys["attention_layer.weight"].shape == (999, 64 * 90)
    assert sum(".conv" in key for key in keys if key.startswith("feature_extractor.layer")) == 120


# ---- the small variant


def test_small_variant_runs_on_any_frame_and_batch() -> None:
    detector = lane_models.untrained("laneatt", "synthetic")
    frames = [np.full((h, w, 3), 90, np.uint8) for h, w in ((590, 1640), (720, 1280), (40, 60))]
    x = torch.stack([detector.transform(frame) for frame in frames])
    assert x.shape == (3, 3, *detector.input_size)
    heads = detector.heads(x)
    assert {name: tuple(head.shape) for name, head in heads.items()} == {
        "classification": (3, 192, 2),
        "length": (3, 192, 1),
        "offsets": (3, 192, 72),
    }
    weights = detector.foreground(heads)
    for name, head in heads.items():
        assert (weights[name] * head).shape == head.shape
        assert 0 <= weights[name].min() <= weights[name].max() <= 1
    assert len(detector.decode(heads)) == 3


def test_anchors_travel_with_the_weights_of_the_small_variant() -> None:
    source, target = (lane_models.untrained("laneatt", "synthetic").model for _ in range(2))
    source.place_anchors(line_anchors()[1000:1192])
    target.load_state_dict(source.state_dict())
    for name in ("anchors", "anchor_xs", "_cells", "_readable"):
        assert torch.equal(getattr(source, name), getattr(target, name))


def test_heads_that_are_not_finite_give_no_lanes() -> None:
    detector = lane_models.untrained("laneatt", "synthetic")
    heads = detector.heads(torch.zeros(1, 3, *detector.input_size))
    heads["classification"] = torch.tensor([-5.0, 5.0]).expand(1, 192, 2)
    for name in ("length", "offsets"):
        broken = {**heads, name: torch.full_like(heads[name], float("nan"))}
        assert detector.decode(broken) == [[]]


def test_every_declared_name_exists() -> None:
    for variant in ("r18", "synthetic"):
        detector = lane_models.untrained("laneatt", variant)
        for name in (*detector.output_layers, *detector.reconstruction_blocks):
            detector.model.get_submodule(name)
        assert len(detector.reconstruction_blocks) == 8


# ---- parts, by hand


def test_attention_skips_the_diagonal() -> None:
    attention = torch.arange(1.0, 7.0).reshape(1, 3, 2)
    expected = torch.tensor([[0.0, 1, 2], [3, 0, 4], [5, 6, 0]])
    assert torch.equal(_insert_diagonal(attention)[0], expected)


def proposals(*lanes: tuple[float, float, float, float]) -> tuple[np.ndarray, ...]:
    """Vertical lanes on 11 rows from (score, x, start row, length)."""
    scores, x, start, length = np.array(lanes, dtype=np.float32).T
    return scores, start / 10, length, np.repeat(x[:, None], 11, axis=1)


def test_the_better_of_two_close_lanes_stays() -> None:
    assert suppress(*proposals((0.6, 100, 0, 11), (0.9, 140, 0, 11)), 50, 4).tolist() == [1]
    # The distance must be below the threshold, not at it.
    assert suppress(*proposals((0.6, 100, 0, 11), (0.9, 150, 0, 11)), 50, 4).tolist() == [1, 0]


def test_a_suppressed_lane_suppresses_nobody() -> None:
    chain = proposals((0.9, 100, 0, 11), (0.8, 140, 0, 11), (0.7, 180, 0, 11))
    assert suppress(*chain, 50, 4).tolist() == [0, 2]


def test_lanes_without_common_rows_both_stay() -> None:
    assert suppress(*proposals((0.9, 100, 0, 4), (0.8, 100, 4, 5)), 50, 4).tolist() == [0, 1]


def test_only_common_rows_count() -> None:
    scores, starts, lengths, xs = proposals((0.9, 100, 0, 5), (0.8, 100, 0, 11))
    xs[1, 5:] = 1000
    assert suppress(scores, starts, lengths, xs, 50, 4).tolist() == [0]


def test_at_most_top_k_and_ties_in_order() -> None:
    lanes = proposals(*((0.5, 200.0 * i, 0, 11) for i in range(6)))
    assert suppress(*lanes, 50, 4).tolist() == [0, 1, 2, 3]


def test_starts_below_the_image_are_taken_as_row_zero() -> None:
    assert suppress(*proposals((0.9, 100, -3, 9), (0.8, 100, -3, 9)), 50, 4).tolist() == [0]


def test_a_lane_is_continued_downwards_while_it_stays_inside() -> None:
    xs = np.array([-0.2, 0.1, 0.2, 0.3, 0.4, 0.5])
    points = lane_points(xs, start=3, length=2)
    np.testing.assert_allclose(points, [[0.4, 0.2], [0.3, 0.4], [0.2, 0.6], [0.1, 0.8]])
    gap = np.array([0.1, 1.2, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(lane_points(gap, 3, 2)[:, 0], [0.4, 0.3, 0.2])


def test_a_lane_without_rows_has_no_points_above_its_start() -> None:
    xs = np.full(6, 0.5)
    assert len(lane_points(xs, 0, 0)) == 0
    assert len(lane_points(xs, 0, -9)) == 0
    assert len(lane_points(xs, 2, 100)) == 6


def test_labels_are_sampled_on_rows_and_continued_to_the_bottom() -> None:
    lane = np.array([[40.0, 60.0], [20.0, 80.0]])
    xs, start, length = lane_rows(lane, (100, 100), rows=11)
    np.testing.assert_allclose(
        xs, [np.nan if y < 60 else 40 - (y - 60) for y in range(100, -1, -10)], atol=1e-4
    )
    assert (start, length) == (0, 5)
    leaving = np.array([[40.0, 60.0], [-10.0, 90.0]])
    xs, start, length = lane_rows(leaving, (100, 100), rows=11)
    assert (start, length) == (2, 3)
    assert lane_rows(lane + 500, (100, 100), rows=11)[2] == 0


def test_matching_takes_the_nearest_label_and_leaves_a_gap() -> None:
    xs = np.repeat(np.array([[100.0], [112.0], [130.0], [300.0]], dtype=np.float32), 11, axis=1)
    lane = [np.array([[100.0, 100.0], [100.0, 0.0]])]
    matches = match(xs, np.zeros(4, dtype=np.int64), Labels.of(lane, (100, 400), 11), 10, 20)
    assert matches.positive.tolist() == [True, False, False, False]
    assert matches.negative.tolist() == [False, False, True, True]


def test_a_label_far_from_all_anchors_still_has_one() -> None:
    xs = np.repeat(np.array([[100.0], [200.0]], dtype=np.float32), 11, axis=1)
    lane = [np.array([[250.0, 100.0], [250.0, 0.0]])]
    matches = match(xs, np.zeros(2, dtype=np.int64), Labels.of(lane, (100, 400), 11), 10, 20)
    assert matches.positive.tolist() == [False, True]


def test_perfect_heads_have_no_geometry_loss_and_decode_to_the_label() -> None:
    detector = lane_models.untrained("laneatt", "synthetic")
    model, height = detector.model, detector.input_size[0]
    lane = np.array([[60.0, float(height)], [170.0, 30.0]])
    loss = TrainingLoss(model)
    loss.prepare([[lane]])
    label = Labels.of([lane], detector.input_size, 72)
    starts = np.round((1 - model.anchors[:, 1].numpy()) * 71).astype(np.int64)
    found = match(model.anchor_xs.numpy(), starts, label, loss.positive_below, loss.negative_above)
    logits = torch.where(
        torch.from_numpy(found.positive)[:, None], torch.tensor([-9.0, 9.0]), torch.tensor([9.0, -9.0])
    )
    length = torch.from_numpy(label.length[0] - (starts - label.start[0])).float()[:, None]
    known = np.where(np.isnan(label.xs[0]), 0, label.xs[0] - model.anchor_xs.numpy())
    heads = {"classification": logits[None], "length": length[None], "offsets": torch.from_numpy(known)[None]}
    terms = loss(heads, [[lane]])
    assert terms["geometry"] < 1e-6
    assert terms["classification"] < 1e-6
    assert loss(heads, [[]])["classification"] > 10
    (decoded,) = detector.decode(heads)[0]
    points = detector.crop.to_network(decoded.points)
    np.testing.assert_allclose(points[:, 0], np.interp(points[:, 1], lane[::-1, 1], lane[::-1, 0]), atol=0.1)


def test_chosen_anchors_cover_the_lanes() -> None:
    rng = np.random.default_rng(0)
    candidates = line_anchors(lateral_origins=20, bottom_origins=40)
    own = anchor_xs(candidates[rng.choice(len(candidates), 30, replace=False)], 72, 384)
    lanes = np.where((own >= 0) & (own < 384), own, np.nan)
    lanes = lanes[(~np.isnan(lanes)).sum(axis=1) > 20]
    chosen = cover(lanes, candidates, 384, 40, within=10.0)
    assert len(set(chosen.tolist())) == 40
    rows = anchor_xs(candidates[chosen], 72, 384)
    distance = np.nanmean(np.abs(rows[:, None] - lanes[None]), axis=2).min(axis=0)
    assert (distance < 10).all()


def test_geometry_agrees_with_decode() -> None:
    """Where a proposal scores highly, the differentiable x is the decoded lane's."""
    detector = lane_models.build("laneatt", "synthetic")
    with torch.no_grad():
        heads = detector.heads(torch.rand(2, 3, 128, 384, generator=torch.Generator().manual_seed(0)))
    heads["classification"][..., 1] += 4
    x, weight = detector.geometry(heads)
    lanes = detector.decode(heads)
    assert any(lanes)
    found = 0
    for image, several in enumerate(lanes):
        for lane in several:
            distances = [
                np.abs(np.sort(lane.points[:, 0]) - np.sort(x[image, a][weight[image, a] > 0].numpy())).max()
                for a in range(x.shape[1])
                if int((weight[image, a] > 0).sum()) == len(lane.points)
            ]
            found += min(distances, default=1e9) < 0.05
    assert found == sum(map(len, lanes))
