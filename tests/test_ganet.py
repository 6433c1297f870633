"""GANet against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor

import lane_models
from lane_models.checkpoint import CheckpointError
from lane_models.deform_conv import DeformConv2d
from lane_models.ganet.decode import at_points, decode, groups_of, key_points
from lane_models.ganet.detector import GANetDetector
from lane_models.ganet.loss import TrainingLoss, labels_of
from lane_models.ganet.model import GANet, GANetConfig, LaneAggregator
from lane_models.road_crop import RoadCrop
from selective_focus import Heads
from selective_focus.quantization.trace import trace

SIZES = {"s_r18": 20_787_972, "m_r34": 30_896_132}
NEVER_RUN = 5_986_350
INPUTS = ["noise2024", "smooth0.2"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "ganet_s_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> GANetDetector:
    state = {f"module.{key}": value for key, value in golden.state_dict().items()}
    detector = lane_models.build("ganet", "s_r18", {"meta": {}, "state_dict": state})
    assert isinstance(detector, GANetDetector)
    return detector


def assert_close(golden: Golden, key: str, value: Tensor) -> None:
    """Within 2e-4 of the tensor's standard deviation."""
    golden.assert_close(key, value, atol=2e-4 * golden.describe(key)["std"], rtol=0)


@pytest.mark.parametrize("name", INPUTS)
def test_heads_and_lanes_are_official(golden: Golden, official: GANetDetector, name: str) -> None:
    model, seen = official.model, {}
    aggregator = model.neck.def_convs[0]
    hooks = [
        model.backbone.register_forward_hook(lambda _m, _i, out: seen.update({"backbone.c5": out[-1]})),
        model.neck.register_forward_hook(
            lambda _m, _i, out: seen.update({"neck.aux": out[0], "neck.p3": out[1]})
        ),
        aggregator.reppoints_pts_init_out.register_forward_hook(
            lambda _m, _i, out: seen.update({"neck.points": out})
        ),
    ]
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
    for hook in hooks:
        hook.remove()
    seen["kpts_logits"], seen["cpts_logits"] = heads["keypoint_map"], heads["root_map"]
    seen["pts_offset"], seen["int_offset"] = heads["root_offsets"], heads["cell_offsets"]
    for stage, value in seen.items():
        assert_close(golden, f"{name}/{stage}", value)
    found = torch.nonzero(key_points(heads)[0, 0] > official.config.threshold).flip(1)
    np.testing.assert_array_equal(found, golden.expected(f"{name}/keypoint_cell"))
    roots = golden.expected(f"{name}/keypoint_root")
    np.testing.assert_array_equal(groups_of(roots, 3.0), golden.expected(f"{name}/keypoint_group"))
    lanes = official.decode(heads)[0]
    assert [len(lane.points) for lane in lanes] == golden.expected(
        f"{name}/lanes_after_filter.count"
    ).tolist()
    points = np.concatenate([lane.points for lane in lanes])
    np.testing.assert_array_equal(points, golden.expected(f"{name}/lanes_after_filter.points"))
    scores = [lane.score for lane in lanes]
    np.testing.assert_allclose(scores, golden.expected(f"{name}/lanes_after_filter.score"), atol=1e-4)
    for small, large in zip(official.decode(heads, (295, 820))[0], lanes, strict=True):
        np.testing.assert_allclose(2 * small.points, large.points)


def test_keys_are_the_official_ones(golden: Golden, official: GANetDetector) -> None:
    state, wanted = official.model.state_dict(), golden.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


@pytest.fixture(scope="module")
def unweighted() -> GANetDetector:
    with torch.device("meta"):
        detector = lane_models.untrained("ganet", "s_r18")
    assert isinstance(detector, GANetDetector)
    return detector


@pytest.mark.parametrize("variant", SIZES)
def test_size_is_the_published_one(variant: str) -> None:
    with torch.device("meta"):
        model = lane_models.untrained("ganet", variant).model
    assert sum(p.numel() for p in model.parameters()) == SIZES[variant]


def test_weights_of_another_variant_are_named() -> None:
    with torch.device("meta"):
        state = lane_models.untrained("ganet", "m_r34").model.state_dict()
        with pytest.raises(CheckpointError, match="it fits variant 'm_r34'"):
            lane_models.untrained("ganet", "s_r18").load_official(state)


def test_declared_blocks_run_once_and_what_is_never_read_does_not_run(unweighted: GANetDetector) -> None:
    with torch.device("meta"):
        seen = trace(unweighted.model, torch.empty(1, 3, *unweighted.input_size))
    assert set(seen.calls.values()) == {1}
    assert {*unweighted.reconstruction_blocks, *unweighted.output_layers} <= seen.calls.keys()
    idle = [
        module
        for name, module in unweighted.model.named_modules()
        if name not in seen.calls and not list(module.children())
    ]
    outputs = 2 * (
        9 * 64 * 64 + 64
    )  # of the pyramid's coarser levels, which the official code runs for nothing
    assert sum(p.numel() for module in idle for p in module.parameters()) == NEVER_RUN + outputs


# ---- aggregation


def test_points_are_absolute_and_replace_the_taps() -> None:
    """Seven points at one place, as the predicting layer's bias says: the convolution reads that place only."""
    aggregator = LaneAggregator(2, 3, 7)
    torch.nn.init.zeros_(aggregator.reppoints_pts_init_out.weight)
    aggregator.reppoints_pts_init_out.bias.data.copy_(torch.tensor([1.0, -2.0] * 7))
    x = torch.randn(1, 2, 6, 9)
    with torch.no_grad():
        tower = aggregator.cls_convs(x)
        summed = torch.einsum("oikl,nihw->nohw", aggregator.reppoints_cls_conv.weight, tower)
        found = aggregator(x)
    expected = torch.zeros_like(found)
    expected[..., :5, 2:] = summed[..., 1:, :-2]  # one row down, two columns to the left; 0 outside
    torch.testing.assert_close(found, expected.relu())


def test_a_row_of_taps_without_modulation_is_a_convolution() -> None:
    layer, x = DeformConv2d(3, 5, (1, 7), bias=False).double(), torch.randn(2, 3, 6, 9).double()
    still = torch.zeros(2, 14, 6, 9, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=(0, 3))
    torch.testing.assert_close(layer(x, still), expected)


# ---- decoding


def test_key_points_join_the_first_group_that_has_a_root_near() -> None:
    roots = np.array([[0.0, 0], [10, 0], [2.5, 0], [7.5, 0], [5.2, 0], [30, 0]])
    # (5.2, 0) is near (2.5, 0) of the first group and near (7.5, 0) of the second.
    assert groups_of(roots, 3.0).tolist() == [0, 1, 0, 1, 0, 2]
    assert groups_of(np.array([[0.0, 0], [3, 0]]), 3.0).tolist() == [0, 0]
    assert groups_of(np.zeros((0, 2)), 3.0).tolist() == []


def two_lanes() -> Heads:
    """Two upright lanes, columns 30 and 60, from rows 10 and 25 down; roots at the lowest row."""
    keypoints, roots = torch.full((1, 1, 40, 100), -6.0), torch.zeros(1, 2, 40, 100)
    for column, top in ((30, 10), (60, 25)):
        keypoints[0, 0, top:, column] = 6.0
        keypoints[0, 0, top:, column + 1] = 5.0
        roots[0, 1, top:, column] = 39.0 - torch.arange(top, 40)
    return {
        "keypoint_map": keypoints,
        "root_map": torch.full((1, 1, 40, 100), -6.0),
        "root_offsets": roots,
        "cell_offsets": torch.full((1, 2, 40, 100), 0.5),
    }


def test_lanes_land_in_the_frame(unweighted: GANetDetector) -> None:
    heads = two_lanes()
    first, second = unweighted.decode(heads)[0]
    np.testing.assert_array_equal(first.points[:, 1], 270 + 4 + 8 * np.arange(10, 40))
    np.testing.assert_array_equal(first.points[:, 0], np.trunc(30.5 * 8 * 2.05))
    assert len(second.points) == 15
    assert second.score == pytest.approx(1 / (1 + np.exp(-6)))
    half = unweighted.decode(heads, (295, 820))[0]
    np.testing.assert_allclose(half[0].points * 2, first.points)
    heads["keypoint_map"][0, 0, 29:, 60] = -6.0  # four points are no lane, nor are eleven without one
    heads["keypoint_map"][0, 0, 29:, 61] = -6.0
    heads["cell_offsets"][0, 0, 12, 30] = torch.nan
    [lane] = unweighted.decode(heads)[0]
    assert len(lane.points) == 29


def test_geometry_agrees_with_decoding_and_has_gradients(unweighted: GANetDetector) -> None:
    heads = two_lanes()
    heads["cell_offsets"].requires_grad_()
    coordinates, weight = unweighted.geometry(heads)
    assert coordinates.shape == weight.shape == (1, 4000, 2)
    lanes = unweighted.decode(heads)[0]
    counted = weight[0, :, 0] > 0.5
    assert int(counted.sum()) == sum(len(lane.points) for lane in lanes)
    points = np.concatenate([lane.points for lane in lanes])
    found = coordinates[0, counted].detach().numpy()
    np.testing.assert_allclose(found[np.argsort(found[:, 0], kind="stable")], points, atol=1)
    (coordinates * weight).sum().backward()
    assert float(heads["cell_offsets"].grad[0, 0, 20, 30]) > 1
    assert not weight.requires_grad


def test_foreground_is_where_the_points_are(unweighted: GANetDetector) -> None:
    heads = two_lanes()
    foreground = unweighted.foreground(heads)
    assert foreground.keys() == heads.keys()
    for name, weight in foreground.items():
        assert torch.broadcast_shapes(weight.shape, heads[name].shape) == heads[name].shape
        assert 0 < float(weight.min()) <= float(weight.max()) < 1
    assert float(foreground["root_offsets"][0, 0, 10:, 30].min()) > 0.9
    assert float(foreground["root_offsets"][0, 0, :9].max()) < 0.1
    assert float(foreground["root_map"].max()) < 0.1


# ---- training

SMALL = GANetConfig(
    width=8, channels=16, wide=16, input_size=(64, 192), crop=RoadCrop(size=(64, 192)), radius=2.0, least=2
)


def straight(x: float, slope: float, height: int = 64) -> np.ndarray:
    y = np.linspace(height - 1, 0.2 * height, 20)
    return np.stack((x + slope * (height - y), y), axis=1)


def test_labels_by_hand() -> None:
    image, points, roots = labels_of([[], [straight(88, -0.5), straight(-500, 0)]], (8, 24))
    assert image.tolist() == [1] * 6
    assert points[:, 1].tolist() == [2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(points[:, 0], 11 - 0.5 * np.arange(6, 0, -1), atol=1e-6)
    assert torch.equal(roots, points[-1:].expand(6, 2))
    assert all(len(part) == 0 for part in labels_of([[]], (8, 24)))


def test_few_lanes_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = GANet(SMALL).train()
    lanes = [[straight(50, 0.6), straight(150, -0.6)], [straight(90, 0.1)], []]
    x = torch.zeros(3, 3, 64, 192)
    for image, one in enumerate(lanes):
        for lane in one:
            rows = np.arange(13, 64)
            columns = np.round(np.interp(rows, lane[::-1, 1], lane[::-1, 0])).astype(int)
            x[image, :, rows, columns - 1] = x[image, :, rows, columns] = 2
    loss, optimizer = TrainingLoss(model), torch.optim.AdamW(model.parameters(), 1e-2)
    history: list[dict[str, float]] = []
    for _ in range(20):
        terms = loss(model(x), lanes)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    idle = ("neck.fpn_convs.1", "neck.fpn_convs.2", "neck.def_convs.1", "neck.def_convs.2")
    assert all(name.startswith(idle) or "refine" in name for name in silent), silent
    for name, before in history[0].items():
        # That a cell is a lane's lowest is learned more slowly than all else.
        limit = 1.0 if name == "roots" else 0.6
        assert history[-1][name] < limit * before, (name, before, history[-1][name])
    with torch.inference_mode():
        heads = model(x)
    image, points, roots = labels_of(lanes, SMALL.map_size)
    column, row = points.long().unbind(1)
    for name, wanted in (("root_offsets", roots), ("cell_offsets", points)):
        found = at_points(heads, name)[image, :, row, column]
        assert float((found - wanted).abs().mean()) < 0.8, name
    assert float(heads["keypoint_map"][image, 0, row, column].sigmoid().mean()) > 0.3
    assert all(np.isfinite(lane.points).all() for lane in decode(heads, SMALL)[0])
