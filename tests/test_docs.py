"""Documentation that is checked: code blocks run, commands and options exist, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from toy import ToyDetector

from bench.cli import app
from bench.errors import BenchError
from bench.profile import load_profile
from bench.usage import EXAMPLES, completion
from selective_focus.methods import _registered
from selective_focus.quantize import quantize

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands() -> list[tuple[str, str]]:
    """Every ``python -m bench ...`` of every page, in blocks and in sentences, a line each."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in re.findall(r"python -m bench [^`\n#]+(?:\n[^`\n]*(?=`))?", text):
            found.append((page.name, " ".join(match.split())))
    return found


def run_page(name: str) -> None:
    page = ROOT / "docs" / name
    code = "\n".join(blocks(page, "python"))
    assert code.count("\n") > 10
    exec(compile(code, str(page), "exec"), {"__name__": "page"})


def test_the_detector_of_the_page_is_quantized(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("add-a-detector.md")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["minmax", "selective-focus"]
    assert all(line.endswith("[]") for line in lines), "something was left in floating point"


def test_the_method_of_the_page_quantizes() -> None:
    detector = ToyDetector()
    try:
        run_page("add-a-method.md")
        _, log = quantize(detector, torch.rand(4, 3, *detector.input_size), method="percentile", bits="w4a4")
    finally:
        _registered.pop("percentile", None)
    assert log.config["quantization"]["activation_range"] == "percentile"
    assert log.float_operations == []


@pytest.mark.parametrize(("page", "command"), commands())
def test_documented_commands_exist(page: str, command: str) -> None:
    words = shlex.split(command)[3:]
    verbs = typer.main.get_command(app).commands
    if words and not words[0].startswith("-"):
        verb = verbs.get(words[0])
        assert verb is not None, f"{page}: no verb {words[0]!r}"
        known = {name for option in verb.params for name in (*option.opts, *option.secondary_opts)} | {
            "--help"
        }
        used = {
            word.split("=")[0].strip("[]().,;") for word in words[1:] if word.lstrip("[(").startswith("--")
        }
        assert used <= known, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_verb_has_examples_that_exist() -> None:
    verbs = typer.main.get_command(app).commands
    for name, verb in verbs.items():
        assert name in EXAMPLES, f"--help of {name} shows no example; add one to bench/usage.py"
        known = {option for parameter in verb.params for option in parameter.opts}
        for line in EXAMPLES[name]:
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_completion_knows_verbs_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion(typer.main.get_command(app)))
    ask = 'COMP_WORDS=({words}); COMP_CWORD={place}; _bench; echo "${{COMPREPLY[@]}}"'
    for words, place, found in (("bench rep", 1, "report"), ("bench table --na", 2, "--name")):
        code = f"source {script}; " + ask.format(words=words, place=place)
        answer = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == [found]


def test_completion_starts_a_python_whose_path_has_a_blank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "my $tools" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    script = tmp_path / "completion"
    script.write_text(completion(typer.main.get_command(app)))
    code = f"source {shlex.quote(str(script))}; bench table --name 'a b'"
    answer = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["-m", "bench", "table", "--name", "a", "b"]


def test_the_profile_of_the_page_is_a_profile(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "profiles.md", "toml")
    path = tmp_path / "mine.toml"
    path.write_text(block, encoding="utf-8")
    profile = load_profile(str(path))
    assert profile.seeds_of("w4a4") == [0, 1, 2]
    assert profile.options_of("qdrop-for-lanes")["iterations"] == 500
    path.write_text(block.replace("seeds =", "seed ="), encoding="utf-8")
    with pytest.raises(
        BenchError, match="no such key as 'seed'; expected some of name, description, detectors"
    ):
        load_profile(str(path))


def test_no_page_has_a_gap_that_was_to_be_filled() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"@[A-Z]+@|TODO|Not run yet", text), page.name
        assert not re.search(r"<!-- ([a-z-]+) -->\n<!-- /\1 -->", text), page.name


def test_tables_of_pages_are_those_of_the_records() -> None:
    """Written by scripts/fill_tables.py: nobody typed them, and nobody forgot to write them again."""
    script = runpy.run_path(str(ROOT / "scripts" / "fill_tables.py"), run_name="fill_tables")
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for name in ("reference", "ranges", "equalisation", "reference-lstr"):
        assert script["reference_tables"](ROOT / "results" / "reference" / name / "cells.csv") in text, name
    halves = script["reference_tables"](
        ROOT / "results" / "reference" / "reference" / "cells.csv", halves=True
    )
    assert halves in text
    quick = script["quick_tables"](ROOT / "results" / "reference" / "quick" / "cells.csv")
    assert quick in (ROOT / "README.md").read_text(encoding="utf-8")
