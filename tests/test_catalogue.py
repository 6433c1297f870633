"""The list of detectors: sizes against published ones, weights and F1 as they are on disk, readable at 100 columns."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from toy import ToyDetector

import lane_models
from bench import catalogue, cli
from bench.catalogue import Entry, Size, as_csv, count, embedded_f1, plain, tables
from bench.detectors import build
from bench.errors import BenchError
from bench.paper.releases import releases
from selective_focus import MatMul

CARD = """# toy synthetic

- steps: 5000 of 16 frames
- seconds: 1056

## Accuracy in full precision

CULane F1 (IoU 0.5 of 30 px wide strokes) on the first 450 synthetic test frames, 1640 x 590:

| category | F1 | precision | recall | TP | FP | FN |
| --- | --- | --- | --- | --- | --- | --- |
| normal | 94.9 | 92.4 | 97.5 | 159 | 13 | 4 |
| **all** | 87.8 | 86.0 | 89.7 | 1171 | 190 | 134 |

Real frames, culane_day (120), without adaptation:

| **all** | 63.0 | 52.5 | 78.7 | 159 | 144 | 43 |
"""
PUBLISHED_SIZES = {
    # parameters and GMACs as worked out from the official code; of CLRNet without re-running earlier stages' layers,
    # of CondLaneNet and GANet (attention and deformable convolution added) without what nothing reads, and of
    # CondLaneNet with the range of all 1000 cells, not of the starts that are found
    ("bezierlanenet", "r18"): (4_250_404, 7.287),
    ("bezierlanenet", "r34"): (9_637_924, 14.719),
    ("laneatt", "r18"): (12_019_314, 9.312 + 0.704),
    ("lstr", "tusimple"): (
        765_786,
        0.582,
    ),  # 32 of them a norm that the official code freezes
    ("lstr", "r18s2x"): (3_048_106, 1.996),
    ("lstr", "r34"): (22_344_522, 16.970),
    ("condlanenet", "s_r18"): (11_934_859, 10.126 + 0.010 - 0.009 + 0.256 + 0.261),
    ("condlanenet", "m_r34"): (22_043_019, 19.563 + 0.010 - 0.009 + 0.256 + 0.261),
    ("ganet", "s_r18"): (20_787_972, 21.403 + 0.459 + 0.010 - 0.046),
    ("ganet", "m_r34"): (30_896_132, 30.840 + 0.459 + 0.010 - 0.046),
    ("resa", "r18"): (6_617_646, 28.121),
    ("resa", "r34"): (12_005_166, 48.293),
    ("resa", "zju_r34"): (24_287_438, 88.195),
    ("resa", "zju_r50"): (26_707_406, 97.042),
    ("scnn", "r18"): (12_415_049, 44.622),
    ("scnn", "vgg16-harryhan618"): (20_742_217, 109.124),
}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return catalogue.catalogue()


@pytest.mark.parametrize(("name", "variant"), PUBLISHED_SIZES)
def test_sizes_agree_with_published_ones(name: str, variant: str) -> None:
    parameters, giga_macs = PUBLISHED_SIZES[(name, variant)]
    size = count(name, variant)
    assert size.parameters == parameters
    assert size.macs / 1e9 == pytest.approx(giga_macs, abs=0.001)


def test_what_counts_as_a_product() -> None:
    convolution, transposed = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 2, stride=2)
    x = torch.zeros(1, 4, 10, 10)
    assert catalogue._macs(convolution, (x,), convolution(x)) == 6 * 8 * 8 * 2 * 9
    assert catalogue._macs(transposed, (x,), transposed(x)) == 4 * 10 * 10 * 6 * 4
    left, right = torch.zeros(2, 3, 5), torch.zeros(2, 5, 7)
    assert catalogue._macs(MatMul(), (left, right), left @ right) == 2 * 3 * 5 * 7
    assert catalogue._macs(nn.Linear(5, 7), (left,), torch.zeros(2, 3, 7)) == 2 * 3 * 5 * 7
    assert catalogue._macs(nn.BatchNorm2d(4), (x,), x) == 0


def test_heads_are_those_of_a_forward() -> None:
    detector = lane_models.untrained("laneatt", "synthetic")
    with torch.inference_mode():
        heads = detector.heads(torch.zeros(1, 3, *detector.input_size))
    assert count("laneatt", "synthetic").heads == {name: list(head.shape[1:]) for name, head in heads.items()}


def test_every_variant_is_listed_with_its_weights(entries: list[Entry]) -> None:
    listed = [(entry.detector, entry.variant) for entry in entries]
    assert listed == [
        (name, variant) for name in lane_models.names() for variant in lane_models.variants(name)
    ]
    for entry in entries:
        shipped = lane_models.shipped_weights(entry.detector, entry.variant)
        known = [r for r in releases() if (r.detector, r.variant) == (entry.detector, entry.variant)]
        expected = shipped.name if shipped else known[0].address if known else "none"
        assert entry.weights == expected
        if shipped:
            assert entry.embedded is not None, entry.embedded_source
            assert 0.2 < entry.embedded < 1
        assert (entry.published is None) == (not entry.published_source)


def test_published_scores_are_those_of_the_released_weights(entries: list[Entry]) -> None:
    found = {(entry.detector, entry.variant): entry.published for entry in entries}
    assert found[("clrnet", "dla34")] == pytest.approx(0.8047)
    assert found[("laneatt", "r18")] == pytest.approx(0.7513)
    assert found[("bezierlanenet", "r34")] == pytest.approx(0.7557)
    assert found[("condlanenet", "m_r34")] == pytest.approx(0.7874)
    assert found[("ganet", "s_r18")] == pytest.approx(0.7879)
    assert found[("resa", "r34")] == pytest.approx(0.7366)
    assert found[("resa", "zju_r50")] is None
    assert found[("lstr", "culane")] == pytest.approx(0.64)
    assert found[("lstr", "tusimple")] is None
    assert found[("scnn", "vgg16-harryhan618")] is None


class TestEmbedded:
    def weights(self, folder: Path, **facts: str) -> Path:
        path = folder / "toy_synthetic.safetensors"
        save_file({"a": torch.zeros(1)}, path, {"training": json.dumps(facts)})
        return path

    def test_f1_is_read_from_the_card(self, tmp_path: Path) -> None:
        path = self.weights(tmp_path, steps="5000 of 16 frames", seconds="1056")
        path.with_suffix(".md").write_text(CARD)
        assert embedded_f1(path) == (0.878, "450 synthetic test frames (toy_synthetic.md)")

    def test_a_card_of_other_weights_says_nothing(self, tmp_path: Path) -> None:
        path = self.weights(tmp_path, steps="4000 of 16 frames", seconds="1056")
        path.with_suffix(".md").write_text(CARD)
        score, why = embedded_f1(path)
        assert score is None
        assert "other weights" in why

    def test_no_card_no_f1(self, tmp_path: Path) -> None:
        path = self.weights(tmp_path)
        assert embedded_f1(path) == (None, "")
        path.with_suffix(".md").write_text("# nothing measured\n")
        assert embedded_f1(path) == (None, "")


class TestCache:
    def test_sizes_are_counted_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        counted = []

        def counting(name: str, variant: str) -> Size:
            counted.append((name, variant))
            return Size((1, 2), 3, 4, {"head": [5, 6]})

        monkeypatch.setattr(catalogue, "count", counting)
        cache = tmp_path / "new" / "sizes.json"
        first = catalogue.catalogue(cache)
        assert len(counted) == len(first)
        assert catalogue.catalogue(cache) == first
        assert len(counted) == len(first)
        for content in ("{}", "no json", '{"code": 1, "sizes": {}}'):
            cache.write_text(content)
            assert catalogue.catalogue(cache) == first
        assert len(counted) == 4 * len(first)

    def test_other_code_counts_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalogue, "count", lambda *_: Size((1, 2), 3, 4, {}))
        catalogue.catalogue(tmp_path / "sizes.json")
        monkeypatch.setattr(catalogue, "count", lambda *_: Size((1, 2), 7, 4, {}))
        monkeypatch.setattr(catalogue, "_code_digest", lambda: "another")
        assert {entry.size.parameters for entry in catalogue.catalogue(tmp_path / "sizes.json")} == {7}


class TestOutput:
    def test_a_hundred_columns(self, entries: list[Entry]) -> None:
        console = Console(width=100, file=io.StringIO(), color_system=None)
        for part in tables(entries):
            console.print(part)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= 100
        for entry in entries:
            assert entry.variant in text
            assert entry.published is None or f"{100 * entry.published:.2f} [" in text
            assert all(head in text for head in entry.size.heads)
        assert "…" not in text
        assert "gdrive:1IpfusHvFeMEGe8wv0fer6KF3pH4X2Tj3" in text
        assert "github.com/Turoad/CLRNet README.md" in text

    def test_csv_and_json(self, entries: list[Entry], capsys: pytest.CaptureFixture[str]) -> None:
        for option in ("--json", "--csv"):
            with pytest.raises(SystemExit) as caught:
                cli.main(["list", option])
            assert caught.value.code == 0
            out = capsys.readouterr().out
            found = json.loads(out) if option == "--json" else list(csv.DictReader(io.StringIO(out)))
            assert [(row["detector"], row["variant"]) for row in found] == [
                (entry.detector, entry.variant) for entry in entries
            ]
        row = found[0]
        assert (row["input_size"], row["parameters"]) == ("800x288", "4250404")
        assert row["heads"] == "existence:50x1 control_points:50x4x2"
        assert row["published"] == "0.7367"

    def test_unknown_is_empty_not_zero(self, entries: list[Entry]) -> None:
        bare = replace(entries[0], published=None, published_source="", embedded=None)
        assert plain([bare])[0]["published"] is None
        assert as_csv([bare]).splitlines()[1].endswith(",,,,")


class TestADetectorThatIsNotFinished:
    def test_a_package_that_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """It is named in one line, and the list shows the others."""

        def variants(name: str) -> list[str]:
            if name == "scnn":
                raise ImportError("no module named 'spam'")
            return ["synthetic"]

        monkeypatch.setattr(lane_models, "variants", variants)
        monkeypatch.setattr(lane_models, "names", lambda: ["laneatt", "scnn"])
        with pytest.raises(BenchError, match=r"lane_models/scnn: cannot be used .ImportError: no module"):
            build("scnn")
        with pytest.warns(UserWarning, match="left out: lane_models/scnn"):
            assert [entry.detector for entry in catalogue.catalogue(tmp_path / "sizes.json")] == ["laneatt"]

    def test_a_class_without_a_method_and_one_with_another_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lacking(*_: object) -> None:
            raise TypeError("Can't instantiate abstract class X with abstract method foreground")

        monkeypatch.setattr(lane_models, "build", lacking)
        with pytest.raises(BenchError, match=r"abstract method foreground.; what it needs is in docs"):
            build("laneatt")
        monkeypatch.setattr(lane_models, "build", lambda *_: ToyDetector())
        with pytest.raises(BenchError, match="its detector calls itself 'toy'"):
            build("laneatt")

    def test_variants_that_are_letters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lane_models, "variants", lambda name: list("tiny"))
        with pytest.raises(BenchError, match="expected names"):
            build("laneatt")
