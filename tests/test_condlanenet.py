"""CondLaneNet against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor

import lane_models
from lane_models.backbones.resnet import BasicBlock
from lane_models.checkpoint import CheckpointError
from lane_models.condlanenet.decode import (
    at_cells,
    dense_lanes,
    expected_columns,
    last_of_groups,
    starts,
)
from lane_models.condlanenet.decode import lane_rows as rows_of
from lane_models.condlanenet.detector import CondLaneNetDetector
from lane_models.condlanenet.loss import BLUR, TrainingLoss, labels_of, two_columns
from lane_models.condlanenet.model import RARE, CondLaneNet, CondLaneNetConfig, conditional_maps
from lane_models.key_points import heat_map
from selective_focus import Heads
from selective_focus.quantization.trace import trace

SIZES = {"s_r18": 11_934_859, "m_r34": 22_043_019}
INPUTS = ["noise2024", "smooth0.2"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "condlanenet_s_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> CondLaneNetDetector:
    detector = lane_models.build("condlanenet", "s_r18", {"meta": {}, "state_dict": golden.state_dict()})
    assert isinstance(detector, CondLaneNetDetector)
    return detector


def assert_close(golden: Golden, key: str, value: Tensor) -> None:
    """Within 2e-4 of the tensor's standard deviation."""
    golden.assert_close(key, value, atol=2e-4 * golden.describe(key)["std"], rtol=0)


@pytest.mark.parametrize("name", INPUTS)
def test_heads_and_lanes_are_official(golden: Golden, official: CondLaneNetDetector, name: str) -> None:
    model, seen = official.model, {}
    hooks = [
        model.backbone.register_forward_hook(lambda _m, _i, out: seen.update({"backbone.c5": out[-1]})),
        model.neck.trans_head.register_forward_hook(lambda _m, _i, out: seen.update({"neck.attention": out})),
        model.neck.register_forward_hook(
            lambda _m, _i, out: seen.update({"fpn.p3": out[0], "fpn.p4": out[1]})
        ),
    ]
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
    for hook in hooks:
        hook.remove()
    seen["hm_logits"], seen["mask_branch"] = heads["heat_map"], heads["features"]
    seen["params"] = torch.cat((heads["location_kernels"], heads["offset_kernels"]), dim=1)
    for stage, value in seen.items():
        assert_close(golden, f"{name}/{stage}", value)
    lanes = official.decode(heads)[0]
    assert [len(lane.points) for lane in lanes] == golden.expected(f"{name}/lanes_after_nms.count").tolist()
    points = np.concatenate([lane.points for lane in lanes])
    np.testing.assert_allclose(points, golden.expected(f"{name}/lanes_after_nms.points"), atol=0.05)
    scores = [lane.score for lane in lanes]
    np.testing.assert_allclose(scores, golden.expected(f"{name}/lanes_after_nms.score"), atol=1e-4)
    for small, large in zip(official.decode(heads, (295, 820))[0], lanes, strict=True):
        np.testing.assert_allclose(2 * small.points, large.points)


@pytest.mark.parametrize("name", INPUTS)
def test_what_starts_give_is_official(golden: Golden, official: CondLaneNetDetector, name: str) -> None:
    """The dynamic convolutions and the range of all starts, before they are grouped."""
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
        peaks = starts(heads)[0, 0]
        cells = torch.nonzero(peaks.flatten() > 0.5)[:, 0]
        location, offset = (
            conditional_maps(at_cells(heads[kind][0], cells)[None], heads["features"])[0]
            for kind in ("location_kernels", "offset_kernels")
        )
    y, x = np.divmod(cells.numpy(), peaks.shape[1])
    np.testing.assert_array_equal(np.stack((x, y), axis=1), golden.expected(f"{name}/seed_coord"))
    np.testing.assert_allclose(peaks.flatten()[cells], golden.expected(f"{name}/seed_score"), atol=1e-4)
    assert_close(golden, f"{name}/row_logits", location)
    assert_close(golden, f"{name}/offset", offset)
    assert_close(
        golden, f"{name}/range_logits", heads["row_range"][0].flatten(2)[..., cells].permute(2, 0, 1)
    )
    assert_close(golden, f"{name}/row_expectation", expected_columns(location))
    kept = last_of_groups(np.stack((x, y), axis=1), official.config.grouping)
    assert kept == golden.expected(f"{name}/kept_seed").tolist()


def test_keys_are_the_official_ones(golden: Golden, official: CondLaneNetDetector) -> None:
    state, wanted = official.model.state_dict(), golden.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("variant", SIZES)
def test_size_is_the_published_one(variant: str) -> None:
    with torch.device("meta"):
        model = lane_models.untrained("condlanenet", variant).model
    assert sum(p.numel() for p in model.parameters()) == SIZES[variant]


def test_weights_of_another_variant_are_named() -> None:
    with torch.device("meta"):
        state = lane_models.untrained("condlanenet", "m_r34").model.state_dict()
        with pytest.raises(CheckpointError, match="it fits variant 'm_r34'"):
            lane_models.untrained("condlanenet", "s_r18").load_official(state)


@pytest.mark.parametrize("variant", ["s_r18", "synthetic"])
def test_declared_blocks_and_every_other_layer_run_once(variant: str) -> None:
    with torch.device("meta"):
        detector = lane_models.untrained("condlanenet", variant)
        seen = trace(detector.model, torch.empty(1, 3, *detector.input_size))
    assert all(seen.calls[name] == 1 for name in (*detector.reconstruction_blocks, *detector.output_layers))
    assert set(seen.calls.values()) == {1}
    modules = dict(detector.model.named_modules())
    assert sum(isinstance(modules[name], BasicBlock) for name in detector.reconstruction_blocks) == 8
    # What nothing reads does not run.
    assert not any(name.startswith("neck.fpn_convs.2") for name in seen.calls)


# ---- input, by hand


def test_input_is_the_road_in_opencv_s_colours() -> None:
    detector = lane_models.untrained("condlanenet", "synthetic")
    assert detector.transform(np.zeros((590, 1640, 3), np.uint8)).shape == (3, 128, 384)
    with torch.device("meta"):
        detector = lane_models.untrained("condlanenet", "s_r18")
    image = np.zeros((590, 1640, 3), np.uint8)
    image[270:] = (10, 20, 30)
    image[:270] = 255
    x = detector.transform(image)
    assert x.shape == (3, 320, 800)
    expected = torch.tensor([(10 - 75.3) / 50.5, (20 - 76.6) / 53.8, (30 - 77.6) / 54.3])
    torch.testing.assert_close(x, expected[:, None, None].expand_as(x))
    half = detector.transform(np.ascontiguousarray(image[::2, ::2]))
    torch.testing.assert_close(half, x)


# ---- decoding


def test_a_kernel_weighs_place_and_features() -> None:
    features = torch.zeros(1, 2, 3, 4)
    features[0, 1, 2, 3] = 5
    kernel = torch.tensor([[[8.0, 4.0, 0.0, 2.0, RARE]]])
    found = conditional_maps(kernel, features)[0, 0]
    # Both coordinates in parts of the four columns.
    expected = torch.tensor([[8 * x / 4 + 4 * y / 4 for x in range(4)] for y in range(3)])
    expected[2, 3] += 10
    torch.testing.assert_close(found, expected)


def test_starts_join_the_first_group_near_and_the_last_one_stands() -> None:
    cells = np.array([[0, 0], [10, 0], [4, 0], [8, 0], [20, 5], [7, 0]])
    # (8, 0) is within 4 of (4, 0), which belongs to the first group; (7, 0) then of (8, 0) and (4, 0).
    assert last_of_groups(cells, 4.0) == [5, 1, 4]
    assert last_of_groups(np.zeros((0, 2), dtype=np.int64), 4.0) == []


def test_range_grows_by_a_row_at_either_end() -> None:
    inside = np.array([False, False, True, False, True, False])
    assert rows_of(inside).tolist() == [1, 2, 3, 4, 5]
    assert rows_of(np.ones(4, dtype=bool)).tolist() == [0, 1, 2, 3]
    assert rows_of(np.zeros(4, dtype=bool)).tolist() == []


def upright(detector: CondLaneNetDetector, column: int, start: tuple[int, int] = (6, 10)) -> Heads:
    """One lane, a column of the map without the uppermost five rows; it starts in the cell (row, column) ``start``."""
    config = detector.config
    (rows, columns), channels = config.map_size, config.channels
    h, w = rows // 2, columns // 2
    features = torch.zeros(1, channels, rows, columns)
    features[0, 0, :, column] = 1
    kernels = {f"{kind}_kernels": torch.zeros(1, channels + 3, h, w) for kind in ("location", "offset")}
    kernels["location_kernels"][0, 2, start[0], start[1]] = 30
    kernels["offset_kernels"][0, -1] = RARE + 0.25
    heat = torch.full((1, 1, h, w), -6.0)
    heat[0, 0, start[0], start[1]] = 6
    ranges = torch.zeros(1, 2, rows, h, w)
    ranges[0, 0, :6] = 9
    ranges[0, 1, 6:] = 9
    return {"heat_map": heat, **kernels, "features": features, "row_range": ranges}


@pytest.fixture(scope="module")
def small() -> CondLaneNetDetector:
    detector = lane_models.untrained("condlanenet", "synthetic")
    assert isinstance(detector, CondLaneNetDetector)
    return detector


def test_lane_lands_in_the_frame(small: CondLaneNetDetector) -> None:
    heads = upright(small, 20)
    [[lane]] = small.decode(heads)
    np.testing.assert_allclose(lane.points[:, 0], 20.25 * 8 * 1640 / 384, atol=0.01)
    np.testing.assert_allclose(lane.points[:, 1], 206 + np.arange(5, 16) * 24)
    assert lane.score == pytest.approx(1 / (1 + np.exp(-6)))
    [[half]] = small.decode(heads, (295, 820))
    np.testing.assert_allclose(half.points * 2, lane.points)


def test_values_that_are_not_finite_give_no_lane(small: CondLaneNetDetector) -> None:
    for name in ("heat_map", "location_kernels", "features"):
        heads = upright(small, 20)
        heads[name][0, 0, 6, 10] = torch.nan
        lanes = small.decode(heads)[0]
        assert all(np.isfinite(lane.points).all() for lane in lanes), name
        assert lanes == [] or name == "heat_map"


def test_geometry_agrees_with_decoding_and_has_gradients(small: CondLaneNetDetector) -> None:
    heads = {name: head.requires_grad_() for name, head in upright(small, 20).items()}
    x, weight = small.geometry(heads)
    assert x.shape == weight.shape == (1, 8 * 24, 16)
    [[lane]] = small.decode(heads)
    cell = 6 * 24 + 10
    np.testing.assert_allclose(x[0, cell, 5:].detach(), lane.points[:, 0], atol=0.1)
    assert float(weight[0, cell, 6:].min()) > 0.9 > 0.01 > float(weight[0, :cell].max())
    assert not weight.requires_grad
    x[0, cell].sum().backward()
    for name in ("location_kernels", "offset_kernels", "features"):
        assert float(heads[name].grad.abs().max()) > 0, name


def test_full_precision_peaks_count_for_both_networks(small: CondLaneNetDetector) -> None:
    """The other network's start is in another cell, so the same cell of both is compared."""
    first, other = upright(small, 20), upright(small, 20, start=(5, 12))
    (x, weight), (moved, _) = small.geometry(first), small.geometry(other)
    cell = 6 * 24 + 10
    assert float((weight * (x - moved).abs()).sum(dim=2)[0].argmax()) == cell
    assert float(weight[0, cell, 8]) > 0.9


def test_foreground_is_where_the_lane_is(small: CondLaneNetDetector) -> None:
    heads = upright(small, 20)
    foreground = small.foreground(heads)
    assert foreground.keys() == heads.keys()
    for name, weight in foreground.items():
        assert torch.broadcast_shapes(weight.shape, heads[name].shape) == heads[name].shape
        assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    along = foreground["features"][0, 0]
    assert float(along[6:, 20].min()) > 0.9
    assert float(along[6:, :19].max()) < 0.1 > float(along[:5].max())
    assert foreground["location_kernels"][0, 0].argmax() == 6 * 24 + 10


# ---- training

SMALL = CondLaneNetConfig(width=8, channels=16, input_size=(64, 192), grouping=2.0, threshold=0.4)


def straight(x: float, slope: float, height: int = 64) -> np.ndarray:
    y = np.linspace(height - 1, 0.2 * height, 20)
    return np.stack((x + slope * (height - y), y), axis=1)


def test_labels_by_hand() -> None:
    labels = labels_of([[], [straight(88, 0), straight(-500, 0)]], (8, 24))
    assert labels.image.tolist() == [1]
    assert labels.start.tolist() == [[5, 3]]  # x = 11 cells of 8 px, lowest row 7
    assert labels.columns[0].isnan().tolist() == [True] * 2 + [False] * 6
    assert labels.columns[0, 2:].tolist() == [11.0] * 6
    assert labels.inside[0].tolist() == [False] * 3 + [True] * 4 + [False]
    target = heat_map(labels.image, labels.start, (2, 4, 12), BLUR)
    assert not target[0].any()
    assert target[1, 3, 5] == 1 > target[1, 3, 6] == target[1, 2, 5] > 0.3
    torch.testing.assert_close(
        two_columns(torch.tensor([2.25, 3.0]), 5),
        torch.tensor([[0, 0, 0.75, 0.25, 0], [0, 0, 0, 1.0, 0]]),
    )


def test_few_lanes_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = CondLaneNet(SMALL).train()
    lanes = [[straight(50, 0.6), straight(150, -0.6)], [straight(90, 0.1)], []]
    x = torch.zeros(3, 3, 64, 192)
    for image, one in enumerate(lanes):
        for lane in one:
            rows = np.arange(13, 64)
            columns = np.round(np.interp(rows, lane[::-1, 1], lane[::-1, 0])).astype(int)
            x[image, :, rows, columns - 1] = x[image, :, rows, columns] = 2
    loss, optimizer = TrainingLoss(model), torch.optim.AdamW(model.parameters(), 1e-2)
    history: list[dict[str, float]] = []
    for _ in range(26):
        terms = loss(model(x), lanes)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == ["neck.fpn_convs.2.conv.weight", "neck.fpn_convs.2.conv.bias"]
    for name, before in history[0].items():
        assert history[-1][name] < 0.5 * before, (name, before, history[-1][name])
    with torch.inference_mode():
        heads = model(x)
    columns, weight = dense_lanes(heads)
    for image, one in enumerate(lanes):
        labels = labels_of([one], SMALL.map_size)
        for (start_x, start_y), wanted in zip(labels.start.tolist(), labels.columns, strict=True):
            cell = start_y * SMALL.map_size[1] // 2 + start_x
            known = wanted.isfinite()
            assert float((columns[image, cell] - wanted)[known].abs().mean()) < 1
            assert float(weight[image, cell].max()) > 0.3


def test_images_without_lanes_teach_the_heat_map_alone() -> None:
    model = CondLaneNet(SMALL).train()
    terms = TrainingLoss(model)(model(torch.zeros(2, 3, 64, 192)), [[], []])
    assert float(terms.pop("starts").detach()) > 0
    assert all(float(term.detach()) == 0 for term in terms.values())
    sum(terms.values()).backward()
