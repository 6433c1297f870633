"""RESA against the official code on filled weights, and its own parts by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor, nn

import lane_models
from lane_models.backbones.bottleneck import Bottleneck
from lane_models.backbones.resnet import BasicBlock
from lane_models.checkpoint import CheckpointError
from lane_models.lane_slots import class_logits
from lane_models.resa.decode import slot_rules
from lane_models.resa.detector import RESADetector
from lane_models.resa.loss import TrainingLoss
from lane_models.resa.model import ALPHA, RESA, RESAConfig, ShiftAggregator, Upsampler
from lane_models.road_crop import RoadCrop
from lane_models.slot_loss import slot_map
from selective_focus import Heads
from selective_focus.quantization.trace import trace

SIZES = {"r18": 6_617_646, "r34": 12_005_166, "zju_r34": 24_287_438, "zju_r50": 26_707_406}
GOLDEN = {"r18": "resa_r18", "zju_r34": "resa_zju_r34"}
STAGES = {
    "r18": {"backbone": "backbone", "reducer": "reducer", "aggregator": "resa"}
    | {f"decoder.layers.{i}": f"up{i + 1}" for i in range(3)},
    "zju_r34": {"reducer": "backbone_with_reducer", "aggregator": "resa", "decoder": "seg_stride8"},
}


@pytest.fixture(scope="module", params=GOLDEN)
def official(shared: Path, request: pytest.FixtureRequest) -> tuple[Golden, RESADetector]:
    """Of both families: the golden file, and a detector with its weights as the release nests them."""
    golden = Golden(shared / "golden", GOLDEN[request.param])
    nest = "net" if request.param.startswith("zju") else "model"
    detector = lane_models.build("resa", request.param, {nest: golden.state_dict(), "epoch": 1})
    assert isinstance(detector, RESADetector)
    return golden, detector


@pytest.mark.parametrize("name", ["gauss", "smooth"])
def test_heads_and_lanes_are_official(official: tuple[Golden, RESADetector], name: str) -> None:
    golden, detector = official
    seen: dict[str, Tensor] = {}
    hooks = [
        detector.model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, stage=stage: seen.update({stage: out})
        )
        for layer, stage in STAGES[detector.variant].items()
    ]
    with torch.inference_mode():
        heads = detector.heads(golden.inputs()[name])
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(STAGES[detector.variant])
    for stage, value in seen.items():
        golden.assert_close(f"{name}/stage/{stage}", value)
    existence = heads["existence"][..., 0]
    if detector.config.original:
        # The original resizes the logits and applies the sigmoid inside the network.
        golden.assert_close(f"{name}/seg", class_logits(heads, detector.input_size, aligned=False))
        golden.assert_close(f"{name}/exist", existence.sigmoid())
    else:
        golden.assert_close(f"{name}/out", heads["pixel_classes"])
        golden.assert_close(f"{name}/lane", existence)
    expected = golden.meta["inputs"][name]["decoded"]["lanes"]
    for lane, wanted in zip(detector.decode(heads)[0], expected, strict=True):
        np.testing.assert_array_equal(lane.points, wanted["points"])
        assert lane.score == pytest.approx(wanted["score"], abs=1e-5)


def test_keys_are_the_official_ones(official: tuple[Golden, RESADetector]) -> None:
    golden, detector = official
    state = detector.model.state_dict()
    wanted = {key.removeprefix("module."): value for key, value in golden.state_dict().items()}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("variant", SIZES)
def test_size_is_the_published_one(variant: str) -> None:
    with torch.device("meta"):
        model = lane_models.untrained("resa", variant).model
    assert sum(p.numel() for p in model.parameters()) == SIZES[variant]


def test_dilation_of_the_backbones() -> None:
    def dilations(variant: str, stage: str) -> list[tuple[int, ...]]:
        with torch.device("meta"):
            model = lane_models.untrained("resa", variant).model
        blocks = model.get_submodule(f"backbone.{stage}").children()
        convs = [
            (b.conv1, b.conv2) if isinstance(b, BasicBlock) else (b.conv1, b.conv2, b.conv3) for b in blocks
        ]
        return [tuple(conv.dilation[0] for conv in block) for block in convs[:2]]

    assert dilations("r34", "layer3") == [(1, 1), (2, 1)]
    assert dilations("zju_r34", "layer3") == [(1, 1), (2, 2)]
    assert dilations("zju_r34", "layer4") == [(2, 2), (4, 4)]
    assert dilations("zju_r50", "layer3") == [(1, 1, 1), (1, 2, 1)]
    assert dilations("zju_r50", "layer4") == [(1, 2, 1), (1, 4, 1)]


def test_weights_of_another_family_are_refused_by_name() -> None:
    with torch.device("meta"):
        state = lane_models.untrained("resa", "r18").model.state_dict()
        with pytest.raises(CheckpointError, match="fits variant 'r18'"):
            lane_models.untrained("resa", "zju_r34").load_official(state)
    assert "lane_classifier.layers_final.1.weight" in state


def test_input_of_real_frames_is_official(shared: Path) -> None:
    golden = np.load(shared / "golden" / "preprocess_b.npz")
    for variant, family in (("r18", "pytorch_auto_drive"), ("zju_r34", "resa_zju")):
        with torch.device("meta"):
            detector = lane_models.untrained("resa", variant)
        for name in ("culane_demo_a.jpg", "culane_demo_b.jpg"):
            x = detector.transform(cv2.imread(str(shared / "real" / "lstr" / name)))
            values = x.flatten()[golden[f"{family}/{name}/idx"]]
            np.testing.assert_allclose(values, golden[f"{family}/{name}/val"], atol=1e-4)


@pytest.mark.parametrize("variant", ["r18", "zju_r50"])
def test_declared_blocks_run_once_and_every_layer_does(variant: str) -> None:
    with torch.device("meta"):
        detector = lane_models.untrained("resa", variant)
        seen = trace(detector.model, torch.empty(1, 3, *detector.input_size))
    blocks = detector.reconstruction_blocks
    assert all(seen.calls[name] == 1 for name in (*blocks, *detector.output_layers))
    kinds = [type(detector.model.get_submodule(name)) for name in blocks]
    assert kinds.count(ShiftAggregator) == 1
    assert kinds.count(Upsampler) == (0 if detector.config.original else 3)
    assert (
        kinds.count(Bottleneck if detector.config.original else BasicBlock)
        == {"r18": 6, "zju_r50": 16}[variant]
    )
    shifts = sum(isinstance(m, nn.Conv2d) for m in detector.model.aggregator.modules())
    assert {name: calls for name, calls in seen.calls.items() if calls > 1} == {"aggregator.relu": shifts}


# ---- shifts


def test_shifts_go_around_the_edge_in_growing_steps() -> None:
    """A single pixel, and convolutions that pass it on as it is: each shift doubles what has been reached."""
    aggregator = ShiftAggregator(1, 3)
    for parameter in aggregator.parameters():
        nn.init.zeros_(parameter)
    x = torch.zeros(1, 1, 16, 24)
    x[0, 0, 5, 7] = 1
    with torch.no_grad():
        aggregator.conv_d[0].weight[0, 0, 0, 4] = 1  # of 3 shifts the first goes 16 / 8 = 2 rows
        aggregator.conv_l[2].weight[0, 0, 4, 0] = 1  # the last goes half of 24 columns
        found = aggregator(x)
    # Downwards a row reads the row two on: row 3 reads row 5. To the left a column reads the one 12 before it.
    expected = torch.zeros(16, 24)
    expected[5, 7] = expected[5, 19] = 1
    expected[3, 7], expected[3, 19] = ALPHA, ALPHA
    expected[5, 19], expected[3, 19] = ALPHA, ALPHA**2
    torch.testing.assert_close(found[0, 0], expected)


# ---- decoding


def upright(detector: RESADetector, column: int, slot: int = 2) -> Heads:
    """One lane, as wide as a cell of the features: in all rows."""
    size = detector.config.map_size if detector.config.original else detector.input_size
    logits = torch.zeros(1, 5, *size)
    logits[:, 0] = 6
    half = size[1] // 200
    logits[0, slot, :, column - half : column + half + 1] = 30
    existence = torch.full((1, 4, 1), -6.0)
    existence[0, slot - 1] = 6
    return {"pixel_classes": logits, "existence": existence}


@pytest.fixture(scope="module", params=["r18", "zju_r34"])
def unweighted(request: pytest.FixtureRequest) -> RESADetector:
    with torch.device("meta"):
        detector = lane_models.untrained("resa", request.param)
    assert isinstance(detector, RESADetector)
    return detector


def test_rows_are_the_published_ones(unweighted: RESADetector) -> None:
    rules = slot_rules(unweighted.config)
    if unweighted.config.original:
        expected = [287, 271, 254, 238, 221, 205, 188, 172, 155, 139, 122, 106, 90, 73, 57, 40, 24, 7]
    else:
        expected = [287, 277, 267, 257, 247, 238, 228, 218, 208, 199, 189, 179, 169, 160, 150, 140, 130, 121]
    assert list(rules.rows) == expected
    np.testing.assert_array_equal(rules.ys, 589 - 20 * np.arange(18))
    # Column 0 is lost in pytorch-auto-drive only.
    assert list(rules.xs[:2]) == ([1, 3] if unweighted.config.original else [0, 2])
    assert rules.xs[-1] == (1639 if unweighted.config.original else 1637)


def test_lane_lands_in_the_frame(unweighted: RESADetector) -> None:
    columns = unweighted.config.map_size[1] if unweighted.config.original else 800
    heads = upright(unweighted, columns // 4)
    [[lane]] = unweighted.decode(heads)
    np.testing.assert_allclose(lane.points[:, 0], 1640 / 4, atol=20)
    assert lane.score == pytest.approx(1 / (1 + np.exp(-6)))
    [[half]] = unweighted.decode(heads, (295, 820))
    np.testing.assert_allclose(half.points * 2, lane.points)
    heads["pixel_classes"].requires_grad_()
    x, weight = unweighted.geometry(heads)
    np.testing.assert_allclose(x[0, 1].detach(), lane.points[:, 0], atol=20)
    assert float(weight[0, 1].min()) > 0.9 > 0.1 > float(weight[0, 0].max())
    x.sum().backward()
    assert heads["pixel_classes"].grad is not None


def test_foreground_is_where_the_lane_is(unweighted: RESADetector) -> None:
    heads = upright(unweighted, 40)
    foreground = unweighted.foreground(heads)
    assert foreground.keys() == heads.keys()
    for name, weight in foreground.items():
        assert torch.broadcast_shapes(weight.shape, heads[name].shape) == heads[name].shape
    assert float(foreground["pixel_classes"][0, 0, :, 40].min()) > 0.9
    assert float(foreground["pixel_classes"][0, 0, :, 60].max()) < 0.1
    assert torch.equal(foreground["existence"], torch.ones_like(heads["existence"]))


# ---- training


def test_the_loss_reaches_every_weight_and_falls() -> None:
    torch.manual_seed(0)
    small = RESAConfig(width=8, channels=16, input_size=(64, 192), crop=RoadCrop(size=(64, 192)), refine=8)
    model, y = RESA(small).train(), np.linspace(64, 13, 20)
    lanes = [[np.stack((50 + 0.6 * (64 - y), y), axis=1), np.stack((150 - 0.6 * (64 - y), y), axis=1)]]
    drawn = torch.from_numpy(slot_map(lanes[0], [1, 1], (64, 192)))
    x = drawn.float().expand(2, 3, 64, 192) * 2 - 0.2
    loss, optimizer = TrainingLoss(model), torch.optim.AdamW(model.parameters(), 1e-2)
    history: list[dict[str, float]] = []
    for _ in range(12):
        terms = loss(model(x), 2 * lanes, [[2, 3], [2, 3]])
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    for name, before in history[0].items():
        assert history[-1][name] < 0.7 * before, (name, before, history[-1][name])


def test_pixels_are_resized_in_training_as_in_decoding(unweighted: RESADetector) -> None:
    """Of the lane that is decoded, pixels cost what cross entropy says of the decoded map."""
    size = unweighted.input_size
    rules, heads = slot_rules(unweighted.config), upright(unweighted, 40)
    heads["pixel_classes"] += torch.randn(heads["pixel_classes"].shape, generator=torch.manual_seed(0))
    lane = np.array([[330.0, 280.0], [330.0, 20.0]])
    terms = TrainingLoss(unweighted.model, background=1.0)(heads, [[lane]], [[2]])
    decoded = class_logits(heads, rules.input_size, rules.aligned)
    drawn = torch.from_numpy(slot_map([lane], [2], size))[None].long()
    expected = nn.functional.cross_entropy(decoded, drawn)
    assert float(terms["pixel_classes"]) == pytest.approx(float(expected), rel=1e-6)
    other = nn.functional.cross_entropy(class_logits(heads, size, not rules.aligned), drawn)
    assert (float(other) == pytest.approx(float(expected), rel=1e-4)) == (not unweighted.config.original)
