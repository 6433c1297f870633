"""A quantized detector goes into a file and comes back with the same bits, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import ToyDetector

from selective_focus import LaneDetector, load_quantized, quantize, save_quantized, saved_description
from selective_focus.methods import find, methods
from selective_focus.quantization.config import QuantizationConfig
from selective_focus.quantization.layers import quantized_layers
from selective_focus.quantization.wrap import twin_models
from selective_focus.saved_state import SavedStateError

QUANTIZING = [name for name in methods() if name != "fp32"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(9, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def quantized(images: torch.Tensor, method: str = "omse", bits: str = "w4a4", **options):
    if find(method).reconstruction is not None:
        options = {"iterations": 3, "batch_size": 4, **options}
    return quantize(ToyDetector(), images, method, bits, **options)


def same_heads(first: LaneDetector, second: LaneDetector, images: torch.Tensor) -> bool:
    with torch.no_grad():
        heads = [detector.heads(images) for detector in (first, second)]
    return all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@pytest.fixture
def saved(images: torch.Tensor, tmp_path: Path) -> Path:
    save_quantized(*quantized(images), tmp_path / "toy.safetensors")
    return tmp_path / "toy.safetensors"


PER_TENSOR = {"weight_per_channel": False, "weight_symmetric": True}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in QUANTIZING),
        *((method, change) for method in ("minmax", "qdrop") for change in (PER_TENSOR, {"bits": "w32a8"})),
        ("adaround", {"bits": "w4a32"}),
        *((method, {"activation_equalisation": 0.5}) for method in ("omse", "qdrop", "bias-correction")),
    ],
)
def test_a_file_gives_the_same_bits(method, options, images, tmp_path):
    detector, log = quantized(images, method, **options)
    path = tmp_path / "new folder" / "toy.safetensors"
    save_quantized(detector, log, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    fresh = ToyDetector(seed=5)
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    loaded = load_quantized(fresh, path)
    assert same_heads(loaded, detector, images)
    assert type(loaded).decode is ToyDetector.decode
    assert all(torch.equal(before[name], value) for name, value in fresh.model.state_dict().items())
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("method", ["omse", "bias-correction", "qdrop"])
def test_a_state_dict_alone_loads_into_a_freshly_wrapped_network(method, images, tmp_path):
    detector, log = quantized(images, method)
    torch.save(detector.model.state_dict(), tmp_path / "toy.pt")
    config = QuantizationConfig(**log.config["quantization"])
    fresh = ToyDetector(seed=5)
    fresh.model = twin_models(fresh.model, images[:1], config, fresh.output_layers).quantized_model
    assert not same_heads(fresh, detector, images)
    fresh.model.load_state_dict(torch.load(tmp_path / "toy.pt", weights_only=True))
    assert same_heads(fresh, detector, images)
    grids = [{n: m.weight_grid for n, m in quantized_layers(d.model).items()} for d in (fresh, detector)]
    for name, grid in grids[1].items():
        assert (grids[0][name].qmin, grids[0][name].qmax) == (grid.qmin, grid.qmax)
        assert torch.equal(grids[0][name].scale, grid.scale)


def test_a_file_says_what_is_in_it(saved):
    about = saved_description(saved)
    assert (about.detector, about.variant, about.method, about.bits) == ("toy", "tiny", "omse", "w4a4")
    assert about.config["quantization"]["weight_power"] == 2.0
    assert about.grids["stem"] == {"bits": 8, "codes": "0..255", "scales": "per channel"}
    assert about.grids["blocks.0.conv1.input"] == {"bits": 4, "codes": "0..15", "scales": "per tensor"}
    assert "stem.input" not in about.grids, "the image stays as it is"


def test_a_loaded_detector_can_be_quantized_further_only_from_its_own_weights(saved):
    for layer in quantized_layers(load_quantized(ToyDetector(seed=5), saved).model).values():
        assert torch.equal(layer.float_weight, layer.layer.weight)


def rewrite(path: Path, change=lambda tensors: None, header=lambda fields: None) -> Path:
    """The file again, with its tensors and the fields of its header changed in place."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        fields = json.loads(file.metadata()["selective_focus"])
    change(tensors)
    header(fields)
    save_file(tensors, path, {"selective_focus": json.dumps(fields)})
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def plain_weights(path: Path) -> Path:
    save_file(load_file(path), path)
    return path


def set_to(name: str, value: torch.Tensor):
    return lambda tensors: tensors.__setitem__(name, value)


BROKEN = {
    "no such file": lambda path: path.with_name("absent.safetensors"),
    "truncated, or no safetensors": truncated,
    "no safetensors file": lambda path: (path.write_text("lanes"), path)[1],
    "holds no quantized detector; expected": plain_weights,
    "holds a quantized laneatt r18, not toy tiny": lambda path: rewrite(
        path, header=lambda f: f.update(detector="laneatt", variant="r18")
    ),
    "format 2, expected 1": lambda path: rewrite(path, header=lambda f: f.update(format=2)),
    "description is not understood": lambda path: rewrite(path, header=lambda f: f.update(bits=[4])),
    "configuration is not understood": lambda path: rewrite(
        path, header=lambda f: f["config"]["quantization"].update(weight_colour="red")
    ),
    "stem.layer.weight is missing": lambda path: rewrite(path, lambda t: t.pop("stem.layer.weight")),
    "another is unknown": lambda path: rewrite(path, set_to("another", torch.zeros(2))),
    r"stem.layer.weight \[2\], not \[8, 3, 3, 3\]": lambda path: rewrite(
        path, set_to("stem.layer.weight", torch.zeros(2))
    ),
    r"stem.weight_scale \[5\], not \[8\]": lambda path: rewrite(
        path, set_to("stem.weight_scale", torch.ones(5))
    ),
    "stem.layer.bias holds values that are not finite": lambda path: rewrite(
        path, lambda t: t["stem.layer.bias"].fill_(torch.nan)
    ),
    "weight of stem is not on its grid": lambda path: rewrite(
        path, lambda t: t["stem.layer.weight"].add_(1e-4)
    ),
    "saved weight has 5 bits: expected 8": lambda path: rewrite(
        path, lambda t: t["stem._extra_state"].__setitem__(0, 5)
    ),
    "expected 4 whole numbers": lambda path: rewrite(
        path, lambda t: t.update({"stem._extra_state": torch.zeros(4)})
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_another_file_is_refused_in_one_line(message, saved):
    path = BROKEN[message](saved)
    with pytest.raises(SavedStateError, match=message) as caught:
        load_quantized(ToyDetector(), path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


EQUALISED_AND_BROKEN = {
    "blocks.0.conv1.input_scale is missing": lambda path: rewrite(
        path, lambda t: t.pop("blocks.0.conv1.input_scale")
    ),
    "stem.input_scale is unknown": lambda path: rewrite(path, set_to("stem.input_scale", torch.ones(3))),
    "is divided by a number that is not above 0": lambda path: rewrite(
        path, lambda t: t["blocks.0.conv1.input_scale"].fill_(1e-45)
    ),
}


@pytest.mark.parametrize("message", EQUALISED_AND_BROKEN)
def test_a_file_with_other_divisions_is_refused(message, images, tmp_path):
    path = tmp_path / "toy.safetensors"
    save_quantized(*quantized(images, activation_equalisation=0.5), path)
    load_quantized(ToyDetector(), path)
    with pytest.raises(SavedStateError, match=message):
        load_quantized(ToyDetector(), EQUALISED_AND_BROKEN[message](path))


def test_a_detector_that_is_not_quantized_is_refused(images, tmp_path):
    with pytest.raises(SavedStateError, match="is not quantized"):
        save_quantized(*quantize(ToyDetector(), images, "fp32"), tmp_path / "toy.safetensors")
    assert not list(tmp_path.iterdir())
