"""Noise on either side of a head: of equal norm, nowhere else, and what the lanes feel of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyDetector

from bench.cli import main
from bench.noise import disturbed_positions, noise_on_heads, noise_on_side, read_all

HEAD = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.tensor([[0.9, 0.0, 0.1, 0.2], [0.8, 0.7, 0.6, 0.1], [0.0, 0.0, 0.0, 0.1]])[..., None]


def side(foreground: bool, level: float = 0.5) -> torch.Tensor:
    return noise_on_side(HEAD, WEIGHT, foreground, level, torch.Generator().manual_seed(1))


def test_both_sides_have_as_many_positions_and_the_same_norm_in_every_image() -> None:
    assert disturbed_positions(WEIGHT).tolist() == [1, 1, 0]
    for noise in (side(True), side(False)):
        assert (noise.abs().sum(2) > 0).sum(1).tolist() == [1, 1, 0]
        norm = 0.5 * float(HEAD.std(correction=0)) * 2**0.5  # one position of two values
        assert noise.flatten(1).norm(dim=1).tolist() == pytest.approx([norm, norm, 0])


def test_each_side_stays_on_its_own_side() -> None:
    above = (WEIGHT >= 0.3).expand_as(HEAD)
    assert (side(True)[~above] == 0).all()
    assert (side(False)[above] == 0).all()
    assert torch.equal(side(True, 1.0), 2 * side(True))


def test_noise_on_what_is_never_decoded_moves_no_lane() -> None:
    """Slots 0 and 1 are lanes; the columns of the others are not looked at."""
    existence = torch.tensor([4.0, 4.0, -4.0, -4.0]).expand(5, 4)[..., None]
    heads = {"existence": existence, "columns": torch.full((5, 4, 8), 0.5) + 0.1 * torch.rand(5, 4, 8)}
    found = noise_on_heads(ToyDetector(), heads, (590, 1640), level=0.3, seeds=(0, 1))
    assert found["columns"].background == [0.0] * 5
    assert min(found["columns"].foreground) > 1
    assert found["columns"].positions == 2


def test_a_head_without_background_is_left_out() -> None:
    heads = {"existence": torch.full((1, 4, 1), 4.0), "columns": torch.rand(1, 4, 8)}
    assert noise_on_heads(ToyDetector(), heads, (590, 1640), level=0.3) == {}


def test_the_verb_writes_a_file_a_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(f"noise --detectors laneatt --calibration-images 2 --results {tmp_path} --name n".split())
    assert stop.value.code == 0
    assert "laneatt, 0.1 sd: offsets: foreground" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:  # as the verb advises, on a folder that holds nothing else
        main(["claims", "--results", str(tmp_path / "n"), "--out", str(tmp_path / "out"), "--no-plots"])
    assert stop.value.code == 0
    assert "C5" in capsys.readouterr().out
    measured = read_all(tmp_path / "n")
    assert [found.level for found in measured] == [0.1, 0.3, 1.0]
    assert measured[0].data == "2 calibration images of synthetic"
    assert all(len(sides.foreground) == 2 for found in measured for sides in found.heads.values())


def test_a_file_that_is_no_measurement_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / ("0" * 64 + ".json")).write_text("{}")
    (tmp_path / "noise" / "a.json").write_text('{"detector": 3}')
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a.json: not a measurement of noise on heads" in told
