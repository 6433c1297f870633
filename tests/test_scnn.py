"""SCNN against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor

import lane_models
from lane_models.checkpoint import CheckpointError
from lane_models.scnn.decode import decode, slot_rules
from lane_models.scnn.detector import SCNNDetector
from lane_models.scnn.loss import TrainingLoss
from lane_models.scnn.model import SCNN, MessagePassing, SCNNConfig
from lane_models.slot_loss import slot_map
from selective_focus import Heads
from selective_focus.quantization.trace import trace

SIZES = {"r18": 12_415_049, "r34": 22_523_209, "vgg16": 20_742_729, "vgg16-harryhan618": 20_742_217}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden", "scnn_r18")


@pytest.fixture(scope="module")
def official(golden: Golden) -> SCNNDetector:
    detector = lane_models.build("scnn", "r18", {"model": golden.state_dict(), "lr_scheduler": None})
    assert isinstance(detector, SCNNDetector)
    return detector


@pytest.mark.parametrize("name", ["gauss", "smooth"])
def test_heads_and_lanes_are_official(golden: Golden, official: SCNNDetector, name: str) -> None:
    seen: dict[str, Tensor] = {}
    layers = {"backbone": "backbone", "reducer": "reducer", "message_passing": "message_passing"}
    hooks = [
        official.model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, stage=stage: seen.update({stage: out})
        )
        for stage, layer in layers.items()
    ]
    with torch.inference_mode():
        heads = official.heads(golden.inputs()[name])
    for hook in hooks:
        hook.remove()
    for stage, value in seen.items():
        golden.assert_close(f"{name}/stage/{stage}", value)
    golden.assert_close(f"{name}/out", heads["pixel_classes"])
    golden.assert_close(f"{name}/lane", heads["existence"][..., 0])
    expected = golden.meta["inputs"][name]["decoded"]["lanes"]
    for lane, wanted in zip(official.decode(heads)[0], expected, strict=True):
        np.testing.assert_array_equal(lane.points, wanted["points"])
        assert lane.score == pytest.approx(wanted["score"], abs=1e-5)


def test_keys_are_the_official_ones(golden: Golden, official: SCNNDetector) -> None:
    state = official.model.state_dict()
    wanted = golden.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("variant", SIZES)
def test_size_is_the_published_one(variant: str) -> None:
    with torch.device("meta"):
        model = lane_models.untrained("scnn", variant).model
    assert sum(p.numel() for p in model.parameters()) == SIZES[variant]


def test_vgg_has_both_layouts_and_the_same_function_but_for_the_messages() -> None:
    ours, port = (lane_models.untrained("scnn", variant).model for variant in ("vgg16", "vgg16-harryhan618"))
    keys = set(ours.state_dict())
    assert {"encoder.net.40.weight", "fc67.4.running_var", "scnn.conv_l.bias", "fc8.1.bias"} <= keys
    keys = set(port.state_dict())
    assert {"backbone.40.weight", "layer1.4.bias", "message_passing.up_down.weight", "fc.2.bias"} <= keys
    with torch.inference_mode():
        assert ours.backbone.eval()(torch.zeros(1, 3, 32, 48)).shape == (1, 512, 4, 6)


def test_old_name_of_the_existence_branch_and_a_wrong_variant() -> None:
    detector = lane_models.untrained("scnn", "synthetic")
    state = detector.model.state_dict()
    old = {key.replace("lane_classifier", "aux_head"): value + 1 for key, value in state.items()}
    detector.load_official({"model": old})
    assert torch.equal(
        detector.model.state_dict()["lane_classifier.linear2.bias"], old["aux_head.linear2.bias"]
    )
    with pytest.raises(CheckpointError, match="it fits variant 'synthetic'"):
        lane_models.untrained("scnn", "r18").load_official(state)


@pytest.mark.parametrize(
    ("variant", "family"), [("r18", "pytorch_auto_drive"), ("vgg16-harryhan618", "scnn_hh")]
)
def test_input_of_real_frames_is_official(shared: Path, variant: str, family: str) -> None:
    golden = np.load(shared / "golden" / "preprocess_b.npz")
    detector = lane_models.untrained("scnn", variant)
    for name in ("culane_demo_a.jpg", "culane_demo_b.jpg"):
        x = detector.transform(cv2.imread(str(shared / "real" / "lstr" / name)))
        values = x.flatten()[golden[f"{family}/{name}/idx"]]
        np.testing.assert_allclose(values, golden[f"{family}/{name}/val"], atol=1e-5)


@pytest.mark.parametrize("variant", ["r18", "synthetic"])
def test_declared_blocks_run_once_and_hold_what_runs_often(variant: str) -> None:
    detector = lane_models.untrained("scnn", variant)
    seen = trace(detector.model, torch.randn(1, 3, *detector.input_size))
    blocks = detector.reconstruction_blocks
    assert all(seen.calls[name] == 1 for name in (*blocks, *detector.output_layers))
    often = {name: calls for name, calls in seen.calls.items() if calls > 1}
    rows, columns = detector.config.map_size
    assert often.pop("message_passing.relu") == 2 * (rows + columns) - 6
    expected = {"conv_d": rows - 1, "conv_u": rows - 2, "conv_r": columns - 1, "conv_l": columns - 2}
    assert often == {f"message_passing.{name}": calls for name, calls in expected.items()}


# ---- message passing


@pytest.mark.parametrize("last_updated", [False, True])
def test_messages_run_down_up_right_and_left(last_updated: bool) -> None:
    layer = MessagePassing(1, bias=False, last_updated=last_updated).requires_grad_(False)
    for conv in (layer.conv_d, layer.conv_u, layer.conv_r, layer.conv_l):
        conv.weight.zero_()
    x = torch.zeros(1, 1, 4, 3)
    x[0, 0, 1, 1] = 1

    def only(conv: torch.nn.Conv2d, weight: float = 0.5) -> Tensor:
        conv.weight.flatten()[4] = weight
        out = layer(x)[0, 0]
        conv.weight.zero_()
        return out

    assert only(layer.conv_d)[:, 1].tolist() == [0, 1, 0.5, 0.25]
    assert only(layer.conv_u)[:, 1].tolist() == [0.5 if last_updated else 0, 1, 0, 0]
    assert only(layer.conv_r)[1].tolist() == [0, 1, 0.5]
    assert only(layer.conv_l)[1].tolist() == [0.5 if last_updated else 0, 1, 0]
    assert only(layer.conv_d, -1.0)[:, 1].tolist() == [0, 1, 0, 0], "a negative message is none"


# ---- decoding


def upright(detector: SCNNDetector, column: int, slot: int = 2) -> Heads:
    """One lane: a column of the map, all rows."""
    logits = torch.zeros(1, 5, *detector.config.map_size)
    logits[:, 0] = 6
    logits[0, slot, :, column] = 12
    existence = torch.full((1, 4, 1), -6.0)
    existence[0, slot - 1] = 6
    return {"pixel_classes": logits, "existence": existence}


@pytest.mark.parametrize("variant", ["r18", "synthetic"])
def test_lane_lands_in_the_frame(variant: str) -> None:
    detector = lane_models.untrained("scnn", variant)
    width = detector.input_size[1]
    columns = detector.config.map_size[1]
    heads = upright(detector, column := columns // 3)
    [[lane]] = detector.decode(heads)
    centre = column * (width - 1) / (columns - 1) * 1640 / width
    np.testing.assert_allclose(lane.points[:, 0], centre, atol=1640 / width)
    ys = slot_rules(detector.config).ys
    np.testing.assert_array_equal(lane.points[:, 1], ys)
    assert np.all(np.diff(ys) < 0)
    [[half]] = detector.decode(heads, (295, 820))
    np.testing.assert_allclose(half.points * 2, lane.points)
    heads["pixel_classes"].requires_grad_()
    x, weight = detector.geometry(heads)
    np.testing.assert_allclose(x[0, 1].detach(), centre, atol=20)
    assert float(weight[0, 1].min()) > 0.9 > 0.1 > float(weight[0, 0].max())
    x.sum().backward()
    assert heads["pixel_classes"].grad is not None


def test_small_variant_finds_lanes_between_the_cells_of_its_map() -> None:
    detector = lane_models.untrained("scnn", "synthetic")
    heads = upright(detector, 20)
    between = heads["pixel_classes"].clone()
    between[0, 2, :, 21] = 12
    [[first]], [[second]] = (
        detector.decode({**heads, "pixel_classes": x}) for x in (heads["pixel_classes"], between)
    )
    cell = 1640 / 47 * 383 / 384
    np.testing.assert_allclose(second.points[:, 0] - first.points[:, 0], cell / 2, atol=2)


def test_rows_and_slots_that_are_unsure_are_left_out() -> None:
    detector = lane_models.untrained("scnn", "synthetic")
    heads = upright(detector, 20)
    heads["pixel_classes"][0, 0, :8] = 20  # the upper half is background
    [[lane]] = detector.decode(heads)
    assert 390 < lane.points[:, 1].min() < 420
    heads["existence"][:] = -0.1
    assert detector.decode(heads) == [[]]
    heads = upright(detector, 20)
    heads["pixel_classes"][0, 2, 3, 3] = torch.nan
    heads["existence"][0, 0] = torch.nan
    assert all(np.isfinite(lane.points).all() for lane in detector.decode(heads)[0])


def test_foreground_is_where_the_lane_is() -> None:
    detector = lane_models.untrained("scnn", "synthetic")
    heads = upright(detector, 20)
    foreground = detector.foreground(heads)
    assert foreground.keys() == heads.keys()
    for name, weight in foreground.items():
        assert torch.broadcast_shapes(weight.shape, heads[name].shape) == heads[name].shape
        assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    assert float(foreground["pixel_classes"][0, 0, :, 20].min()) > 0.9
    assert float(foreground["pixel_classes"][0, 0, :, 30].max()) < 0.1
    assert torch.equal(foreground["existence"], torch.ones_like(heads["existence"]))


# ---- training


def straight(x: float, slope: float, size: tuple[int, int]) -> np.ndarray:
    y = np.linspace(size[0], 0.2 * size[0], 20)
    return np.stack((x + slope * (size[0] - y), y), axis=1)


def test_slots_are_drawn_as_classes_as_wide_as_culane_labels() -> None:
    size = (128, 384)
    drawn = slot_map(
        [straight(100, 0, size), straight(300, 0, size), straight(200, 0, size)], [1, 4, 0], size
    )
    assert set(np.unique(drawn)) == {0, 1, 4}
    assert drawn[100, 100] == 1
    assert drawn[100, 300] == 4
    assert int((drawn[100] == 1).sum()) * 1640 / 384 == pytest.approx(16, abs=6)
    assert not drawn[:20].any()


SMALL = SCNNConfig(backbone="pyramid", width=8, channels=16, input_size=(64, 192), refine=8)


def test_losses_by_hand() -> None:
    loss = TrainingLoss(SCNN(SMALL))
    even = {"pixel_classes": torch.zeros(1, 5, 8, 24), "existence": torch.zeros(1, 4, 1)}
    terms = loss(even, [[straight(50, 0, (64, 192))]], [[2]])
    assert float(terms["pixel_classes"]) == pytest.approx(np.log(5))
    assert float(terms["existence"]) == pytest.approx(0.1 * np.log(2))
    even["pixel_classes"][:, 0] = 9
    background = loss(even, [[]], [[]])
    assert float(background["pixel_classes"]) < 1e-3
    # one missed lane pixel weighs as much as 2.5 of background
    lane = loss(even, [[straight(50, 0, (64, 192))]], [[2]])
    share = float(
        (torch.from_numpy(slot_map([straight(50, 0, (64, 192))], [2], (64, 192))) > 0).float().mean()
    )
    assert float(lane["pixel_classes"]) == pytest.approx(9 * share / (share + 0.4 * (1 - share)), rel=0.01)


def test_few_lanes_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    model, size = SCNN(SMALL).train(), SMALL.input_size
    lanes = [[straight(50, 0.6, size), straight(150, -0.6, size)], [straight(90, 0.1, size)]]
    slots = [[2, 3], [2]]
    drawn = np.stack([slot_map(one, [1] * len(one), size) for one in lanes])
    x = torch.from_numpy(drawn).float()[:, None].repeat(1, 3, 1, 1) * 2 - 0.2
    loss, optimizer = TrainingLoss(model), torch.optim.AdamW(model.parameters(), 5e-3)
    history: list[dict[str, float]] = []
    for _ in range(60):
        terms = loss(model(x), lanes, slots)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    for name, before in history[0].items():
        assert history[-1][name] < 0.3 * before, name
    with torch.inference_mode():
        found = decode(model(x), SMALL)
    for image, labels in zip(found, lanes, strict=True):
        for lane, label in zip(image, labels, strict=True):
            x_label = np.interp(lane.points[:, 1] * 64 / 590, label[::-1, 1], label[::-1, 0])
            assert np.abs(lane.points[:, 0] * 192 / 1640 - x_label).mean() < 3
