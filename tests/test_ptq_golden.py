"""Values computed with the methods' published code: the quantizer's arithmetic must reproduce them.

The entries ``recon_*`` (ranges of a stochastic loop) belong to the reconstruction engine's tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from selective_focus.quantization import aciq, affine, fold, losses, ranges, rounding, schedule

Checks = Callable[["Entry"], None]


@dataclass
class Entry:
    """One golden record, with arrays loaded."""

    name: str
    inputs: dict[str, Any]
    params: dict[str, Any]
    outputs: dict[str, Any]
    rtol: float
    atol: float
    read: set[str] = field(default_factory=set)

    def equal(self, name: str, actual: Any) -> None:
        """Within the entry's tolerance of the output ``name``."""
        self.read.add(name)
        expected = torch.as_tensor(self.outputs[name], dtype=torch.float64)
        found = torch.as_tensor(actual).detach().double()
        torch.testing.assert_close(
            found.expand_as(expected), expected, rtol=self.rtol, atol=self.atol, msg=lambda m: f"{name}: {m}"
        )

    def on_grid(self, name: str, actual: Tensor, scale: Tensor) -> None:
        """Within tolerance, but for 1 % of elements that may sit one scale step off (a rounding boundary)."""
        self.read.add(name)
        expected = self.outputs[name]
        distance = (actual.detach() - expected).abs()
        off = distance > self.atol + self.rtol * expected.abs()
        assert int(off.sum()) <= 0.01 * expected.numel(), (
            f"{name}: {int(off.sum())} of {expected.numel()} differ"
        )
        step = affine.along_first(scale, expected).expand_as(expected)
        assert bool((distance <= 1.001 * step).all())


class Golden:
    """The reference file beside the checkout."""

    def __init__(self, folder: Path) -> None:
        self.records = json.loads((folder / "ptq_reference.json").read_text())["entries"]
        self.arrays = np.load(folder / "ptq_reference.npz")

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict) and "npz" in value:
            return torch.from_numpy(self.arrays[value["npz"]])
        return torch.tensor(value) if isinstance(value, list) else value

    def entry(self, name: str) -> Entry:
        record = self.records[name]
        tolerance = record["tolerance"]
        return Entry(
            name,
            {key: self._value(value) for key, value in record["inputs"].items()},
            record["params"],
            {key: self._value(value) for key, value in record["outputs"].items()},
            tolerance.get("rtol", 0.0),
            tolerance.get("atol", 0.0),
        )


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden")


def check_min_max(entry: Entry) -> None:
    """uaq_*: min-max grids, per tensor and per channel, asymmetric and symmetric."""
    per_channel = "channel" in entry.name
    x = entry.inputs["w" if per_channel else "x"]
    grid = affine.grid_from_range(
        *ranges.min_max(x, per_channel), entry.params["bits"], symmetric="_sym_" in entry.name
    )
    entry.equal("scale", grid.scale)
    if "zero_point" in entry.outputs:
        entry.equal("zero_point", grid.zero_point)
    if "qmin" in entry.params:
        assert (grid.qmin, grid.qmax) == (entry.params["qmin"], entry.params["qmax"])
    entry.on_grid("y", affine.fake_quantize(x, grid), grid.scale)


def _given_grid(entry: Entry) -> affine.Grid:
    scale, zero_point = (torch.tensor(float(entry.params[key])) for key in ("scale", "zero_point"))
    return affine.Grid(scale, zero_point, 0, 2 ** entry.params["bits"] - 1)


def check_fake_quantize(entry: Entry) -> None:
    x = entry.inputs["x"].clone().requires_grad_()
    y = affine.fake_quantize(x, _given_grid(entry))
    y.backward(entry.inputs["upstream"])
    entry.equal("y", y)
    entry.equal("grad_x", x.grad)


def check_ties(entry: Entry) -> None:
    x, grid = entry.inputs["x"], _given_grid(entry)
    y = affine.fake_quantize(x, grid)
    entry.equal("y", y)
    native = torch.fake_quantize_per_tensor_affine(x, float(grid.scale), int(grid.zero_point), 0, grid.qmax)
    entry.equal("y_torch_native_equal", int(torch.equal(y, native)))
    shifted_first = (
        torch.round(x / grid.scale + grid.zero_point).clamp(0, 15) - grid.zero_point
    ) * grid.scale
    entry.equal("y_shift_then_round", shifted_first)
    entry.equal("elements_that_differ", int((y != shifted_first).sum()))


def check_observer(entry: Entry) -> None:
    observer = ranges.AverageMinMax() if "avg" in entry.name else ranges.RunningMinMax()
    for batch in entry.inputs["batches"]:
        observer.update(batch)
    lo, hi = observer.range()
    entry.equal("min", lo)
    entry.equal("max", hi)


def check_percentile(entry: Entry) -> None:
    batches = entry.inputs["batches"]
    for p in entry.params["p"]:
        expected = entry.outputs[str(p)]
        entry.read.add(str(p))
        lo, hi = ranges.percentile(batches, p)
        _, magnitude = ranges.percentile(batches, p, symmetric=True)
        found = [float(lo), float(hi), float(magnitude)]
        assert found == pytest.approx([expected["lo"], expected["hi"], expected["abs_hi"]], rel=entry.rtol)


def check_shrink(entry: Entry) -> None:
    per_channel = "channel" in entry.name
    x, p = entry.inputs["w" if per_channel else "x"], entry.params["p"]
    grid = ranges.mse_shrink(x, entry.params["bits"], per_channel=per_channel, p=p)
    entry.equal("scale", grid.scale)
    entry.equal("zero_point", grid.zero_point)
    if per_channel:
        entry.on_grid("y", affine.fake_quantize(x, grid), grid.scale)
    else:
        entry.equal("score", ranges.quantization_error(x, grid, p))


def check_grid_search(entry: Entry) -> None:
    x, bits, symmetric = entry.inputs["x"], entry.params["bits"], entry.params["symmetric"]
    lo, hi = ranges.mse_grid(x, bits, entry.params["axis"] == 0, symmetric, entry.params["p"])
    grid = affine.grid_from_range(lo, hi, bits, symmetric)
    for name, value in (("min", lo), ("max", hi), ("scale", grid.scale), ("zero_point", grid.zero_point)):
        entry.equal(name, value)


def check_aciq_tables(entry: Entry) -> None:
    for density, one_sided in (("laplace", False), ("laplace", True), ("gauss", False), ("gauss", True)):
        name = density + ("_positive" if one_sided else "")
        for bits, expected in entry.outputs[name].items():
            assert aciq.multiplier(int(bits), density, one_sided) == expected
        entry.read.add(name)


def check_aciq_exact(entry: Entry) -> None:
    for name, density, one_sided in (
        ("laplace", "laplace", False),
        ("gauss", "gauss", False),
        ("laplace_half", "laplace", True),
    ):
        for bits, expected in entry.outputs[name].items():
            found = aciq.multiplier(int(bits), density, one_sided, exact=True)
            assert found == pytest.approx(expected, rel=entry.rtol)
        entry.read.add(name)


def check_aciq(entry: Entry) -> None:
    x, bits, one_sided = entry.inputs["x"], entry.params["bits"], entry.params["half_range"]
    density = "laplace" if entry.params["dist"] == "laplace" else "gauss"
    statistics = aciq.AciqStatistics.of(x)
    for name, value in (("mean", statistics.mean), ("b", statistics.laplace_b), ("std", statistics.std)):
        entry.equal(name, value)
    spread = statistics.laplace_b if density == "laplace" else statistics.std
    entry.equal("alpha", aciq.multiplier(bits, density, one_sided) * spread)
    lo, hi = aciq.aciq_range(statistics, bits, density, one_sided)
    entry.equal("offset", lo)
    entry.equal("range", hi - lo)
    grid = affine.grid_from_range(lo, hi, bits)
    entry.on_grid("y", affine.fake_quantize(x, grid), grid.scale)


def check_adaround(entry: Entry) -> None:
    w = entry.inputs["w"]
    grid = affine.Grid(entry.inputs["scale"], entry.inputs["zero_point"], 0, 2 ** entry.params["bits"] - 1)
    floor, start = rounding.floor_codes(w, grid), rounding.initial_v(w, grid)
    entry.equal("h0", rounding.rectified_sigmoid(start))
    # V itself depends on the last bit of w / s where the fraction is near 0 or 1
    settled = (entry.outputs["h0"] > 0.01) & (entry.outputs["h0"] < 0.99)
    torch.testing.assert_close(start[settled], entry.outputs["V0"][settled], rtol=1e-3, atol=1e-4)
    entry.read.add("V0")
    entry.equal("soft_w0", rounding.soft_weight(start, floor, grid))
    entry.on_grid("hard_w0", rounding.hard_weight(start, floor, grid), grid.scale)
    v = entry.inputs["V_perturbed"]
    entry.equal("h_perturbed", rounding.rectified_sigmoid(v))
    entry.equal("soft_w_perturbed", rounding.soft_weight(v, floor, grid))
    entry.on_grid("hard_w_perturbed", rounding.hard_weight(v, floor, grid), grid.scale)
    for beta, expected in entry.outputs["reg"].items():
        leaf = v.clone().requires_grad_()
        regulariser = rounding.rounding_regulariser(leaf, float(beta))
        regulariser.backward()
        assert float(regulariser.detach()) == pytest.approx(expected, rel=entry.rtol)
        assert float(leaf.grad.abs().sum()) == pytest.approx(
            entry.outputs["reg_grad_l1"][beta], rel=entry.rtol
        )
    entry.read |= {"reg", "reg_grad_l1"}


def check_beta(entry: Entry) -> None:
    total = entry.params.get("t_max") or entry.params["T"]
    kind = "cosine" if "cosine" in entry.name else "linear"
    entry.equal("beta", [schedule.beta_schedule(int(t), total, 0.2, 20, 2, kind) for t in entry.inputs["t"]])


def check_lsq(entry: Entry) -> None:
    x = entry.inputs["x"].clone().requires_grad_()
    if "scale" in entry.params:
        zero_point, qmin, qmax = entry.params["zero_point"], 0, 2 ** entry.params["bits"] - 1
        start = torch.tensor(entry.params["scale"])
    else:
        zero_point, qmin, qmax = 0, entry.params["Qn"], entry.params["Qp"]
        start = affine.lsq_initial_scale(x, qmax)
        entry.equal("scale_init", start)
        assert affine.lsq_grad_factor(x.numel(), qmax) == pytest.approx(entry.params["grad_factor"], rel=1e-6)
    scale = start.clone().requires_grad_()
    factor = entry.params["grad_factor"]
    lsq_proper = "scale" not in entry.params
    y = affine.lsq_fake_quantize(x, scale, torch.tensor(float(zero_point)), qmin, qmax, factor, lsq_proper)
    y.backward(entry.inputs["upstream"])
    entry.on_grid("y", y, start)
    entry.equal("grad_x", x.grad)
    entry.equal("grad_scale", scale.grad)


def check_loss(entry: Entry) -> None:
    prediction, target = entry.inputs["pred"], entry.inputs["tgt"]
    if "diag" in entry.name:
        loss = losses.fisher_diagonal_loss(prediction, target, entry.inputs["grad"])
    elif "full" in entry.name:
        loss = losses.fisher_full_loss(prediction, target, entry.inputs["grad"])
    else:
        loss = losses.reconstruction_loss(prediction, target, entry.params.get("p", 2.0))
    entry.equal("loss", loss)


def _folded_conv(entry: Entry, conv: str, bn: str) -> nn.Conv2d:
    weight = entry.inputs[conv]
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=1, bias=False)
    norm = nn.BatchNorm2d(weight.shape[0]).eval()
    parameters = ("weight", "bias", "running_mean", "running_var")
    norm.load_state_dict({key: entry.inputs[f"{bn}_{key}"] for key in parameters}, strict=False)
    layer.load_state_dict({"weight": weight})
    fold.fold_batch_norm_(layer, norm)
    return layer.requires_grad_(False)


def check_fisher(entry: Entry) -> None:
    """stem, one residual block with an identity shortcut, mean pooling, classifier; BN folded."""
    names = (("stem_weight", "bn"), ("block_conv1_weight", "block_bn1"), ("block_conv2_weight", "block_bn2"))
    layers = [_folded_conv(entry, *name) for name in names]

    def block_output(x: Tensor) -> Tensor:
        stem = functional.relu(layers[0](x))
        return functional.relu(layers[2](functional.relu(layers[1](stem))) + stem)

    def logits(features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3))
        return functional.linear(pooled, entry.inputs["fc_weight"], entry.inputs["fc_bias"])

    batches = entry.inputs["x"].split(entry.params["batch_size"])
    float_logits = [logits(block_output(batch)) for batch in batches]
    for layer in layers:
        grid = ranges.mse_shrink(layer.weight, entry.params["bits_w"], per_channel=True)
        layer.weight.copy_(affine.fake_quantize(layer.weight, grid))
    quantized_logits, gradients = [], []
    for batch, target in zip(batches, float_logits, strict=True):
        features = block_output(batch).requires_grad_()
        quantized_logits.append(logits(features))
        losses.distribution_shift(quantized_logits[-1], target).backward()
        gradients.append(features.grad)
    gradient = torch.cat(gradients)
    entry.equal("grad", gradient)
    torch.testing.assert_close(
        losses.fisher_weight(gradient), entry.outputs["fisher_weight"], rtol=0, atol=1e-5
    )
    for name, found in (("fp_logits", float_logits), ("q_logits", quantized_logits)):
        torch.testing.assert_close(torch.cat(found), entry.outputs[name], rtol=1e-3, atol=1e-4)
    entry.read |= {"fisher_weight", "fp_logits", "q_logits"}


def check_fold(entry: Entry) -> None:
    weight = entry.inputs["w"]
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
    norm = nn.BatchNorm2d(weight.shape[0], eps=entry.params["eps"]).eval()
    layer.load_state_dict({"weight": weight, "bias": entry.inputs["b"]})
    state = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
    norm.load_state_dict({key: entry.inputs[name] for key, name in state.items()}, strict=False)
    folded, bias = fold.fold_batch_norm(layer, norm)
    entry.equal("w_folded", folded)
    entry.equal("b_folded", bias)


def check_mix(entry: Entry) -> None:
    keep = entry.inputs["u"] < entry.params["p"]
    entry.equal("mixed", affine.mix_inputs(entry.inputs["q_in"], entry.inputs["fp_in"], keep))


def check_drop(entry: Entry) -> None:
    x, bits = entry.inputs["x"].clone().requires_grad_(), entry.params["bits"]
    grid = affine.grid_from_range(*ranges.min_max(x), bits)
    entry.equal("scale", grid.scale)
    entry.equal("zero_point", grid.zero_point)
    scale = grid.scale.clone().requires_grad_()
    keep = entry.inputs["u"] < entry.params["p"]
    factor = affine.lsq_grad_factor(x.numel(), grid.qmax)
    y = affine.fake_quantize_drop(x, scale, grid.zero_point, grid.qmin, grid.qmax, keep, factor)
    y.backward(entry.inputs["upstream"])
    entry.equal("y", y)
    entry.equal("grad_x", x.grad)
    entry.equal("grad_scale", scale.grad)


CHECKS: dict[str, Checks] = {
    "uaq_": check_min_max,
    "fq_given_qparams_": check_fake_quantize,
    "fq_ties": check_ties,
    "observer_": check_observer,
    "percentile": check_percentile,
    "mse_shrink80_": check_shrink,
    "mse_grid100_": check_grid_search,
    "aciq_tables": check_aciq_tables,
    "aciq_exact_multipliers": check_aciq_exact,
    "aciq_laplace_": check_aciq,
    "aciq_gaus_": check_aciq,
    "adaround_params_": check_adaround,
    "beta_schedule_": check_beta,
    "lsq_": check_lsq,
    "loss_": check_loss,
    "brecq_fisher_gather": check_fisher,
    "bn_fold": check_fold,
    "qdrop_input_mix_": check_mix,
    "qdrop_act_quant_": check_drop,
}
ENGINE = "recon_"


@pytest.mark.parametrize("prefix", sorted(CHECKS))
def test_golden(golden: Golden, prefix: str) -> None:
    """Every entry of a family, and every output of each entry, is compared."""
    names = [name for name in golden.records if name.startswith(prefix)]
    assert names, f"the reference file has no {prefix}* entry"
    failures = []
    for name in names:
        entry = golden.entry(name)
        try:
            CHECKS[prefix](entry)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
        else:
            unread = set(entry.outputs) - entry.read
            assert not unread, f"{name}: outputs not compared: {sorted(unread)}"
    assert not failures, "\n".join(failures)


def test_every_entry_is_covered(golden: Golden) -> None:
    prefixes = (*CHECKS, ENGINE)
    assert not [name for name in golden.records if not name.startswith(prefixes)]
