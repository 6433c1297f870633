"""The command that makes a row again: what the records know is in it, what they do not know is said."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer
from measured_cells import measured, three

from bench.cli import app
from bench.data import subset_words
from bench.profile import load_profile
from bench.report.again import again
from selective_focus.quantize import resolve_options


def options_of(command: str) -> dict[str, Any]:
    """What ``python -m bench run`` is told by a command; nothing is run."""
    python, module, bench, verb, *words = shlex.split(command)
    assert (python, module, bench) == ("python", "-m", "bench")
    run = typer.main.get_command(app).commands[verb]
    return run.make_context(verb, words).params


def of_profile(profile: str, label: str) -> dict[str, Any]:
    """The settings of a method in a profile, as a record has them."""
    chosen = load_profile(profile)
    return resolve_options(chosen.method_of(label), "w4a4", chosen.options_of(label))


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("run", ["quick", "three-seeds"])
def test_settings_tell_the_profile_whatever_the_run_is_called(profile: str, run: str) -> None:
    made = again(run, three("qdrop", 0.8, settings=of_profile(profile, "qdrop")))
    options = options_of(made.command)
    assert made.notes == ()
    expected = {"profile": profile, "detectors": "laneatt", "method_names": "qdrop", "bits": "w4a4"}
    expected |= {"seeds": "0,1,2", "dataset": "synthetic", "split": "test", "calibration_images": 8}
    expected |= {"root": None, "weights": None, "device": "cpu", "limit": None}
    assert {name: options[name] for name in expected} == expected
    # quick would take 100 frames of each category, the record says that it left none out
    assert options["frames_per_category"] == (300 if profile == "quick" else None)


@pytest.mark.parametrize("limits", [(20, 300), (20, None), (None, 300)])
def test_test_frames_are_those_of_the_record(limits: tuple[int | None, int | None]) -> None:
    subset = subset_words(300, 1000, *limits)
    made = again("full", [measured("qdrop", settings=of_profile("full", "qdrop"), subset=subset)])
    options = options_of(made.command)
    assert (options["profile"], options["frames_per_category"], options["limit"]) == ("full", *limits)
    assert made.notes == ()


def test_a_rule_that_a_profile_would_cut_further_needs_another_profile() -> None:
    """This label is in reference.toml alone, which takes 50 frames of each category."""
    label = "selective-focus-without-sgf"
    known = {"base": "selective-focus", "settings": of_profile("reference", label)}
    made = again("reference", [measured(label, **known)])
    assert options_of(made.command)["profile"] == "reference"
    subset = subset_words(300, 1000, None, 300)
    made = again("reference", [measured(label, **known, subset=subset)])
    assert options_of(made.command)["profile"] == "FILE.toml"
    assert "without frames_per_category" in made.notes[0]


def test_what_the_record_does_not_know_is_said() -> None:
    known = {"dataset": "culane-val", "variant": "r18", "weights": "r18.pth", "weights_digest": "ab" * 32}
    settings = of_profile("full", "qdrop")
    label = measured("mine", base="qdrop", settings=settings, device="cuda", **known)
    made = again("full", [label])
    options = options_of(made.command)
    assert (options["profile"], str(options["root"])) == ("FILE.toml", "DIR")
    assert (str(options["weights"]), options["detectors"]) == ("CHECKPOINT", "laneatt:r18")
    assert (options["dataset"], options["split"], options["device"]) == ("culane", "val", "cuda")
    profile, folder, weights = made.notes
    assert '[methods.mine] gives the settings below, with method = "qdrop"' in profile
    assert folder == "DIR: the folder of data set culane-val."
    assert weights == "CHECKPOINT: the file r18.pth (digest of its weights: abababababab)."


def test_full_precision_takes_no_bits() -> None:
    options = options_of(again("quick", [measured("fp32", settings={}, calibration_images=0)]).command)
    assert (options["bits"], options["calibration_images"], options["method_names"]) == (None, None, "fp32")


def test_words_of_records_are_words_of_the_shell() -> None:
    made = again("run", [measured("minmax", detector="a; rm -rf ~", subset="those I liked")])
    assert options_of(made.command)["detectors"] == "a; rm -rf ~"
    assert made.notes[-1] == "Test frames: those I liked; no option chooses them."
    assert again("run", []).command == ""
