"""Checkpoints from outside: what is accepted, and that everything else is refused in one line."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lane_models
from bench import cli
from bench.detectors import build
from bench.errors import BenchError
from lane_models import checkpoint
from lane_models.checkpoint import CheckpointError, load_official


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


def refusal(model: nn.Module, source: object, **options: object) -> str:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_official(model, source, **options)  # type: ignore[arg-type]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("wrapping", ["bare", "net", "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", ["pth", "legacy", "safetensors", "zip"])
def test_loads_every_usual_packing(tmp_path: Path, wrapping: str, prefix: str, suffix: str) -> None:
    source, target = network(), network()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    content = state if wrapping == "bare" else {wrapping: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        inner = path.with_suffix(".pth")
        torch.save(content, inner, _use_new_zipfile_serialization=suffix != "legacy")
        if suffix == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(inner, "released.pth")
        else:
            path = inner
    load_official(target, path)
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_names_what_is_missing_unexpected_and_misshapen() -> None:
    state = network().state_dict()
    del state["0.bias"]
    state["head.weight"] = torch.zeros(2)
    state["1.weight"] = torch.zeros(5)
    message = refusal(network(), state)
    assert "missing 0.bias" in message
    assert "unexpected head.weight" in message
    assert "1.weight is [5], not [3]" in message


def test_ignores_only_what_may_be_ignored() -> None:
    state = {**network().state_dict(), "0.total_ops": torch.zeros(1)}
    assert "0.total_ops" in refusal(network(), state)
    load_official(network(), state, ignore=["*total_ops"])


def test_batch_counters_may_be_missing() -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    load_official(network(), state)


def test_another_variant_is_named() -> None:
    variants = {"small": network, "large": lambda: network(8)}
    message = refusal(network(), network(8).state_dict(), variants=variants)
    assert "it fits variant 'large'" in message


def test_weights_of_another_variant_of_a_real_detector() -> None:
    state = lane_models.untrained("laneatt", "synthetic").model.state_dict()
    with pytest.raises(CheckpointError, match="it fits variant 'synthetic'"):
        lane_models.build("laneatt", "r18", state)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(trace)!r}, 'w')",))

    path.write_bytes(pickle.dumps({"model": Evil()}))
    message = refusal(network(), path)
    assert str(path) in message
    assert not trace.exists()


def test_a_zip_format_pickle_with_an_object_names_it(tmp_path: Path) -> None:
    path = tmp_path / "object.pth"
    torch.save({"model": network()}, path)
    assert "torch.nn" in refusal(network(), path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    save_file(network().state_dict(), path) if suffix == "safetensors" else torch.save(
        network().state_dict(), path
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "download the file again" in refusal(network(), path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("packing", ["pth", "legacy", "zip", "safetensors"])
def test_flipped_bytes_are_refused_in_one_line_or_harmless(tmp_path: Path, packing: str) -> None:
    path = tmp_path / ("weights.safetensors" if packing == "safetensors" else "weights.pth")
    state = nn.Linear(2, 2).state_dict()
    if packing == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=packing == "pth")
    if packing == "zip":
        inner = path.read_bytes()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("released.pth", inner)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_official(nn.Linear(2, 2), path)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not [message for message in refusals if "\n" in message]


@pytest.mark.parametrize(
    "error", [zipfile.BadZipFile(), struct.error("x"), AssertionError(), TypeError("a\nb")]
)
def test_whatever_a_loader_raises_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    monkeypatch.setattr(torch, "load", broken)
    assert "download the file again" in refusal(network(), path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("released.pth", bytes(2**20))
    monkeypatch.setattr(checkpoint, "LARGEST", 2**20 - 1)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was unpacked"))
    assert "released.pth unpacks to 1048576 bytes" in refusal(network(), path)


def test_what_holds_no_weights(tmp_path: Path) -> None:
    assert "no such file" in refusal(network(), tmp_path / "absent.pth")
    assert "no state dict" in refusal(network(), {})
    assert "are no tensors" in refusal(network(), {"model": {"0.weight": 1.0}})
    state = network().state_dict()
    state["0.weight"][0] = float("nan")
    assert "NaN" in refusal(network(), state)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="laneatt"):
        lane_models.build("lanenet")
    with pytest.raises(ValueError, match="r34"):
        lane_models.build("laneatt", "r99")


OTHER_VARIANT = {
    "clrnet": "r34",
    "laneatt": "r34",
    "bezierlanenet": "r34",
    "scnn": "vgg16",
    "lstr": "culane",
    "condlanenet": "m_r34",
    "ganet": "m_r34",
    "resa": "zju_r34",
}


@pytest.fixture(scope="module", params=OTHER_VARIANT)
def released(request: pytest.FixtureRequest) -> tuple[str, str, dict[str, torch.Tensor]]:
    """A detector, its first variant, and weights of it with the official keys."""
    name = request.param
    variant = lane_models.variants(name)[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = lane_models.untrained(name, variant).model.state_dict()
    return name, variant, dict(state)


class TestThroughTheCommandLine:
    """What ``python -m bench predict --weights FILE`` says of every detector's checkpoints."""

    def predict(self, tmp_path: Path, detector: str, weights: Path) -> int:
        image, out = tmp_path / "frame.png", tmp_path / "out.png"
        cv2.imwrite(str(image), np.full((59, 164, 3), 90, np.uint8))
        words = ["--detector", detector, "--weights", str(weights), "--image", str(image), "--out", str(out)]
        with pytest.raises(SystemExit) as caught:
            cli.main(["predict", *words])
        code = int(caught.value.code or 0)
        assert out.exists() == (code == 0)
        return code

    def refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, path: Path) -> str:
        assert self.predict(tmp_path, name, path) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"error: {path}: ")
        return lines[0]

    def test_the_data_parallel_prefix_under_net(
        self, released: tuple[str, str, dict[str, torch.Tensor]], tmp_path: Path
    ) -> None:
        name, variant, state = released
        path = tmp_path / "official.pth"
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save({"net": wrapped, "optim": {"lr": 0.1}, "scheduler": {}, "epoch": 15}, path)
        detector, _ = build(name, None, path)
        assert detector.variant == variant
        loaded = detector.model.state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(value, loaded[key]) for key, value in state.items())
        assert self.predict(tmp_path, name, path) == 0

    def test_one_key_renamed(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, variant, state = released
        key = next(iter(state))
        renamed = {("surprise" if old == key else old): value for old, value in state.items()}
        path = tmp_path / "renamed.pth"
        torch.save({"net": renamed}, path)
        line = self.refused(capsys, tmp_path, name, path)
        assert f"not a checkpoint of {name} {variant}: missing {key}; unexpected surprise" in line

    def test_one_shape_changed(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, variant, state = released
        key = next(key for key, value in state.items() if value.ndim == 1)
        path = tmp_path / "shape.pth"
        torch.save({"net": {**state, key: state[key][1:]}}, path)
        before, after = list(state[key].shape), list(state[key][1:].shape)
        line = self.refused(capsys, tmp_path, name, path)
        assert f"not a checkpoint of {name} {variant}: other shape: {key} is {after}, not {before}" in line

    def test_another_variant_is_named(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, variant, state = released
        path, other = tmp_path / "variant.pth", OTHER_VARIANT[name]
        torch.save({"net": state}, path)
        line = self.refused(capsys, tmp_path, f"{name}:{other}", path)
        assert f"not a checkpoint of {name} {other}: " in line
        assert f"it fits variant {variant!r}; give {name}:{variant} as the detector" in line

    def test_another_detector_is_named(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, variant, state = released
        path, other = tmp_path / "detector.pth", "laneatt" if name != "laneatt" else "clrnet"
        torch.save({"net": state}, path)
        assert f"it fits {name} {variant}: give" in self.refused(capsys, tmp_path, other, path)

    def test_truncated(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, _, state = released
        path = tmp_path / "cut.pth"
        for legacy in (False, True):
            torch.save({"net": state}, path, _use_new_zipfile_serialization=not legacy)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            line = self.refused(capsys, tmp_path, name, path)
            assert "truncated" in line
            assert "download the file again" in line

    def test_an_object_beside_the_weights(
        self,
        released: tuple[str, str, dict[str, torch.Tensor]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        name, _, state = released
        path = tmp_path / "object.pth"
        torch.save({"net": state, "config": network()}, path)
        assert "asks for the Python object torch.nn" in self.refused(capsys, tmp_path, name, path)


def test_the_closest_variant_is_compared(tmp_path: Path) -> None:
    state = lane_models.untrained("bezierlanenet", "r34").model.state_dict()
    state["surprise"] = state.pop("proj_regression.bias")
    torch.save(state, tmp_path / "renamed.pth")
    with pytest.raises(
        BenchError, match=r"of bezierlanenet r34: missing proj_regression.bias; unexpected surp"
    ):
        build("bezierlanenet", None, tmp_path / "renamed.pth")
