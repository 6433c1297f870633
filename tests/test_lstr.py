"""LSTR against the official code: real weights on real frames, and filled weights on synthetic inputs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor, nn

import lane_models
from bench.metrics.tusimple import aggregate, score_image
from lane_models.checkpoint import CheckpointError
from lane_models.lstr import LSTRDetector
from selective_focus import Heads, MatMul

WEIGHTS = {"tusimple": "LSTR_500000.pkl", "culane": "LSTR_CULANE_500000.pkl"}


def released(shared: Path, variant: str) -> LSTRDetector:
    detector = lane_models.build("lstr", variant, weights=shared / "real" / "lstr" / WEIGHTS[variant])
    assert isinstance(detector, LSTRDetector)
    return detector


def curves(heads: Heads) -> Tensor:
    """The official tensor of eight curve parameters a query."""
    camera = heads["camera_terms"].expand(-1, heads["lane_terms"].shape[1], -1)
    return torch.cat((heads["endpoints"], camera, heads["lane_terms"]), dim=-1)


def official_points(lane: dict[str, list], rows: tuple[float, ...]) -> np.ndarray:
    if "points" in lane:
        return np.array(lane["points"])
    x = np.array(lane["x_at_h_samples"])
    return np.stack((x, rows), axis=1)[x != -2]


@pytest.mark.parametrize("variant", ["tusimple", "culane"])
def test_released_weights_give_official_heads_and_lanes(shared: Path, variant: str) -> None:
    golden = Golden(shared / "golden", f"lstr_official_{variant}_real")
    detector = released(shared, variant)
    inputs = golden.inputs()
    for name in set(golden.meta["inputs"]) - set(inputs):
        inputs[name] = detector.transform(cv2.imread(str(shared / "real" / "lstr" / name)))[None]
        golden.assert_close(f"{name}/input", inputs[name], atol=1e-5)
    for name, x in inputs.items():
        with torch.inference_mode():
            heads = detector.heads(x)
        golden.assert_close(f"{name}/pred_logits", heads["classification"])
        golden.assert_close(f"{name}/pred_curves", curves(heads))
        official = golden.meta["inputs"][name]["decoded"]["lanes"]
        for lane, expected in zip(detector.decode(heads)[0], official, strict=True):
            points = official_points(expected, detector.rules.rows)
            np.testing.assert_allclose(lane.points, points, atol=0.2)
            assert lane.score == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("variant", "count"),
    [("tusimple", 12), ("culane", 7), pytest.param("tusimple", 124, marks=pytest.mark.slow)],
)
def test_labelled_frames_give_official_lanes(shared: Path, variant: str, count: int) -> None:
    golden = Golden(shared / "golden", f"lstr_official_{variant}_frames")
    detector = released(shared, variant)
    frames = golden.meta["frames"]
    picked = np.linspace(0, len(frames) - 1, count).astype(int)
    root = shared / golden.meta["frame_root"]
    for i in picked:
        with torch.inference_mode():
            heads = detector.heads(detector.transform(cv2.imread(str(root / frames[i])))[None])
        np.testing.assert_allclose(curves(heads)[0], golden.arrays["pred_curves"][i], atol=1e-4)
        np.testing.assert_allclose(heads["classification"][0], golden.arrays["pred_logits"][i], atol=2e-3)
        for lane, expected in zip(detector.decode(heads)[0], golden.meta["lanes"][i], strict=True):
            if "written" in expected:
                # The official CULane writer truncates; ours keeps the fraction.
                np.testing.assert_array_less(np.abs(lane.points - expected["written"] - 0.5), 0.502)
            else:
                points = official_points(expected, detector.rules.rows)
                np.testing.assert_allclose(lane.points, points, atol=0.2)


@pytest.mark.slow
def test_accuracy_on_the_shared_tusimple_frames(shared: Path) -> None:
    """The reference is what the official code's own lanes score: 0.95985 (frames of the training split)."""
    detector, root = released(shared, "tusimple"), shared / "real" / "tusimple"
    scores = []
    for line in "".join(path.read_text() for path in sorted(root.glob("label_data_*.json"))).splitlines():
        label = json.loads(line)
        lanes = detector.detect(detector.transform(cv2.imread(str(root / label["raw_file"])))[None])[0]
        found = [{round(y): x for x, y in lane.points} for lane in lanes]
        xs = [[points.get(row, -2) for row in label["h_samples"]] for points in found]
        scores.append(score_image(xs, label["lanes"], label["h_samples"]))
    assert len(scores) == 124
    assert aggregate(scores).accuracy == pytest.approx(0.95985, abs=5e-4)


def test_pytorch_auto_drive_variant_equals_official(shared: Path) -> None:
    golden = Golden(shared / "golden", "lstr_r18s2x")
    state = golden.state_dict()
    detector = lane_models.build("lstr", "r18s2x", weights=state)
    assert sum(p.numel() for p in detector.model.parameters()) == golden.meta["params"]
    for name, x in golden.inputs().items():
        with torch.inference_mode():
            heads = detector.heads(x)
        golden.assert_close(f"{name}/logits", heads["classification"])
        golden.assert_close(f"{name}/curves", curves(heads))
        official = golden.meta["inputs"][name]["decoded"]["lanes"]
        for lane, expected in zip(detector.decode(heads)[0], official, strict=True):
            np.testing.assert_allclose(lane.points, expected["points"], atol=0.05)
            assert lane.score == pytest.approx(expected["score"], abs=1e-4)


def test_antialiased_input_equals_official(shared: Path) -> None:
    golden = Golden(shared / "golden", "preprocess_b")
    detector = lane_models.build("lstr", "r18s2x")
    for name in golden.meta["images"]:
        x = detector.transform(cv2.imread(str(shared / "real" / "lstr" / name)))[None].numpy().reshape(-1)
        key = f"pytorch_auto_drive/{name}"
        np.testing.assert_allclose(x[golden.arrays[f"{key}/idx"]], golden.arrays[f"{key}/val"], atol=1e-6)


def test_state_dict_is_official_and_round_trips(shared: Path) -> None:
    golden = Golden(shared / "golden", "lstr_r18s2x")
    state = golden.state_dict()
    detector = lane_models.build("lstr", "r18s2x", weights=state)
    written = copy.deepcopy(detector.model).state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)

    official = json.loads((shared / "golden" / "lstr_official_culane_real.json").read_text())["state_dict"]
    keys = {entry[0].removeprefix("module."): list(entry[1]) for entry in official}
    own = {
        key: list(value.shape)
        for key, value in lane_models.build("lstr", "culane").model.state_dict().items()
    }
    # The original's stem has a frozen batch norm, which counts no batches.
    assert own.pop("bn1.num_batches_tracked") == []
    assert own == keys


def test_weights_of_the_other_data_set_are_refused_by_name(shared: Path) -> None:
    with pytest.raises(CheckpointError, match=r"class_embed.*fits variant 'tusimple'"):
        lane_models.build("lstr", "culane", weights=shared / "real" / "lstr" / WEIGHTS["tusimple"])


def test_r34_has_the_published_size() -> None:
    detector = lane_models.build("lstr", "r34")
    assert sum(p.numel() for p in detector.model.parameters()) == 22_344_522


def test_everything_between_modules_is_batch_first() -> None:
    detector = lane_models.build("lstr", "tusimple")
    batch, seen = 3, set()

    def check(name: str) -> object:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            seen.add(name)
            outputs, _ = torch.utils._pytree.tree_flatten(output)
            assert all(len(t) == batch for t in (*inputs, *outputs)), name

        return hook

    for name, module in detector.model.named_modules():
        module.register_forward_hook(check(name))
    with torch.inference_mode():
        detector.heads(torch.randn(batch, 3, 96, 128))
    assert {*detector.reconstruction_blocks, *detector.output_layers} <= seen


def test_attention_products_and_projections_can_be_reached() -> None:
    modules = dict(lane_models.build("lstr", "tusimple").model.named_modules())
    attentions = [name for name in modules if name.endswith(("self_attn", "multihead_attn"))]
    assert len(attentions) == 6
    for name in attentions:
        assert all(isinstance(modules[f"{name}.{p}_proj"], nn.Linear) for p in ("q", "k", "v", "out"))
        assert isinstance(modules[f"{name}.scores"], MatMul)
        assert isinstance(modules[f"{name}.context"], MatMul)


def heads_of_one_lane() -> Heads:
    """Query 2: a vertical lane at half the width from 0.5 to 0.9 of the height; the others: background."""
    classification = torch.tensor([5.0, -5.0]).repeat(1, 7, 1)
    classification[0, 2] = torch.tensor([-5.0, 5.0])
    return {
        "classification": classification,
        "endpoints": torch.tensor([0.5, 0.9]).repeat(1, 7, 1),
        "lane_terms": torch.tensor([0.0, -0.5]).repeat(1, 7, 1),
        "camera_terms": torch.zeros(1, 1, 4),
    }


def test_decode_cuts_at_the_ends_and_scales_with_the_frame() -> None:
    detector = lane_models.build("lstr", "tusimple")
    [[lane]] = detector.decode(heads_of_one_lane())
    np.testing.assert_array_equal(lane.points[:, 1], np.arange(360, 641, 10))
    np.testing.assert_allclose(lane.points[:, 0], 640)
    [[half]] = detector.decode(heads_of_one_lane(), image_size=(360, 640))
    np.testing.assert_allclose(half.points * 2, lane.points)


def test_foreground_marks_the_lane_and_broadcasts() -> None:
    heads = heads_of_one_lane()
    weights = lane_models.build("lstr", "tusimple").foreground(heads)
    for name, head in heads.items():
        assert torch.broadcast_shapes(weights[name].shape, head.shape) == head.shape
    assert weights["endpoints"][0, :, 0].argmax() == 2
    assert float(weights["camera_terms"]) == pytest.approx(float(weights["classification"].max()))


def test_geometry_agrees_with_decode_and_has_gradients() -> None:
    torch.manual_seed(0)
    detector = lane_models.build("lstr", "tusimple")
    heads = {name: head.clone().requires_grad_() for name, head in heads_of_one_lane().items()}
    x, weight = detector.geometry(heads)
    [[lane]] = detector.decode(heads)
    np.testing.assert_allclose(x[0, 2][weight[0, 2] > 0].detach(), lane.points[:, 0], atol=1e-3)
    assert float(weight[0, 0].max()) < 1e-3 < 0.99 < float(weight[0, 2].max())
    assert not weight.requires_grad
    (x * weight).sum().backward()
    assert heads["lane_terms"].grad is not None
    assert heads["camera_terms"].grad is not None
    assert bool(heads["camera_terms"].grad.isfinite().all())
    assert heads["classification"].grad is None
