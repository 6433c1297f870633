"""What a detector's head and its decoding cost beside a plain forward of its backbone.

pytest bench/perf/test_detector_speed.py --benchmark-only -s

Networks run on noise, which takes them as long as roads do. Decoding gets heads with as many candidates as on a road:
those of a rendered frame where weights ship with the project, else random weights' heads with their scores raised
where four lanes and their neighbours would be. The three are timed in turn, in processor time of one thread, so that
other jobs disturb their ratios little. Nothing is asserted on them: a busy machine is no mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

import lane_models
from datasets.synthetic import render, sample_scene
from lane_models.backbones.fpn import Pyramid
from selective_focus import LaneDetector
from selective_focus.detector import Heads

DECODE_GOAL = 0.10
"""Of a forward, at batch 1 on a CPU."""
ROUNDS = 7
CANDIDATES = {"clrnet": 24, "laneatt": 60, "bezierlanenet": 4, "lstr": 4, "condlanenet": 8}
"""Proposals above the threshold in a picture of four lanes, before suppression: about what released weights give."""

CASES = [
    pytest.param(name, variant, batch, id=f"{name}-{variant}-{batch}")
    for name in lane_models.names()
    for variant, batch in (("synthetic", 1), ("synthetic", 8), ("r18", 1), ("s_r18", 1), ("culane", 1))
    if variant in lane_models.variants(name)
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str, variant: str) -> LaneDetector:
    torch.manual_seed(0)
    return lane_models.build(name, variant)


def backbone(detector: LaneDetector) -> nn.Module:
    """The plain backbone, without the feature pyramid that small variants have around it."""
    model: Any = detector.model
    found = model.feature_extractor if detector.name == "laneatt" else model.backbone
    return found.backbone if isinstance(found, Pyramid) else found


def realistic_heads(detector: LaneDetector, batch: int) -> Heads:
    """Heads of a rendered frame, or of noise with scores as a picture of four lanes has them."""
    if lane_models.shipped_weights(detector.name, detector.variant):
        x = torch.stack([detector.transform(render(sample_scene("test", index))) for index in range(batch)])
    else:
        x = torch.rand(batch, 3, *detector.input_size)
    with torch.no_grad():
        heads = {name: head.clone() for name, head in detector.heads(x).items()}
    if not lane_models.shipped_weights(detector.name, detector.variant):
        raise_scores(detector, heads)
    return heads


def raise_scores(detector: LaneDetector, heads: Heads) -> None:
    """Makes ``CANDIDATES`` proposals certain, in four groups of neighbours, and long; pixels: four strips of them."""
    if "keypoint_map" in heads:
        width = heads["keypoint_map"].shape[-1]
        heads["keypoint_map"][..., width // 8 :: width // 4] += 20.0
        # All roots of a strip in one place, the strips' apart.
        for name in ("root_offsets", "cell_offsets"):
            heads[name].zero_()
        rows = torch.arange(heads["root_offsets"].shape[2], dtype=heads["root_offsets"].dtype)
        heads["root_offsets"][:, 1] = -rows[:, None]
        return
    if "pixel_classes" in heads:
        _, classes, height, width = heads["pixel_classes"].shape
        wide = max(1, height // 16)  # as many network pixels wide, whether at stride 8 or 1
        for name in ("pixel_classes", "existence"):  # what random weights say could be larger than the strips
            heads[name].zero_()
        for slot in range(1, classes):
            centre = slot * width // classes
            heads["pixel_classes"][:, slot, :, centre : centre + wide] += 20.0
        heads["existence"] += 20.0
        return
    if "heat_map" in heads:
        heads["row_range"][:, 1] += 20.0
        scores = heads["heat_map"].flatten(2).transpose(1, 2)  # a view: what is added reaches the head
    else:
        scores = heads["existence" if detector.name == "bezierlanenet" else "classification"]
    count, groups = scores.shape[1], 4
    members = max(CANDIDATES[detector.name] // groups, 1)
    chosen = [
        min(g * count // groups + count // 10 + m, count - 1) for g in range(groups) for m in range(members)
    ]
    scores[:, sorted(set(chosen)), -1 if scores.shape[-1] <= 2 else 1] += 20.0
    if "length" in heads:
        rows = heads["offsets"].shape[-1]
        heads["length"][:] = rows * 0.6 if detector.name == "laneatt" else 0.6


def processor_time(run: Callable[[], object], seconds: float = 0.05) -> float:
    """Of one call, over as many calls as fill ``seconds``."""
    calls, started = 0, time.process_time()
    while (taken := time.process_time() - started) < seconds:
        run()
        calls += 1
    return taken / calls


@pytest.mark.parametrize(("name", "variant", "batch"), CASES)
def test_forward_and_decode_against_the_backbone(benchmark: Any, name: str, variant: str, batch: int) -> None:
    detector = made(name, variant)
    x = torch.rand(batch, 3, *detector.input_size)
    heads = realistic_heads(detector, batch)
    plain = backbone(detector)
    found = [len(lanes) for lanes in detector.decode(heads)]
    assert sum(found) > 0, "decoding nothing takes no time"
    parts: dict[str, Callable[[], object]] = {
        "backbone": lambda: plain(x),
        "forward": lambda: detector.heads(x),
        "decode": lambda: detector.decode(heads),
    }
    forward, decode = [], []

    @torch.inference_mode()
    def one_round() -> None:
        taken = {part: processor_time(run) for part, run in parts.items()}
        forward.append(taken["forward"] / taken["backbone"])
        decode.append(taken["decode"] / taken["forward"])
        milliseconds.append({part: 1000 * value for part, value in taken.items()})

    milliseconds: list[dict[str, float]] = []
    one_round()
    for kept in (forward, decode, milliseconds):
        kept.clear()
    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    benchmark.extra_info |= {
        "forward / backbone": round(median(forward), 3),
        "decode / forward": round(median(decode), 4),
        "decode goal": DECODE_GOAL,
        "lanes": sum(found),
    }
    middle = {part: median(one[part] for one in milliseconds) for part in parts}
    print(
        f"\n{name} {variant}, batch {batch}: forward {median(forward):.2f} x backbone, decode {median(decode):.1%} of "
        f"forward (goal {DECODE_GOAL:.0%} at batch 1); "
        + ", ".join(f"{part} {value:.2f} ms" for part, value in middle.items())
        + f", {sum(found)} lanes"
    )
