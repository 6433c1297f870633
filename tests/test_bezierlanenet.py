"""BézierLaneNet against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

import lane_models
from lane_models.bezierlanenet import VARIANTS, BezierLaneNetDetector
from lane_models.bezierlanenet.decode import chosen_queries, local_maxima
from lane_models.bezierlanenet.loss import TrainingLoss, drawn_lanes, label_curves, match_quality
from lane_models.deform_conv import DeformConv2d
from selective_focus import Heads
from selective_focus.quantization.trace import trace


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "bezierlanenet_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> BezierLaneNetDetector:
    detector = lane_models.build("bezierlanenet", "r18", weights=golden.state_dict())
    assert isinstance(detector, BezierLaneNetDetector)
    return detector


@pytest.mark.parametrize("name", ["gauss", "smooth"])
def test_heads_and_lanes_are_official(golden: Golden, official: BezierLaneNetDetector, name: str) -> None:
    model, seen = official.model, {}
    layers = {
        "dilated_blocks": model.dilated_blocks,
        "conv_offset": model.simple_flip_2d.conv_offset,
        "deform_conv": model.simple_flip_2d.proj2_conv,
        "flip_fusion": model.simple_flip_2d,
        "head_trunk": model.regression_head,
        "backbone": model.backbone,
    }
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, stage=stage: seen.update({stage: out}))
        for stage, layer in layers.items()
    ]
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
        segmentation = model.segmentation_head(seen["backbone"][-1])
    for hook in hooks:
        hook.remove()
    seen["backbone"] = seen["backbone"][-1]
    for stage, value in seen.items():
        golden.assert_close(f"{name}/stage/{stage}", value)
    golden.assert_close(f"{name}/segmentations", segmentation)
    golden.assert_close(f"{name}/logits", heads["existence"][..., 0])
    golden.assert_close(f"{name}/curves", heads["control_points"])
    expected = golden.meta["inputs"][name]["decoded"]["lanes"]
    for lane, wanted in zip(official.decode(heads)[0], expected, strict=True):
        np.testing.assert_allclose(lane.points, wanted["points"], atol=0.2)
        assert lane.score == pytest.approx(wanted["score"], abs=1e-4)


def test_state_dict_is_official(golden: Golden, official: BezierLaneNetDetector) -> None:
    state, written = golden.state_dict(), official.model.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert sum(p.numel() for p in official.model.parameters()) == golden.meta["params"]


def test_r34_has_the_published_size() -> None:
    model = lane_models.build("bezierlanenet", "r34").model
    assert sum(p.numel() for p in model.parameters()) == 9_637_924


def test_declared_names_exist_and_run_once_and_batch_norms_follow_their_layers() -> None:
    detector = lane_models.build("bezierlanenet", "r18")
    seen = trace(detector.model, torch.randn(1, 3, 64, 160))
    for name in (*detector.reconstruction_blocks, *detector.output_layers):
        assert seen.calls[name] == 1, name
    assert seen.batch_norm_of["simple_flip_2d.proj2_conv"] == "simple_flip_2d.proj2_norm"
    assert not any(name.startswith("segmentation_head") for name in seen.calls)


# ---- deformable convolution


def test_deform_conv_without_moves_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, x = DeformConv2d(3, 5).double(), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    still, full = torch.zeros(2, 18, 6, 7).double(), torch.ones(2, 9, 6, 7).double()
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, still, full), expected)
    without_bias = expected - layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, still, full / 2), without_bias / 2 + layer.bias[:, None, None])


def test_deform_conv_reads_dy_then_dx_and_nothing_outside() -> None:
    layer = DeformConv2d(1, 1).requires_grad_(False)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 1, 1] = 1  # the centre tap, number 4
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    moves = torch.zeros(1, 18, 3, 4)
    moves[:, 8], moves[:, 9] = 0.5, 1.0  # half a row down, one column to the right
    out = layer(x, moves, torch.ones(1, 9, 3, 4))[0, 0]
    assert float(out[0, 0]) == pytest.approx((1 + 5) / 2)
    assert float(out[2, 0]) == pytest.approx(9 / 2)  # the corner below the map counts 0
    assert float(out[1, 3]) == 0  # a column to the right of the map


def test_deform_conv_gradients() -> None:
    torch.manual_seed(1)
    layer = DeformConv2d(2, 2).double()
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    moves = (torch.rand(1, 18, 4, 3).double() * 0.6 + 0.2).requires_grad_()
    weights = torch.rand(1, 9, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, moves, weights))


# ---- decoding


def test_first_of_equal_maxima_wins() -> None:
    scores = np.array([0.2, 1.0, 1.0, 0.5, 0.1, 0.1, 0.1, 0.9])
    np.testing.assert_array_equal(np.flatnonzero(local_maxima(scores, 5)), [1, 7])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.94, 0.96, 0.97, 0.98, 0.99, 1.0]), min_size=20, max_size=60))
def test_chosen_queries_are_few_apart_and_confident(values: list[float]) -> None:
    scores = np.array(values)
    chosen = chosen_queries(scores, VARIANTS["r18"])
    assert len(chosen) <= 4
    assert all(scores[q] > 0.95 for q in chosen)
    assert all(np.diff(chosen) > 4)


def one_lane(detector: BezierLaneNetDetector, query: int = 3) -> Heads:
    """A straight lane from the middle of the lower edge to the middle of the image's upper left quarter."""
    queries = detector.input_size[1] // 16
    existence = torch.full((1, queries, 1), -9.0)
    existence[0, query] = 9.0
    t = torch.linspace(0, 1, 4)
    line = torch.stack((0.5 - 0.25 * t, 1 - 0.75 * t), dim=1)
    return {"existence": existence, "control_points": line.expand(1, queries, 4, 2).clone()}


def test_small_variant_decodes_into_the_whole_frame() -> None:
    detector = lane_models.build("bezierlanenet", "synthetic")
    [[lane]] = detector.decode(one_lane(detector))
    np.testing.assert_allclose(lane.points[0], (820, 590))
    np.testing.assert_allclose(lane.points[-1], (410, 206 + 0.25 * 384))
    [[half]] = detector.decode(one_lane(detector), image_size=(295, 820))
    np.testing.assert_allclose(half.points * 2, lane.points)


@pytest.mark.parametrize(
    ("head", "value"),
    [("existence", torch.nan), ("control_points", torch.nan), ("control_points", torch.inf)],
)
def test_values_that_are_not_finite_give_no_lane_and_hide_none(head: str, value: float) -> None:
    detector = lane_models.build("bezierlanenet", "synthetic")
    heads = one_lane(detector)
    heads[head].flatten(2)[0, 3, 0] = value
    assert detector.decode(heads) == [[]]
    heads = one_lane(detector)
    heads["existence"][0, 4] = 12.0
    heads[head].flatten(2)[0, 4, 0] = value
    assert len(detector.decode(heads)[0]) == 1


@pytest.mark.parametrize("variant", ["r18", "synthetic"])
def test_geometry_agrees_with_decode_and_foreground_marks_the_lane(variant: str) -> None:
    detector = lane_models.build("bezierlanenet", variant)
    heads = one_lane(detector)
    heads["control_points"].requires_grad_()
    coordinates, weight = detector.geometry(heads)
    [[lane]] = detector.decode(heads)
    np.testing.assert_allclose(coordinates[0, 3].detach().reshape(-1, 2), lane.points, atol=1e-2)
    assert float(weight[0, 3].min()) > 0.99 > 0.01 > float(weight[0, 4].max())
    coordinates.sum().backward()
    assert heads["control_points"].grad is not None
    foreground = detector.foreground(heads)
    for name, head in heads.items():
        assert torch.broadcast_shapes(foreground[name].shape, head.shape) == head.shape
    assert int(foreground["control_points"].flatten().argmax()) == 3


# ---- training


def test_label_curve_follows_its_lane_from_the_bottom_and_stays_inside() -> None:
    y = np.arange(-20.0, 160, 10)
    lane = np.stack((100 + 0.8 * y, y), axis=1)
    [curve] = label_curves([lane, lane[:1], lane + 1000], (128, 384)) * (384, 128)
    assert curve[0, 1] > curve[-1, 1]
    np.testing.assert_allclose(curve[:, 0], 100 + 0.8 * curve[:, 1], atol=0.05)
    assert curve.min() > -0.5
    assert curve[:, 1].max() == pytest.approx(128, abs=1)


def test_matching_prefers_the_near_and_the_sure_and_only_peaks() -> None:
    label = np.stack((np.full(10, 0.5), np.linspace(1, 0, 10)), axis=1)[None]
    curves = np.concatenate((label, label + 0.05, label))
    quality = match_quality(np.array([0.5, 0.9, 0.2]), curves, label, window=1, alpha=0.8)[:, 0]
    assert quality[0] == pytest.approx(0.5**0.2)
    assert quality[1] == pytest.approx(0.9**0.2 * 0.9**0.8)
    assert quality[1] > quality[0] > quality[2]
    peaks_only = match_quality(np.array([0.5, 0.9, 0.2]), curves, label, window=3, alpha=0.8)[:, 0]
    np.testing.assert_array_equal(peaks_only > 0, [False, True, False])


def test_loss_is_small_where_the_heads_are_right_and_handles_no_lanes() -> None:
    detector = lane_models.build("bezierlanenet", "synthetic")
    loss = TrainingLoss(detector.model)
    heads = one_lane(detector)
    height, width = detector.input_size
    t = np.linspace(0, 1, 30)[:, None]
    lane = np.array([0.5, 1.0]) * (width, height) - t * np.array([0.25 * width, 0.75 * height])
    drawn = torch.from_numpy(drawn_lanes([lane], (height, width)))
    heads["segmentation"] = F.interpolate(drawn[None, None], (height // 16, width // 16)) * 20 - 10
    right = loss(heads, [[lane]])
    assert float(right["curve"]) < 1e-3
    assert float(right["existence"]) < 1e-3
    wrong = loss(heads, [[lane + np.array([40, 0])]])
    assert float(wrong["curve"]) == pytest.approx(40 / width, rel=0.05)
    empty = loss(heads, [[]])
    assert float(empty["curve"]) == 0
    assert all(bool(term.isfinite()) for term in empty.values())


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = lane_models.build("bezierlanenet", "synthetic").model.train()
    loss, optimizer = TrainingLoss(model), torch.optim.Adam(model.parameters(), 2e-3)
    y = np.linspace(127, 10, 20)
    lanes = [[np.stack((np.full(20, 60.0 + 80 * i), y), axis=1)] for i in range(4)]
    drawn = np.stack([drawn_lanes(image, (128, 384)) for image in lanes])
    x = 3 * torch.from_numpy(drawn)[:, None].expand(-1, 3, -1, -1) - 0.5
    history: list[dict[str, float]] = []
    for _ in range(15):
        terms = loss(model(x), lanes)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    for name, before in history[0].items():
        assert history[-1][name] < 0.8 * before, name
