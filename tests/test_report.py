"""The report: what is on the page, what is said to be missing, and the files for papers beside it."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from measured_cells import measured, three

from bench.errors import BenchError
from bench.report import content, gallery, page, results
from bench.report.verb import make_report
from bench.store import Record, RunFolder


def folder_of(path: Path, records: list[Record]) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare()
    for record in records:
        folder.put(record)
    return folder


def lanes_on(html: str) -> dict[str, list[dict[str, object]]]:
    found = re.search(r'<script type="application/json" id="lanes">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_nothing_else(toy_page: Path) -> None:
    html = toy_page.read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "url(http" not in html
    assert "@import" not in html
    assert len(html) < 2 * 2**20


def test_every_figure_has_words_and_its_own_ids(toy_page: Path) -> None:
    html = toy_page.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg [^>]*>", html)
    assert len(drawings) >= 6
    assert all('role="img"' in each and re.search(r'aria-label="[^"]{20,}"', each) for each in drawings)
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_figures_and_tables_for_papers(tmp_path: Path) -> None:
    records = [measured("fp32", 0.95), measured("minmax", 0.7), measured("qdrop", 0.8)]
    out = tmp_path / "page.html"
    page.write(content.gather_report(folder_of(tmp_path / "run", records).path), out)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for ending, start in starts.items():
        files = list((out.with_suffix("") / "figures").glob(f"*.{ending}"))
        assert {path.stem for path in files} >= {"f1", "time-f1", "lds-f1"}
        assert all(path.read_bytes().startswith(start) for path in files)
    tables = out.with_suffix("") / "tables"
    with (tables / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["Method"] for row in rows] == ["fp32", "minmax", "qdrop"]
    assert (tables / "results.md").read_text().count("\n") == len(rows) + 2
    assert (tables / "results.tex").read_text().count(r"\\") == len(rows) + 1


def test_the_gallery_scores_lanes_as_the_record_did(toy_run: RunFolder, toy_page: Path) -> None:
    (subject,) = lanes_on(toy_page.read_text(encoding="utf-8"))["subjects"]
    record = next(r for r in toy_run.records() if r.cell["method"] == "minmax" and r.cell["w_bits"] == 4)
    assert record.result is not None
    for frame in subject["frames"]:
        place = int(frame["name"].split()[-1])
        own = frame["found"].get("minmax w4a4")
        if own is not None:
            assert own["lds"] == pytest.approx(record.result.frames["lds"][place], abs=0.6)
        assert frame["found"]["fp32"]["lds"] == 0


def test_records_keep_the_lanes_of_their_worst_frames(toy_run: RunFolder) -> None:
    for record in toy_run.records():
        assert record.result is not None
        lds = record.result.frames["lds"]
        kept = {int(name.split()[-1]): found["lds"] for name, found in record.extremes.items()}
        if record.cell["method"] == "fp32":
            assert kept == {}
        else:
            assert max(kept.values()) == pytest.approx(max(lds))
            assert all(lds[place] == pytest.approx(value) for place, value in kept.items())


def test_what_records_lack_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", [measured("fp32", 0.95), *three("minmax", 0.7)])
    report = content.gather_report(folder.path)
    said = " ".join(content.missing(report.runs[0]))
    for words in ("same bits", "no categories", "no record holds sensitivities", "keep no lanes", "noise"):
        assert words in said
    assert {plot.kind for plot in report.runs[0].plots} == {"f1", "time-f1", "lds-f1", "cost"}


def test_measurements_of_noise_are_drawn(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", [measured("fp32", 0.95)])
    heads = {"class": {"foreground": [3.0, 3.5, 4.0], "background": [1.0, 1.2, 0.9]}}
    (folder.path / "noise").mkdir()
    (folder.path / "noise" / "laneatt.json").write_text(
        json.dumps({"detector": "laneatt", "data": "synthetic", "heads": heads})
    )
    report = content.gather_report(folder.path)
    (noise,) = [plot for plot in report.runs[0].plots if plot.kind == "noise"]
    assert "laneatt, 0 sd: class: foreground 3.50 px, background 1.03 px" in noise.alt
    assert not any("noise" in sentence for sentence in content.missing(report.runs[0]))


def test_the_headline_names_the_best_and_what_it_beats(tmp_path: Path) -> None:
    records = [measured("fp32", 0.95), *three("minmax", 0.6), *three("qdrop", 0.8)]
    report = content.gather_report(folder_of(tmp_path / "run", records).path)
    (first,) = content.headlines(report.runs[0])
    assert (first.best, first.subject.split(",")[0]) == ("QDrop", "laneatt W4A4")
    assert "full precision" in first.rest
    assert "next min-max" in first.rest
    assert "3 seeds" in first.rest


def test_names_from_data_cannot_leave_their_place(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    lane = [[10.0, 20.0], [12.0, 40.0]]
    record = measured("minmax", 0.9, dataset="tusimple").model_copy(update={"examples": {bad: [lane]}})
    report = content.gather_report(folder_of(tmp_path / "run", [record]).path)
    out = tmp_path / "page.html"
    page.write(report, out, with_files=False)
    html = out.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    (subject,) = lanes_on(html)["subjects"]
    assert subject["frames"][0]["name"] == bad
    assert not out.with_suffix("").exists()


def test_names_of_records_are_no_markup_and_no_paths(tmp_path: Path) -> None:
    scores = [{"iteration": i, "scores": {"class": 2.0 - i}, "active": ["class"]} for i in (0, 1)]
    bad = ('x"><script>alert(1)</script>', "/../../../x", "a\\1 $\\frac{")
    records = [measured("minmax", 0.9, detector=name) for name in bad]
    records.append(measured("<script>alert(2)</script>", 0.9, base="minmax", sensitivity=scores))
    out = tmp_path / "deep" / "in" / "it" / "page.html"
    before = folder_of(tmp_path / "run", records).path
    written = page.write(content.gather_report(before), out)
    found = {path for path in tmp_path.rglob("*") if path.is_file() and before not in path.parents}
    assert found == set(written)
    html = out.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", each) for each in re.findall(r'\sid="([^"]*)"', html))
    for path in written:
        assert path.parent in {out.parent, *(out.with_suffix("") / name for name in ("figures", "tables"))}
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name)


def test_the_page_runs_its_own_script_alone(toy_page: Path) -> None:
    html = toy_page.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in html


def test_frames_outside_the_root_are_not_read(tmp_path: Path) -> None:
    record = measured("minmax", 0.9, dataset="culane")
    with pytest.raises(ValueError, match="outside of"):
        gallery.picture_of(RunFolder(tmp_path), record, "../secret.jpg", tmp_path)


def test_thinned_lanes_stay_within_a_pixel() -> None:
    y = np.arange(250.0, 590.0, 10)
    lane = np.stack([600 + 80 * np.sin(y / 150), y], axis=1)
    thin = np.array(gallery._thinned(lane)).reshape(-1, 2)
    assert len(thin) < len(lane) / 2
    assert np.abs(np.interp(y, thin[:, 1], thin[:, 0]) - lane[:, 0]).max() < 1


def test_latex_is_escaped() -> None:
    text = results.as_latex([["F1 %", "a_b"], ["50 & 1", "~"]])
    assert r"F1 \% & a\_b \\" in text
    assert r"50 \& 1 & \textasciitilde{} \\" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a", "records": Path("b")}, "--name and --records"),
        ({"out": Path("page.txt")}, "report.html"),
        ({"records": Path("nowhere")}, "no records of a run"),
    ],
)
def test_bad_requests(options: dict[str, object], words: str, tmp_path: Path) -> None:
    given = {"name": None, "records": None, "root": None, "out": tmp_path / "r.html", "results": tmp_path}
    with pytest.raises(BenchError, match=words):
        make_report(**{**given, "with_files": False, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_run_within_a_larger_one_is_shown_once(tmp_path: Path) -> None:
    small = [measured("fp32", 0.95), measured("minmax", 0.7)]
    folder_of(tmp_path / "a-small", small)
    folder_of(tmp_path / "large", [*small, measured("qdrop", 0.8)])
    report = content.gather_report(tmp_path)
    by_name = {run.name: run for run in report.runs}
    assert sorted(row.row.method for row in report.rows) == ["fp32", "minmax", "qdrop"]
    assert {row.run for row in report.rows} == {"large"}
    assert by_name["a-small"].repeats == 2
    assert not by_name["a-small"].plots
    assert content.missing(by_name["a-small"])[0].startswith("2 rows: the same measurements")
    assert by_name["large"].plots
    assert not by_name["large"].repeats


def test_what_is_no_repeat_stays(tmp_path: Path) -> None:
    """A measurement made again, and a row with an unfinished seed."""
    first = measured("qdrop", 0.8)
    again = first.model_copy(update={"finished": "2001-01-01T00:00:00+00:00"})
    folder_of(tmp_path / "large", [first, measured("fp32", 0.95)])
    folder_of(tmp_path / "again", [again])
    failed = measured("qdrop", 0.8, seed=1).model_copy(update={"status": "failed", "result": None})
    folder_of(tmp_path / "failed", [first, failed])
    rows = content.gather_report(tmp_path).rows
    assert [row.row.status for row in rows if row.run == "failed"] == ["failed"]
    assert [row.row.method for row in rows if row.run == "again"] == ["qdrop"]


def test_a_run_with_more_seeds_is_no_repeat(tmp_path: Path) -> None:
    """Its mean is of other records than those of the larger run."""
    folder_of(tmp_path / "more", [measured("qdrop", 0.8, seed=seed) for seed in (0, 1)])
    folder_of(tmp_path / "wide", [measured("qdrop", 0.8), measured("minmax", 0.7), measured("fp32", 0.95)])
    report = content.gather_report(tmp_path)
    assert [row.run for row in report.rows].count("more") == 1
    assert [row.run for row in report.rows].count("wide") == 3
