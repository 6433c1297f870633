"""The command line: what is printed where, exit codes, and one line for every kind of bad input."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import stand_ins
import torch
from rich.console import Console

from bench import cli, parts
from bench.data import choose, drawn_from, load_data
from bench.detectors import build, fitting
from bench.errors import BenchError
from bench.profile import load_profile, profile_names
from bench.progress import ConsoleListener
from datasets import synthetic

SIZE = (59, 164)


def image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)


@pytest.fixture
def culane(tmp_path: Path) -> Path:
    """Six test frames in two categories, three others to calibrate with."""
    root = tmp_path / "culane"
    names = [f"/driver/{number}.jpg" for number in range(9)]
    for number, name in enumerate(names):
        image(root / name[1:], number)
        (root / name[1:]).with_suffix(".lines.txt").write_text("80 59 82 40 84 25\n120 59 110 40 100 25\n")
    lists = {"list/test.txt": names[:6], "list/calibration.txt": names[6:]}
    lists |= {"list/test_split/test0_normal.txt": names[:4], "list/test_split/test8_night.txt": names[4:6]}
    for name, content in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(content) + "\n")
    return root


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A toy detector wherever the command line builds one; results below the temporary folder."""
    monkeypatch.chdir(tmp_path)
    for module in (cli, parts):
        monkeypatch.setattr(module, "build", lambda *args: (stand_ins.toy_detector(), "embedded"))
    monkeypatch.setattr(cli, "check", lambda *args: None)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


def run_culane(root: Path, *more: str) -> int:
    words = ["--dataset", "culane", "--root", str(root), "--methods", "fp32,minmax", "--bits", "w8a8,w4a4"]
    return call("run", "--detectors", "toy", *words, "--calibration-images", "3", *more)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing like a score was printed."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "F1" not in captured.out
    return lines[0]


def test_run_table_plot(culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_culane(culane) == 0
    out = capsys.readouterr().out
    assert "3 cells measured now, 0 taken from earlier records" in out
    folder = tmp_path / "results/runs/culane"
    assert (folder / "cells.csv").read_text().count("\n") == 4
    assert (folder / "table.md").read_text().startswith("### culane: 6 test frames (all)")
    assert len(list((folder / "plots").glob("*.png"))) >= 4
    record = json.loads(next((folder / "records").glob("*.json")).read_text())
    assert record["result"]["categories"].keys() == {"normal", "night"}
    assert record["cell"]["calibration_images"] in (0, 3)

    assert run_culane(culane, "--no-plots") == 0
    assert "0 cells measured now, 3 taken from earlier records" in capsys.readouterr().out
    (folder / "cells.csv").unlink()
    assert call("table", "--name", "culane") == 0
    assert (folder / "cells.csv").is_file()
    assert call("plot", "--name", "culane") == 0
    assert "lds-f1.png" in capsys.readouterr().out


def test_resolved_options_are_in_the_record(culane: Path, tmp_path: Path) -> None:
    assert run_culane(culane, "--no-plots", "--limit", "2") == 0
    cells = [
        json.loads(p.read_text())["cell"] for p in (tmp_path / "results/runs/culane/records").glob("*.json")
    ]
    by_method = {cell["method"]: cell for cell in cells}
    assert by_method["minmax"]["settings"]["quantization"]["weight_range"] == "min-max"
    assert {cell["images"] for cell in cells} == {2}
    assert "at most 2 in all of 6" in by_method["fp32"]["subset"]


def test_folder_without_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_culane(tmp_path / "missing") == 2
    assert "missing: this folder does not exist; give" in complaint(capsys)
    (tmp_path / "empty").mkdir()
    assert run_culane(tmp_path / "empty") == 2
    assert "no CULane data set" in complaint(capsys)


def test_runs_without_records_are_not_listed(
    culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_culane(tmp_path / "missing", "--name", "failed") == 2
    assert run_culane(culane, "--name", "typo", "--methods", "minmax,nonsense") == 2
    (tmp_path / "results/runs/abandoned/records").mkdir(parents=True)
    capsys.readouterr()
    assert call("list") == 0
    assert "none yet" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "results/runs").iterdir()] == ["abandoned"]
    assert run_culane(culane, "--name", "mine", "--no-plots") == 0
    capsys.readouterr()
    assert call("list") == 0
    assert "runs:       mine\n" in capsys.readouterr().out


def test_progress_of_a_reconstruction_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, *(30.0 * step for step in range(1, 7))])
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    listener = ConsoleListener(Console(file=out, width=100))
    listener.planned(1)
    listener.started(SimpleNamespace(label="toy qdrop w4a4"))  # type: ignore[arg-type]
    for step in (1, 2, 3, 4, 5, 6):
        listener.reconstructed(step, 6)
    assert out.getvalue().splitlines() == [
        "toy qdrop w4a4: 3 of 6 iterations, about 90 s left",
        "toy qdrop w4a4: 5 of 6 iterations, about 30 s left",
    ]


def test_list_names_an_absent_file(culane: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (culane / "driver/8.jpg").unlink()
    assert run_culane(culane) == 2
    assert "driver/8.jpg" in complaint(capsys)


def test_malformed_annotation(culane: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (culane / "driver/3.lines.txt").write_text("80 59 oops\n")
    assert run_culane(culane) == 2
    assert "3.lines.txt:1" in complaint(capsys)


def test_truncated_image(culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = culane / "driver/5.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert run_culane(culane) == 2
    assert "5.jpg" in complaint(capsys)
    assert not list((tmp_path / "results/runs/culane/records").glob("*.json"))


def test_image_of_another_size(culane: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(culane / "driver/5.jpg", 5, (60, 164))
    assert run_culane(culane) == 2
    assert "164x60" in complaint(capsys)


def test_results_that_cannot_be_written(
    culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert run_culane(culane, "--results", str(tmp_path / "taken")) == 2
    assert "cannot be written" in complaint(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--methods", "nonsense"], "expected one of"),
        (["run", "--bits", "w4"], "command line: bits"),
        (["run", "--seeds", "one"], "command line: seeds"),
        (["run", "--dataset", "imagenet"], "'culane'"),
        (["run", "--dataset", "culane"], "--root"),
        (["run", "--profile", "nonsense"], "quick"),
        (["run", "--device", "nonsense"], "try cpu"),
        (["run", "--calibration-images", "0"], "calibration_images"),
        (["run", "--no-such-option"], "No such option"),
        (["nonsense"], "No such command"),
        (["culane", "--root", ""], "CULANE=DIR"),
        (["table", "--name", "nonsense"], "no records"),
        (["plot", "--name", "nonsense"], "no records"),
        (["score", "--annotations", "a", "--predictions", "b", "--list", "c"], "no such folder"),
        (["predict", "--image", "nonsense.jpg", "--out", "a.png"], "no such file"),
    ],
)
def test_bad_requests(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    assert words in complaint(capsys)


def test_score_prints_one_object(culane: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(culane)
    words = ["--annotations", folder, "--predictions", folder, "--list", str(culane / "list/test.txt")]
    assert call("score", *words, "--image-size", "164x59", "--width", "5") == 0
    assert json.loads(capsys.readouterr().out) == {
        **{"tp": 12, "fp": 0, "fn": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0},
        "images": 6,
    }


def test_culane_looks_at_the_folder_first_and_resumes(
    culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "small.toml"
    profile.write_text(
        'detectors = ["toy"]\nbits = ["w8a8"]\nseeds = [0]\ncalibration_images = 3\n[methods.fp32]\n[methods.minmax]\n'
    )
    words = ["culane", "--root", str(culane), "--profile", str(profile)]
    assert call(*words) == 0
    out = capsys.readouterr().out
    assert "6 test images listed, CULane has 34,680: not the full set" in out
    assert "official weights: none given (make weights" in out
    assert "2 cells measured now, 0 taken from earlier records" in out
    assert "images/s" in out
    assert call(*words) == 0
    assert "0 cells measured now, 2 taken from earlier records" in capsys.readouterr().out
    (culane / "driver/4.jpg").unlink()
    assert call(*words) == 2
    assert "driver/4.jpg: listed, but not here" in complaint(capsys)


def test_doctor_checks_a_culane_folder(
    culane: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.health, "room", lambda *_: iter(()))  # this machine's memory is another matter
    words = ["doctor", "--culane", str(culane), "--weights", str(tmp_path)]
    assert call(*words) == 0
    out = capsys.readouterr().out
    assert f"ok   {culane}: 12 lanes annotated on the test images\n" in out
    assert "note" in out
    (culane / "driver/4.lines.txt").unlink()
    assert call(*words) == 1
    assert f"BAD  {culane}/driver/4.lines.txt: no such annotation" in capsys.readouterr().out


def test_predict_an_image_and_a_folder(
    culane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = culane / "driver/0.jpg"
    assert call("predict", "--detector", "toy", "--image", str(source), "--out", str(tmp_path / "a.png")) == 0
    assert "decoding" in capsys.readouterr().out
    drawn, plain = cv2.imread(str(tmp_path / "a.png")), cv2.imread(str(source))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    assert call("predict", "--image", str(culane / "driver"), "--out", str(tmp_path / "many")) == 0
    assert len(list((tmp_path / "many").glob("*.png"))) == 9
    source.write_bytes(source.read_bytes()[:-500])
    assert call("predict", "--detector", "toy", "--image", str(source), "--out", str(tmp_path / "b.png")) == 2
    assert "ends too early" in complaint(capsys)


def test_an_interruption_is_130(culane: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "quantize", interrupted)
    assert run_culane(culane) == 130


def test_a_failed_cell_is_1(
    culane: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(parts, "quantize", broken)
    assert run_culane(culane) == 1
    assert "2 cells have no score" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "culane", "table", "plot", "list", "score", "doctor", "predict"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_list_and_doctor_look_around(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    out = capsys.readouterr().out
    assert "laneatt" in out
    assert "selective-focus" in out
    assert call("doctor") in (0, 1)
    assert "Python 3" in capsys.readouterr().out


class TestProfiles:
    def test_every_shipped_profile_is_valid(self) -> None:
        names = [
            "ablations",
            "equalisation",
            "full",
            "quick",
            "ranges",
            "reference",
            "reference-lstr",
            "steps",
        ]
        assert profile_names() == names
        for name in profile_names():
            profile = load_profile(name)
            assert profile.name == name
            assert next(iter(profile.methods)) == "fp32"

    def test_quick_is_what_the_readme_promises(self) -> None:
        quick = load_profile("quick")
        learning = ["adaround", "brecq", "qdrop", "selective-focus", "selective-focus-plus"]
        assert list(quick.methods) == ["fp32", "minmax", "omse", "aciq", *learning]
        assert quick.detectors == ["laneatt", "clrnet", "bezierlanenet", "scnn", "condlanenet"]
        assert (quick.bits, quick.seeds, quick.calibration_images) == (["w4a4", "w3a3"], [0], 128)

    def test_methods_of_the_command_line_keep_their_options(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(
            'detectors=["toy"]\nbits=["W4A4"]\nseeds=[0]\n[methods.qdrop]\niterations=7\n[methods.fp32]\n'
        )
        profile = load_profile(str(path), methods=["qdrop", "minmax"])
        assert profile.methods == {"qdrop": {"iterations": 7}, "minmax": {}}
        assert (profile.name, profile.bits) == ("mine", ["w4a4"])

    def test_budgets_of_another_profile(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(
            'detectors=["toy"]\nbits=["w4a4"]\nseeds=[0]\nbudgets="quick"\n'
            '[methods.qdrop]\niterations=7\n[methods.qdrop-clipped]\nmethod="qdrop"\nactivation_range="aciq"\n'
        )
        quick = load_profile("quick").methods
        assert quick["qdrop"]["iterations"] > 7, "else this says nothing"
        profile = load_profile(str(path), methods=["qdrop-clipped", "brecq"])
        assert profile.options_of("qdrop-clipped") == {
            **quick["qdrop"],
            "iterations": 7,
            "activation_range": "aciq",
        }
        assert profile.options_of("brecq") == quick["brecq"], "also of a method that the file does not name"

    @pytest.mark.parametrize("budgets", ['"mine"', '"nowhere"', "3", "[]"])
    def test_budgets_that_do_not_exist(self, tmp_path: Path, budgets: str) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(f'detectors=["toy"]\nbits=["w4a4"]\nseeds=[0]\nbudgets={budgets}\n[methods.fp32]\n')
        with pytest.raises(BenchError, match=r"mine\.toml: budgets: expected .*quick.*, not "):
            load_profile(str(path))

    def test_a_label_is_a_method_with_other_options(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(
            'detectors=["toy"]\nbits=["w4a4", "w8a8"]\nseeds=[0]\n[seeds_at]\nW4A4=[0, 1, 2]\n'
            "[methods.qdrop]\niterations=7\nbatch_size=2\n"
            '[methods.qdrop-long]\nmethod="qdrop"\niterations=70\n'
        )
        profile = load_profile(str(path), methods=["qdrop-long"])
        assert profile.method_of("qdrop-long") == "qdrop"
        assert profile.options_of("qdrop-long") == {"iterations": 70, "batch_size": 2}
        assert [profile.seeds_of(bits) for bits in profile.bits] == [[0, 1, 2], [0]]
        assert load_profile(str(path), seeds=[5]).seeds_of("w4a4") == [5]

    @pytest.mark.parametrize(
        ("label", "method"), [("a b", '"qdrop"'), ("full", '"fp32"'), ("x", "3"), ("x", "[]")]
    )
    def test_mistakes_in_a_label(self, tmp_path: Path, label: str, method: str) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(
            f'detectors=["toy"]\nbits=["w4a4"]\nseeds=[0]\n[methods."{label}"]\nmethod={method}\n'
        )
        with pytest.raises(BenchError, match=r"mine\.toml: methods: .*expected"):
            load_profile(str(path))

    @pytest.mark.parametrize("line", ["surprise = 1", "bits = []", "device = 3", "detectors = "])
    def test_mistakes_in_a_profile(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "mine.toml"
        key = line.split()[0]
        whole = {"detectors": '["toy"]', "bits": '["w4a4"]', "seeds": "[0]"}
        lines = [f"{name} = {value}" for name, value in whole.items() if name != key]
        path.write_text("\n".join([*lines, line, "[methods.fp32]"]))
        with pytest.raises(BenchError, match=r"mine\.toml") as caught:
            load_profile(str(path))
        assert "\n" not in str(caught.value)


class TestFrames:
    def test_only_the_synthetic_frames_that_are_looked_at_are_rendered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ensure = partial(synthetic.ensure, counts={"test": 45, "calibration": 20}, workers=1)
        monkeypatch.setattr("bench.data.synthetic.ensure", ensure)
        monkeypatch.setattr(
            "datasets.synthetic.layout.render", lambda scene: np.zeros((590, 1640, 3), np.uint8)
        )
        told: list[tuple[int, int]] = []
        profile = load_profile("quick", limit=2, calibration_images=3)
        few = load_data(profile, lambda *x: told.append(x))
        assert told[-1] == (5, 5)
        assert len(list(tmp_path.rglob("*.jpg"))) == 5
        assert [frame.image().shape for frame in (*few.frames, *few.calibration)] == [(590, 1640, 3)] * 5
        load_data(load_profile("quick", calibration_images=3), lambda *x: told.append(x))
        assert told[-1] == (43, 43)
        assert load_data(profile).digest == few.digest

    def test_a_draw_is_ordered_and_repeats(self) -> None:
        assert drawn_from(range(3), 5) == [0, 1, 2]
        for count in range(1, 20):
            kept = drawn_from(range(20), count)
            assert len(set(kept)) == count
            assert kept == sorted(kept)
            assert kept == drawn_from(range(20), count)

    def test_a_draw_does_not_fall_into_step_with_categories_that_repeat(self) -> None:
        kept = drawn_from(range(450), 200)
        assert {index % 9 for index in kept} == set(range(9))

    def test_so_many_of_each_category_then_in_all(self) -> None:
        categories = ["a"] * 6 + ["b"] * 2 + ["a"] * 4
        assert choose(categories, None, None) == list(range(12))
        kept = choose(categories, 2, None)
        assert [categories[i] for i in kept].count("a") == 2
        assert [categories[i] for i in kept].count("b") == 2
        assert len(choose(categories, 2, 3)) == 3


class TestCheckpoints:
    def test_the_variant_that_fits_is_chosen(self, shared: Path) -> None:
        for name, variant in (("LSTR_500000.pkl", "tusimple"), ("LSTR_CULANE_500000.pkl", "culane")):
            detector, words = build("lstr", None, shared / "real/lstr" / name)
            assert (detector.variant, words) == (variant, name)

    def test_a_folder_is_searched(self, shared: Path) -> None:
        found = fitting(shared / "real/lstr", "lstr", dataset="culane")
        assert [(path.name, variant) for path, variant in found] == [("LSTR_CULANE_500000.pkl", "culane")]
        detector, words = build("lstr", "culane", shared / "real/lstr", "culane")
        assert (detector.variant, words) == ("culane", "LSTR_CULANE_500000.pkl")

    def test_a_checkpoint_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "other.pth"
        torch.save({"a": torch.zeros(1)}, path)
        with pytest.raises(BenchError, match=r"fits no variant of lstr \(tusimple, culane") as caught:
            build("lstr", None, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_weights_no_detector(self) -> None:
        with pytest.raises(BenchError, match="no embedded weights"):
            build("lstr", "culane")

    @pytest.mark.parametrize(
        ("detector", "variant", "words"),
        [
            ("nonsense", None, "there is no detector"),
            ("lstr", "r999", "no variant"),
            ("lstr:r999", None, "no variant"),
        ],
    )
    def test_unknown_names(self, detector: str, variant: str | None, words: str) -> None:
        with pytest.raises(BenchError, match=words):
            build(detector, variant)
