"""The engine's parts: watching a pass, folding, wrapping, lockstep capture, options."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from toy import ToyDetector, ToyNet

from selective_focus import quantize
from selective_focus.job import QuantizationJob, Unit
from selective_focus.methods import Method, register
from selective_focus.quantization.affine import MaskPool, mix_inputs
from selective_focus.quantization.config import ConfigurationError, QuantizationConfig, parse_bits
from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.layers import QuantizedLayer, activation_quantizers, quantized_layers
from selective_focus.quantization.lockstep import Lockstep
from selective_focus.quantization.reconstruct import ReconstructionError, batches
from selective_focus.quantization.trace import trace
from selective_focus.quantization.unit_data import _LARGE_ROW, _mixed, unit_loss
from selective_focus.quantization.wrap import fold_batch_norms, twin_models


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(10, 3, 16, 32, generator=torch.Generator().manual_seed(1))


def trained_looking(model: nn.Module) -> nn.Module:
    """Batch norms with statistics that are not the identity."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


@pytest.mark.parametrize(("text", "widths"), [("w4a4", (4, 4)), ("W8A8", (8, 8)), ("w32a8", (32, 8))])
def test_bits_are_read(text, widths):
    assert parse_bits(text) == widths


@pytest.mark.parametrize("text", ["4", "w4", "a4w4", "w1a4", "w9a4", "w4a16", "w4a4x"])
def test_other_bits_are_refused(text):
    with pytest.raises(ConfigurationError, match="expected w<bits>a<bits>"):
        parse_bits(text)


def test_a_watched_pass_sees_norms_and_relus_but_not_across_a_sum():
    seen = trace(ToyNet().eval(), torch.zeros(1, 3, 16, 32))
    assert seen.batch_norm_of["blocks.0.conv1"] == "blocks.0.bn1"
    assert seen.relu_of["blocks.0.bn1"] == "blocks.0.relu"
    assert "blocks.0.bn2" not in seen.relu_of, "its output is added to the input first"
    assert seen.calls["blocks.0.relu"] == 2
    assert seen.called_once("blocks.0.relu") == "blocks.0"


def test_folding_changes_no_output(images):
    model = trained_looking(ToyNet())
    before = model(images)
    fold_batch_norms(model, images[:1])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for name, head in model(images).items():
        torch.testing.assert_close(head, before[name], rtol=1e-4, atol=1e-5)


def test_first_and_last_layers_keep_8_bits():
    detector = ToyDetector()
    config = QuantizationConfig(weight_bits=3, activation_bits=4)
    twins = twin_models(detector.model, torch.zeros(1, 3, 16, 32), config, detector.output_layers)
    bits = {
        name: (m.weight_bits, m.input.bits)
        for name, m in twins.quantized_model.named_modules()
        if isinstance(m, QuantizedLayer)
    }
    assert bits["stem"] == (8, 32)
    assert bits["exists"] == bits["columns"] == (8, 8)
    assert bits["blocks.0.conv1"] == (3, 4)


def test_lockstep_gives_each_unit_what_a_plain_pass_gives_it(images):
    model = trained_looking(ToyNet())
    names = ["stem", "blocks.0", "blocks.1", "columns"]
    chunks = list(images.split(4))
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(n).register_forward_pre_hook(lambda m, a, n=n: seen[n].append(a[0]))
        for n in names
    ]
    with torch.no_grad():
        for chunk in chunks:
            model(chunk)
    for hook in hooks:
        hook.remove()
    with Lockstep(model, chunks, {n: model.get_submodule(n) for n in names}) as passes:
        for name in names:
            calls = passes.advance_to(name)
            assert [torch.equal(c.args[0], x) for c, x in zip(calls, seen[name], strict=True)] == [True] * 3


def test_lockstep_passes_go_on_through_what_a_unit_has_become(images):
    model = trained_looking(ToyNet())
    units = {n: model.get_submodule(n) for n in ("blocks.0", "blocks.1")}
    with Lockstep(model, [images], units) as passes:
        passes.advance_to("blocks.0")
        model.blocks[0].conv2.weight.data.zero_()
        model.blocks[0].bn2.weight.data.zero_()
        model.blocks[0].bn2.bias.data.zero_()
        (call,) = passes.advance_to("blocks.1")
        block_input = torch.relu(model.bn(model.stem(images)))
        torch.testing.assert_close(call.args[0], block_input)


def test_lockstep_tells_when_units_are_out_of_order(images):
    model = ToyNet().eval()
    units = {n: model.get_submodule(n) for n in ("blocks.0", "blocks.1")}
    with (
        Lockstep(model, [images], units) as passes,
        pytest.raises(RuntimeError, match=r"met unit 'blocks.0'"),
    ):
        passes.advance_to("blocks.1")


def test_an_error_inside_the_network_arrives(images):
    class Broken(ToyNet):
        def forward(self, x):
            raise ArithmeticError("inside")

    model = Broken()
    with (
        Lockstep(model, [images], {"stem": model.stem}) as passes,
        pytest.raises(ArithmeticError, match="inside"),
    ):
        passes.advance_to("stem")


def job_of(images: torch.Tensor) -> QuantizationJob:
    """The job that a method is given, caught by a method that does nothing."""
    caught: list[QuantizationJob] = []
    method = Method(f"caught-{id(caught)}", "", caught.append, reconstruction={})
    register(method)
    quantize(ToyDetector(), images, method.name)
    return caught[0]


def test_units_in_running_order(images):
    job = job_of(images)
    layers = [unit.name for unit in job.units("layer")]
    assert layers[:3] == ["stem", "blocks.0.conv1", "blocks.0.conv2"]
    assert [unit.name for unit in job.units("block")] == ["stem", "blocks.0", "blocks.1", "exists", "columns"]
    assert job.units("layer")[1] == Unit("blocks.0.conv1", relu=True)
    assert job.units("layer")[2] == Unit("blocks.0.conv2", relu=False)


def test_unit_targets_are_the_float_network_s(images):
    job = job_of(images)
    job.quantize_weights()
    for unit, data in job.unit_data(job.units("block")):
        outputs = data.call(unit.bind(job.float_model), torch.arange(len(images)))
        if unit.name == "stem":  # the image is the same for both networks
            torch.testing.assert_close(outputs[0], data.targets[0])
        assert data.images == len(images)


def test_a_log_is_plain_data(images):
    _, log = quantize(ToyDetector(), images, "qdrop", iterations=2)
    assert json.loads(json.dumps(log.to_dict()))["method"] == "qdrop"
    assert log.config["quantization"]["weight_bits"] == 4
    assert [unit["unit"] for unit in log.units] == ["stem", "blocks.0", "blocks.1", "exists", "columns"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "qdorp"}, "expected one of: "),
        ({"method": "qdrop", "itterations": 5}, "no option 'itterations'"),
        ({"method": "minmax", "iterations": 5}, "no option 'iterations'"),
        ({"method": "qdrop", "keep_probability": 1.5}, r"expected a value in 0\.\.1"),
        ({"method": "qdrop", "iterations": 0}, "at least 1"),
    ],
)
def test_unknown_settings_are_refused_in_one_line(arguments, message, images):
    with pytest.raises(ConfigurationError, match=message) as caught:
        quantize(ToyDetector(), images, **arguments)
    assert "\n" not in str(caught.value)


def test_no_images_are_refused():
    with pytest.raises(ConfigurationError, match="at least one image"):
        quantize(ToyDetector(), torch.zeros(0, 3, 16, 32), "minmax")


def test_a_loss_that_is_not_finite_names_the_unit(images):
    with pytest.raises(ReconstructionError, match=r"unit '.*': the loss is (nan|inf)"):
        quantize(ToyDetector(), images, "qdrop", scale_lr=1e30, iterations=5)


RANGES = [
    {"weight_range": "mse-grid"},
    {"weight_range": "golden-section"},
    {"weight_range": "mse", "weight_symmetric": True, "symmetric_rule": "restricted"},
    {"weight_range": "mse-grid", "weight_symmetric": True, "weight_per_channel": False},
    {"activation_range": "average-min-max"},
    {"activation_range": "golden-section"},
    {"activation_range": "percentile", "percentile": 99.9},
    {"activation_range": "aciq", "aciq_density": "gauss"},
]


@pytest.mark.parametrize("options", RANGES, ids=lambda options: "-".join(map(str, options.values())))
@torch.no_grad()
def test_every_way_to_find_a_range_is_an_option(options):
    images = torch.rand(20, 3, 16, 32, generator=torch.Generator().manual_seed(1))  # two chunks
    quantized, log = quantize(ToyDetector(), images, "minmax", "w4a4", **options)
    assert log.config["quantization"] | options == log.config["quantization"]
    weights = quantized_layers(quantized.model)["blocks.0.conv1"]
    if options.get("weight_symmetric"):
        restricted = options.get("symmetric_rule") == "restricted"
        assert (weights.weight_grid.qmin, weights.weight_grid.qmax) == (-7 if restricted else -8, 7)
        assert weights.weight_grid.per_channel == options.get("weight_per_channel", True)
    plain, _ = quantize(ToyDetector(), images, "minmax", "w4a4")
    full = ToyDetector().heads(images)["columns"]
    error, of_plain = (float((d.heads(images)["columns"] - full).norm()) for d in (quantized, plain))
    assert 0 < error < 5 * of_plain
    assert error != of_plain


def test_words_that_are_no_choice_are_refused(images):
    for name in ("weight_range", "activation_range", "symmetric_rule", "aciq_density"):
        with pytest.raises(ConfigurationError, match=f"{name}='other': expected one of"):
            quantize(ToyDetector(), images, "minmax", **{name: "other"})


def test_a_histogram_knows_the_mean_of_its_batches_extremes():
    histogram = Histogram()
    for batch in ([-1.0, 3.0], [0.0, 1.0], [-5.0, 2.0]):
        histogram.update(torch.tensor(batch))
    assert histogram.average_extremes == (-2.0, 2.0)


def test_registering_a_name_twice_is_an_error():
    with pytest.raises(ConfigurationError, match="registered twice"):
        register(Method("qdrop", "another", lambda job: None))


def test_batches_with_and_without_replacement():
    without = list(batches(10, 8, 20, seed=1))
    assert all(len(set(index.tolist())) == 8 for index in without)
    replaced = list(batches(10, 8, 20, seed=1, sampling="with-replacement"))
    assert all(len(index) == 8 and int(index.max()) < 10 for index in replaced)
    assert any(len(set(index.tolist())) < 8 for index in replaced)
    assert all(len(index) == 10 for index in batches(10, 32, 3, seed=1)), "no larger than what there is"


@pytest.mark.parametrize("scale_steps", ["relative", "absolute"])
def test_first_step_of_a_step_size_is_the_learning_rate_s(scale_steps, images):
    """Adam's first step is the learning rate, whatever the gradient: of log s, or of s itself."""
    before, _ = quantize(ToyDetector(), images, "omse", weight_power=2.4, activation_power=2.4)
    after, _ = quantize(ToyDetector(), images, "qdrop", iterations=1, scale_lr=1e-3, scale_steps=scale_steps)
    for name, quantizer in activation_quantizers(after.model).items():
        if not quantizer.calibrated:
            continue
        size = float(activation_quantizers(before.model)[name].scale)
        step = 1e-3 if scale_steps == "relative" else math.log1p(1e-3 / size)
        assert abs(math.log(float(quantizer.scale) / size)) == pytest.approx(
            step, rel=0.05
        )  # Adam adds 1e-8 to small gradients


class PreActivation(nn.Module):
    """A convolution whose output is normalised in a branch and also read as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.branch, self.branch_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.branch_bn(self.branch(self.bn(x).relu()))


def test_a_norm_beside_another_reader_stays(images):
    model = trained_looking(PreActivation())
    before = model(images)
    fold_batch_norms(model, images[:1])
    assert isinstance(model.bn, nn.BatchNorm2d)
    assert isinstance(model.branch_bn, nn.Identity)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)


def test_a_head_that_runs_on_two_levels_makes_the_network_one_unit(images):
    class TwoLevels(ToyNet):
        def forward(self, x):
            heads = super().forward(x)
            return {**heads, "existence": heads["existence"] + super().forward(x.flip(-1))["existence"]}

    detector = ToyDetector()
    detector.model = TwoLevels().eval()
    _, log = quantize(detector, images, "qdrop", iterations=2)
    assert [unit["unit"] for unit in log.units] == ["network"]


def test_methods_can_be_given_another_unit(images):
    _, log = quantize(ToyDetector(), images, "qdrop", iterations=2, unit="network")
    assert [unit["unit"] for unit in log.units] == ["network"]
    _, log = quantize(ToyDetector(), images, "qdrop", iterations=2, unit="layer")
    assert len(log.units) == 7
    with pytest.raises(ConfigurationError, match="expected 'network'"):
        quantize(ToyDetector(), images, "selective-focus", iterations=2, unit="layer")


@pytest.mark.parametrize(
    "option", [{"measure_every": 0}, {"share": 2}, {"sensitivity": "x"}, {"epsilon": -1}]
)
def test_bad_options_of_selective_focus_are_configuration_errors(option, images):
    with pytest.raises(ConfigurationError):
        quantize(ToyDetector(), images, **option)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_large_images_are_mixed_one_by_one_with_the_same_result(keep, dtype):
    """Rows beyond the limit take another path than those below it."""
    generator = torch.Generator().manual_seed(0)
    quantized, full = ((100 * torch.rand(5, 8, 32, 33, generator=generator)).to(dtype) for _ in range(2))
    index = torch.tensor([4, 0, 4])
    assert quantized[0].numel() > _LARGE_ROW
    mixed = _mixed(quantized, full, index, MaskPool(keep, seed=3))
    expected = quantized[index]
    if dtype.is_floating_point:
        expected = mix_inputs(expected, full[index], MaskPool(keep, seed=3).draw(expected))
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize("p", [2.0, 2.4])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 7), (3, 5, 4)])
def test_unit_loss_of_rows_by_the_formula(p, shape):
    """Channels summed, the rest averaged; rows named by an index give the value and gradient of gathered ones."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, *shape[1:], generator=generator, dtype=torch.float64)
    output = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    index = torch.tensor([8, 0, 8])
    channels = shape[-1] if len(shape) == 3 else shape[1]
    expected = (output - rows[index]).abs().pow(p).sum() / (output.numel() / channels)
    (slope,) = torch.autograd.grad(expected, output)
    for found in (unit_loss([output], [rows], p, index), unit_loss([output], [rows[index]], p)):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, output)[0], slope)
