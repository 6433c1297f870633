"""CLRNet against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import Golden
from torch import Tensor

import lane_models
from lane_models.checkpoint import CheckpointError
from lane_models.clrnet.decode import lane_xs
from lane_models.clrnet.detector import CLRNetDetector
from lane_models.clrnet.loss import TrainingLoss, assign, costs, drawn_lanes, label_priors, line_iou
from lane_models.clrnet.model import CLRNet, CLRNetConfig
from lane_models.clrnet.priors import initial_priors, line_xs, sample
from lane_models.row_lanes import lane_rows
from selective_focus import Heads
from selective_focus.quantization.trace import trace

SIZES = {"r18": 11_774_387, "r34": 21_882_547, "dla34": 15_868_707}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "clrnet_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> CLRNetDetector:
    fresh = lane_models.untrained("clrnet", "r18").model.state_dict()
    state = {f"module.{key}": value for key, value in golden.state_dict(fresh).items()}
    detector = lane_models.build("clrnet", "r18", {"net": state, "epoch": 15})
    assert isinstance(detector, CLRNetDetector)
    return detector


@pytest.mark.parametrize("name", ["noise2024", "smooth"])
def test_heads_and_lanes_are_official(golden: Golden, official: CLRNetDetector, name: str) -> None:
    model, seen = official.model, {}
    stages = iter(range(3))
    hooks = [
        model.backbone.register_forward_hook(lambda _m, _i, out: seen.update({"backbone.c5": out[-1]})),
        model.neck.register_forward_hook(lambda _m, _i, out: seen.update({"fpn.p3": out[0]})),
        model.heads.roi_gather.register_forward_hook(
            lambda _m, _i, out: seen.update({f"stage{next(stages)}.roi_gather": out})
        ),
    ]
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
    for hook in hooks:
        hook.remove()
    for stage, value in seen.items():
        golden.assert_close(f"{name}/{stage}", value)
    assert_close(golden, f"{name}/stage2.cls_logits", heads["classification"][0], slice(None))
    assert_close(golden, f"{name}/stage2.reg", heads["offsets"][0], slice(4, None))
    for head, columns in (("start", slice(2, 4)), ("angle", slice(4, 5)), ("length", slice(5, 6))):
        assert_close(golden, f"{name}/output", heads[head], columns)
    lanes = official.decode(heads)[0]
    assert [len(lane.points) for lane in lanes] == golden.expected(f"{name}/lanes_after_nms.count").tolist()
    points = np.concatenate([lane.points for lane in lanes])
    np.testing.assert_allclose(points, golden.expected(f"{name}/lanes_after_nms.points"), atol=0.05)
    scores = [lane.score for lane in lanes]
    np.testing.assert_allclose(scores, golden.expected(f"{name}/lanes_after_nms.score"), atol=1e-5)
    for small, large in zip(official.decode(heads, (295, 820))[0], lanes, strict=True):
        np.testing.assert_allclose(2 * small.points, large.points)


def assert_close(golden: Golden, key: str, value: Tensor, columns: slice) -> None:
    """Some columns of a golden tensor, within 2e-4 of their standard deviation."""
    wanted = golden.expected(key)[..., columns]
    np.testing.assert_allclose(value.numpy(), wanted, atol=2e-4 * wanted.std(), rtol=0, err_msg=key)


def test_keys_and_buffers_are_the_official_ones(golden: Golden) -> None:
    model = lane_models.untrained("clrnet", "r18").model
    state = model.state_dict()
    assert {e["key"]: e["shape"] for e in golden.meta["state_dict"]} == {
        key: list(value.shape) for key, value in state.items()
    }
    for key in (k.removeprefix("buffer/") for k in golden.arrays if k.startswith("buffer/")):
        np.testing.assert_allclose(state[key].numpy(), golden.arrays[f"buffer/{key}"], atol=1e-6, err_msg=key)


@pytest.mark.parametrize("variant", SIZES)
def test_size_is_the_published_one(variant: str) -> None:
    with torch.device("meta"):
        model = lane_models.untrained("clrnet", variant).model
    assert sum(p.numel() for p in model.parameters()) == SIZES[variant]


@pytest.mark.parametrize("variant", ["dla34", "r101"])
def test_other_backbones_give_strides_8_to_32(variant: str) -> None:
    backbone = lane_models.untrained("clrnet", variant).model.backbone.eval()
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(x.shape[1] for x in maps) == backbone.channels


def test_weights_of_another_variant_are_named() -> None:
    state = lane_models.untrained("clrnet", "r34").model.state_dict()
    with pytest.raises(CheckpointError, match="it fits variant 'r34'"):
        lane_models.untrained("clrnet", "r18").load_official(state)


def test_stored_priors_are_used_and_training_refreshes_them() -> None:
    detector = lane_models.untrained("clrnet", "synthetic")
    model, x = detector.model, torch.randn(2, 3, 128, 384)
    with torch.no_grad():
        before = detector.heads(x)
        model.heads.prior_embeddings.weight += 0.01
        assert torch.equal(detector.heads(x)["start"], before["start"])
        model.train()(x)
        model.eval()
        assert torch.allclose(model.heads.priors[:, 2:5], model.heads.prior_embeddings.weight)
        assert not torch.allclose(detector.heads(x)["start"], before["start"])


@pytest.mark.parametrize("variant", ["r18", "dla34", "synthetic"])
def test_declared_blocks_run_once_and_hold_what_runs_often(variant: str) -> None:
    detector = lane_models.untrained("clrnet", variant)
    seen = trace(detector.model, torch.randn(1, 3, *detector.input_size))
    blocks = detector.reconstruction_blocks
    assert all(seen.calls[name] == 1 for name in blocks)
    often = [name for name, calls in seen.calls.items() if calls > 1]
    assert often
    assert all(name.startswith(tuple(f"{block}." for block in blocks)) for name in often)
    assert all(name in seen.calls for name in detector.output_layers)
    assert seen.batch_norm_of["heads.roi_gather.f_key.conv"] == "heads.roi_gather.f_key.bn"
    assert not any("seg_decoder" in name for name in seen.calls)


# ---- priors


def test_features_are_read_as_grid_sample_reads_them() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    xs = torch.rand(2, 4, 6, dtype=torch.float64) * 1.6 - 0.3
    ys = torch.linspace(0, 1, 6, dtype=torch.float64)
    grid = torch.stack((xs, ys.expand_as(xs)), dim=-1) * 2 - 1
    expected = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(sample(features, xs, ys), expected.transpose(2, 3))


def test_reading_has_gradients_to_features_and_places() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    xs = (torch.rand(1, 2, 3, dtype=torch.float64) * 0.2 + 0.4).requires_grad_()
    ys = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f, x: sample(f, x, ys), (features, xs))


def test_lines_lean_as_their_angle_says() -> None:
    ys = torch.linspace(1, 0, 5)
    xs = line_xs(torch.tensor([[0.0, 0.5], [0.5, 0.25]]), torch.tensor([[0.5], [0.25]]), ys, (100, 201))
    torch.testing.assert_close(xs[0], torch.full((5,), 0.5), atol=1e-4, rtol=0)
    # 45 degrees to the right: half the height up, a quarter of the width on, through x 0.25 at half height
    torch.testing.assert_close(xs[1], torch.linspace(0.0, 0.5, 5), atol=1e-4, rtol=0)


def test_priors_must_divide_among_the_edges() -> None:
    assert initial_priors(96).shape == (96, 3)
    with pytest.raises(ValueError, match="multiple of 16"):
        initial_priors(100)


# ---- decoding


def one_lane(detector: CLRNetDetector, prior: int = 3) -> Heads:
    """An upright lane at a quarter of the width, over the lower half of the image."""
    count, rows = detector.config.priors, detector.config.rows
    logits = torch.tensor([5.0, -5.0]).expand(1, count, 2).clone()
    logits[0, prior] = torch.tensor([-5.0, 5.0])
    return {
        "classification": logits,
        "start": torch.tensor([0.0, 0.25]).expand(1, count, 2).clone(),
        "angle": torch.full((1, count, 1), 0.5),
        "length": torch.full((1, count, 1), 36 / (rows - 1)),
        "offsets": torch.zeros(1, count, rows),
    }


@pytest.mark.parametrize(("variant", "top"), [("r18", 270), ("synthetic", 206)])
def test_lane_lands_in_the_frame_and_geometry_agrees(variant: str, top: int) -> None:
    detector = lane_models.untrained("clrnet", variant)
    heads = one_lane(detector)
    heads["offsets"].requires_grad_()
    [[lane]] = detector.decode(heads)
    np.testing.assert_allclose(lane.points[:, 0], 410, atol=0.1)
    assert lane.points[-1, 1] == pytest.approx(590)
    assert lane.points[0, 1] == pytest.approx(590 - 35 / 71 * (590 - top))
    x, weight = detector.geometry(heads)
    rows = weight[0, 3] > 0.5
    assert int(rows.sum()) == len(lane.points) == 36
    np.testing.assert_allclose(x[0, 3][rows].detach().flip(0), lane.points[:, 0], atol=1e-3)
    assert float(weight[0, 4].max()) < 0.5
    x.sum().backward()
    assert float(heads["offsets"].grad.abs().min()) > 0
    for name, score in detector.foreground(heads).items():
        assert torch.broadcast_shapes(score.shape, heads[name].shape) == heads[name].shape
        assert not score.requires_grad


def test_values_that_are_not_finite_give_no_lane() -> None:
    detector = lane_models.untrained("clrnet", "synthetic")
    for head in ("start", "angle", "length", "offsets"):
        heads = one_lane(detector)
        heads[head][0, 3, 0] = torch.nan
        assert detector.decode(heads) == [[]], head


def test_input_is_the_road_in_bgr() -> None:
    frame = np.zeros((590, 1640, 3), dtype=np.uint8)
    frame[270:] = (51, 102, 255)
    x = lane_models.untrained("clrnet", "r18").transform(frame)
    assert x.shape == (3, 320, 800)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.amin(dim=(1, 2)), torch.tensor([0.2, 0.4, 1.0]))
    half = lane_models.untrained("clrnet", "r18").transform(np.ascontiguousarray(frame[::2, ::2]))
    torch.testing.assert_close(half.amin(dim=(1, 2)), torch.tensor([0.2, 0.4, 1.0]))


# ---- training


def test_label_is_a_prior_with_rows() -> None:
    # on a 100 x 201 image, 45 degrees to the right from (40, 100) up to (80, 60); row distance 10
    lane = np.array([[80.0, 60.0], [40.0, 100.0]])
    [label] = label_priors([lane, lane[:1], lane + 1000], (100, 201), rows=11).numpy()
    np.testing.assert_allclose(label[:4], (0, 40 / 200, 0.25, 5 / 10), atol=1e-6)
    np.testing.assert_allclose(label[4:9] * 200, (40, 50, 60, 70, 80), atol=1e-4)
    assert np.isnan(label[9:]).all()
    start, angle = torch.from_numpy(label[:2]), torch.from_numpy(label[2:3])
    drawn = line_xs(start, angle, torch.linspace(1, 0, 11), (100, 201))
    np.testing.assert_allclose(drawn[:5], label[4:9], atol=1e-4)


def test_line_iou_by_hand() -> None:
    label = torch.tensor([0.5, 0.5, torch.nan])
    lines = torch.tensor([[0.5, 0.5, 9.0], [0.51, 0.51, 0.0], [0.52, 0.52, 0.0], [0.6, 0.6, 0.0]])
    iou = line_iou(lines, label, radius=0.01)
    torch.testing.assert_close(iou, torch.tensor([1.0, 1 / 3, 0.0, -2 / 3]), atol=1e-4, rtol=0)


def test_assignment_takes_the_cheapest_and_as_many_as_overlap() -> None:
    overlap = torch.tensor([[0.9, 0.1], [0.8, -0.5], [0.7, -0.5], [0.0, -0.5], [-0.2, -0.5]])
    cost = torch.tensor([[-3.0, -9.0], [-2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    prior, own = assign(cost, overlap)
    # the first label wants two (0.9 + 0.8 + 0.7 = 2.4), the second one; both want prior 0, cheaper for the second
    assert dict(zip(prior.tolist(), own.tolist(), strict=True)) == {0: 1, 1: 0}


def test_cost_prefers_the_near_and_the_sure() -> None:
    rows = torch.linspace(0.3, 0.5, 6)
    label = torch.cat((torch.tensor([0.0, 0.3, 0.4, 1.0]), rows))[None]
    predicted = label.repeat(3, 1)
    predicted[1, 4:] += 0.2
    predicted[1, 1] += 0.2
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-4.0, 4.0]])
    cost = costs(logits, predicted, label, torch.tensor([5.0, 100.0, 180.0, 5.0]))[:, 0]
    assert cost[2] < cost[0] < cost[1]


def straight(x: float, slope: float, size: tuple[int, int]) -> np.ndarray:
    y = np.linspace(size[0], 0.2 * size[0], 20)
    return np.stack((x + slope * (size[0] - y), y), axis=1)


SMALL = CLRNetConfig(
    width=8,
    channels=16,
    mid_channels=8,
    priors=32,
    samples=12,
    classes=2,
    input_size=(64, 192),
    nms_threshold=10,
)


def test_perfect_heads_cost_nothing_and_none_are_wanted_without_lanes() -> None:
    model = CLRNet(SMALL)
    loss, size = TrainingLoss(model), SMALL.input_size
    lane = straight(60, 0.5, size)
    label = label_priors([lane], size, SMALL.rows)[0]
    stage = torch.zeros(32, 6 + SMALL.rows)
    stage[:, 0], stage[0, :2] = 9.0, torch.tensor([-9.0, 9.0])
    stage[:, 2:6] = label[:4]
    stage[1:, 3] += 0.3
    lines = model.heads.lines(stage[:1, 2:4], stage[:1, 4:5])
    stage[0, 6:] = (label[4:] - lines).nan_to_num()[0]
    drawn = torch.from_numpy(drawn_lanes([lane], size)).float() * 40 - 20
    segmentation = torch.stack((-drawn, drawn))[None]
    heads = {"stages": stage.expand(1, 3, -1, -1), "segmentation": segmentation}
    terms = loss(heads, [[lane]])
    assert all(0 <= float(term) < 1e-2 for term in terms.values()), terms
    empty = loss(heads, [[]])
    assert float(empty["line_iou"]) == float(empty["geometry"]) == 0
    assert float(empty["classification"]) > 1


def test_few_lanes_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    model, size = CLRNet(SMALL).train(), SMALL.input_size
    lanes = [[straight(50, 0.6, size), straight(150, -0.6, size)], [straight(90, 0.1, size)]]
    x = torch.from_numpy(np.stack([drawn_lanes(one, size) for one in lanes])).float()
    x = x[:, None].repeat(1, 3, 1, 1) * 2 - 0.2
    loss, optimizer = TrainingLoss(model), torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, 60)
    history: list[dict[str, float]] = []
    for _ in range(60):
        terms = loss(model(x), lanes)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        schedule.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    for name, before in history[0].items():
        assert history[-1][name] < 0.5 * before, name
    with torch.inference_mode():
        heads = model(x)
    best = heads["classification"].softmax(dim=-1)[..., 1].argmax(dim=1)
    xs = lane_xs(heads, model) * (size[1] - 1)
    for image, prior in enumerate(best):
        labels = [lane_rows(lane, size, SMALL.rows)[0] for lane in lanes[image]]
        assert min(np.nanmean(np.abs(label - xs[image, prior].numpy())) for label in labels) < 5
