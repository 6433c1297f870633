"""Downloads: resumed, verified before they get their name, unpacked without harm; a local server plays the network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import lane_models
from bench import download
from bench.detectors import fitting, profile_for_folder
from bench.download import DownloadError, Wanted, fetch
from bench.errors import BenchError
from bench.paper import rows
from bench.paper.releases import releases
from bench.profile import load_profile
from bench.unpack import ArchiveError, Limits, unpack

ROOT = Path(__file__).resolve().parents[1]
CONTENT = bytes(range(256)) * 4096
PAGE = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
ROOMY = Limits(100, 10**7)


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cut`` bytes an answer; notes the ranges that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file.bin": CONTENT}
        self.etag = '"one"'
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        self.no_ranges = False

    def address(self, path: str = "/file.bin") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content, asked = self.server.files.get(self.path), self.headers.get("Range")
        self.server.ranges.append(asked)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.server.no_ranges or self.headers.get("If-Range", self.server.etag) != self.server.etag:
            start = 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        end = None if self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_script", ROOT / "scripts" / "download.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestFetching:
    def test_a_verified_file_gets_its_name(self, server: Server, tmp_path: Path) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        wanted = Wanted(server.address(), tmp_path / "new" / "a.bin", len(CONTENT), digest)
        seen: list[tuple[int, int | None]] = []
        assert fetch(wanted, progress=lambda *now: seen.append(now))
        assert wanted.target.read_bytes() == CONTENT
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assert names(tmp_path) == ["new/a.bin"]
        assert not fetch(wanted)
        assert len(server.ranges) == 1

    def test_what_was_cut_is_continued(self, server: Server, tmp_path: Path) -> None:
        server.cut = 400_000
        wanted = Wanted(server.address(), tmp_path / "a.bin")
        assert fetch(wanted)
        assert wanted.target.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=400000-", "bytes=800000-"]

    def test_an_interrupted_command_goes_on(self, server: Server, tmp_path: Path) -> None:
        server.cut = 100_000
        wanted = Wanted(server.address(), tmp_path / "a.bin")
        with pytest.raises(
            DownloadError, match=r"ended after 300000 of 1048576 bytes; the same command goes on"
        ):
            fetch(wanted)
        assert not wanted.target.exists()
        server.cut = None
        assert fetch(wanted)
        assert wanted.target.read_bytes() == CONTENT
        assert server.ranges[-1] == "bytes=300000-"
        assert names(tmp_path) == ["a.bin"]

    @pytest.mark.parametrize("other", ["changed", "without ranges"])
    def test_another_state_of_the_file_starts_anew(self, server: Server, tmp_path: Path, other: str) -> None:
        server.cut = 100_000
        wanted = Wanted(server.address(), tmp_path / "a.bin")
        with pytest.raises(DownloadError):
            fetch(wanted)
        server.cut = None
        if other == "changed":
            server.etag, server.files["/file.bin"] = '"two"', CONTENT[::-1]
        server.no_ranges = other == "without ranges"
        assert fetch(wanted)
        assert wanted.target.read_bytes() == server.files["/file.bin"]

    def test_a_part_that_is_the_whole(self, server: Server, tmp_path: Path) -> None:
        wanted = Wanted(server.address(), tmp_path / "a.bin")
        wanted.partial.write_bytes(CONTENT)
        assert fetch(wanted)
        assert wanted.target.read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [({"sha256": "0" * 64}, "SHA-256 is"), ({"size": 7}, "has 1048576 bytes, expected 7")],
    )
    def test_a_wrong_file_is_not_kept(
        self, server: Server, tmp_path: Path, wrong: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(DownloadError, match=words):
            fetch(Wanted(server.address(), tmp_path / "a.bin", **wrong))
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        ("content", "words"), [(PAGE, "quota"), (b"\n<html>nothing", "no file"), (b"", "empty")]
    )
    def test_a_web_page_is_no_file(self, server: Server, tmp_path: Path, content: bytes, words: str) -> None:
        server.files["/file.bin"] = content
        with pytest.raises(DownloadError, match=words):
            fetch(Wanted(server.address(), tmp_path / "a.bin"))
        assert names(tmp_path) == []

    def test_a_file_that_was_there_is_verified_too(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(PAGE)
        with pytest.raises(DownloadError, match="web page"):
            fetch(Wanted("gdrive:x", tmp_path / "a.bin"))

    def test_no_such_address(self, server: Server, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match="404"):
            fetch(Wanted(server.address("/none"), tmp_path / "a.bin"))
        with pytest.raises(DownloadError, match="cannot be fetched"):
            fetch(Wanted("http://127.0.0.1:9/a", tmp_path / "a.bin"))


class TestGoogleDrive:
    def test_gdown_is_asked_to_resume(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        class Gdown:
            @staticmethod
            def download(**options: Any) -> None:
                calls.append(options)
                Path(options["output"]).write_bytes(CONTENT)

        monkeypatch.setitem(sys.modules, "gdown", Gdown)
        wanted = Wanted("gdrive:abc", tmp_path / "a.bin")
        assert fetch(wanted)
        assert calls == [{"id": "abc", "output": str(wanted.partial), "resume": True, "quiet": False}]
        assert wanted.target.read_bytes() == CONTENT

    def test_its_refusals_are_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Gdown:
            @staticmethod
            def download(**_: Any) -> None:
                raise RuntimeError("Too many users\nhave viewed this file")

        monkeypatch.setitem(sys.modules, "gdown", Gdown)
        with pytest.raises(DownloadError, match="Too many users have viewed"):
            fetch(Wanted("gdrive:abc", tmp_path / "a.bin"))
        monkeypatch.setitem(sys.modules, "gdown", None)
        with pytest.raises(DownloadError, match="make setup"):
            fetch(Wanted("gdrive:abc", tmp_path / "a.bin"))

    def test_its_quota_page_is_recognised(self, tmp_path: Path) -> None:
        wanted = Wanted("gdrive:abc", tmp_path / "a.bin")
        with pytest.raises(DownloadError, match=r"drive.google.com/file/d/abc/view: a web page .* quota"):
            fetch(wanted, lambda _, target: target.write_bytes(PAGE) and None)
        assert names(tmp_path) == []


def tar(path: Path, *entries: tuple[str, bytes | str]) -> Path:
    """A .tar.gz; a string as content makes a symbolic link to it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *entries: tuple[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize("pack", [tar, zipped])
class TestUnpacking:
    def test_files_appear(self, tmp_path: Path, pack: Any) -> None:
        archive = pack(tmp_path / "a", ("./list/test.txt", b"x"), ("list/b/c.txt", b"y"), ("d.jpg", b"z"))
        files = unpack(archive, tmp_path / "out", ROOMY)
        assert names(tmp_path / "out") == ["d.jpg", "list/b/c.txt", "list/test.txt"]
        assert sorted(files) == sorted((tmp_path / "out").rglob("*.*"))
        assert [f.name for f in unpack(archive, tmp_path / "some", ROOMY, "*.jpg")] == ["d.jpg"]
        assert unpack(archive, tmp_path / "none", ROOMY, "*.png") == []

    @pytest.mark.parametrize(
        "name",
        ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "\\\\host\\evil", "a/../../../evil"],
    )
    def test_nothing_leaves_the_folder(self, tmp_path: Path, pack: Any, name: str) -> None:
        archive = pack(tmp_path / "a", ("good.txt", b"x"), (name, b"y"))
        with pytest.raises(ArchiveError, match="outside the folder"):
            unpack(archive, tmp_path / "in" / "out", ROOMY)
        assert names(tmp_path) == ["a"]

    def test_links_are_refused(self, tmp_path: Path, pack: Any) -> None:
        archive = pack(tmp_path / "a", ("link", "/etc"), ("link/passwd", b"y"))
        with pytest.raises(ArchiveError, match="is a link"):
            unpack(archive, tmp_path / "out", ROOMY)
        assert names(tmp_path / "out") == []

    def test_an_existing_link_is_not_followed_out(self, tmp_path: Path, pack: Any) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out" / "list").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ArchiveError, match="by way of a link"):
            unpack(pack(tmp_path / "a", ("list/test.txt", b"x")), tmp_path / "out", ROOMY)
        assert names(tmp_path / "elsewhere") == []

    def test_bombs(self, tmp_path: Path, pack: Any) -> None:
        archive = pack(tmp_path / "a", ("big", bytes(2_000_000)))
        assert archive.stat().st_size < 20_000
        with pytest.raises(ArchiveError, match="more than 1000000 bytes"):
            unpack(archive, tmp_path / "out", Limits(10, 1_000_000))
        many = pack(tmp_path / "b", *((str(number), b"") for number in range(20)))
        with pytest.raises(ArchiveError, match="more than 10 entries"):
            unpack(many, tmp_path / "out", Limits(10, 10**6))
        assert names(tmp_path / "out") == []

    def test_damage(self, tmp_path: Path, pack: Any) -> None:
        random = torch.randint(0, 256, (50_000,), dtype=torch.uint8).numpy().tobytes()
        archive = pack(tmp_path / "a", ("x", random), ("y", random))
        archive.write_bytes(archive.read_bytes()[:60_000])
        with pytest.raises(ArchiveError, match=r"damaged or cut short|neither a zip nor a tar"):
            unpack(archive, tmp_path / "out", ROOMY)
        assert names(tmp_path / "out") == []


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        unpack(tmp_path / "a", tmp_path / "out", ROOMY)


class TestTable:
    def test_every_address_is_in_the_table_of_checkpoints(self) -> None:
        known = {row["url_or_drive_id"] for row in rows("checkpoints")}
        files = {row["file_name"]: row["url_or_drive_id"] for row in rows("checkpoints")}
        for release in releases():
            name = release.address.rsplit("/", 1)[-1]
            in_repository = f"({release.size} bytes)" in files.get(name, "")
            assert release.address in known or in_repository, release

    def test_every_release_is_of_a_variant_and_is_found_where_it_is_saved(self) -> None:
        for release in releases():
            assert release.variant in lane_models.variants(release.detector)
            assert release.save_as.startswith(f"{release.detector}/")
        assert {release.detector for release in releases()} <= set(lane_models.names())

    def test_known_checksums(self, shared: Path) -> None:
        known = [release for release in releases() if release.sha256]
        assert len(known) == 2
        for release in known:
            path = shared / "real" / "lstr" / release.address.rsplit("/", 1)[-1]
            assert download.sha256(path) == release.sha256
            assert path.stat().st_size == release.size


class TestScript:
    """The whole command with a stand-in for Google Drive; direct links lead to the local server."""

    @pytest.fixture(autouse=True)
    def no_network(self, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "google_drive", lambda *_: pytest.fail("the network was asked"))

    def test_checkpoints_land_where_the_benchmark_looks(
        self, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def drive(_: str, target: Path) -> None:
            state = lane_models.untrained("bezierlanenet", "r18").model.state_dict()
            torch.save({"model": state}, target)

        words = ["--detector", "bezierlanenet", "--variant", "r18", "--out", str(tmp_path)]
        assert script.main(words, drive) == 0
        assert f"WEIGHTS={tmp_path}" in capsys.readouterr().out
        ((path, variant),) = fitting(tmp_path, "bezierlanenet", dataset="culane")
        assert (variant, path.parent.name) == ("r18", "bezierlanenet")
        profile = load_profile("quick", dataset="culane", root=tmp_path, weights=tmp_path)
        assert profile_for_folder(profile)[0].detectors == ["bezierlanenet:r18"]
        assert script.main(words, lambda *_: pytest.fail("was fetched again")) == 0

    def test_an_archive_is_unpacked_and_its_last_epoch_kept(self, script: ModuleType, tmp_path: Path) -> None:
        def drive(_: str, target: Path) -> None:
            packed = io.BytesIO()
            torch.save({"model": lane_models.untrained("laneatt", "r18").model.state_dict()}, packed)
            epochs = [
                (f"experiments/laneatt_r18_culane/models/model_{e:04}.pt", packed.getvalue())
                for e in (14, 15)
            ]
            zipped(target, *epochs, ("experiments/laneatt_r18_tusimple/models/model_0100.pt", b"other"))

        words = ["--detector", "laneatt", "--out", str(tmp_path)]
        assert script.main(words, drive) == 0
        found = fitting(tmp_path, "laneatt", dataset="culane")
        assert [(path.name, variant) for path, variant in found] == [("model_0015.pt", "r18")]
        assert not list(tmp_path.rglob("*.zip"))
        assert script.main(words, lambda *_: pytest.fail("was fetched again")) == 0

    def test_an_archive_of_other_weights_leaves_none(self, script: ModuleType, tmp_path: Path) -> None:
        def drive(_: str, target: Path) -> None:
            packed = io.BytesIO()
            torch.save({"model": {"a": torch.zeros(1)}}, packed)
            zipped(target, ("experiments/laneatt_r18_culane/models/model_0015.pt", packed.getvalue()))

        assert script.main(["--detector", "laneatt", "--out", str(tmp_path)], drive) == 1
        assert fitting(tmp_path, "laneatt") == []

    def test_a_direct_link(
        self,
        script: ModuleType,
        server: Server,
        tmp_path: Path,
        shared: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        content = (shared / "real/lstr/LSTR_CULANE_500000.pkl").read_bytes()
        server.files["/lstr.pkl"] = content
        (release,) = (r for r in releases() if (r.detector, r.variant) == ("lstr", "culane"))
        values = {**vars(release), "address": server.address("/lstr.pkl")}
        monkeypatch.setattr(script, "releases", lambda: (type(release)(**values),))
        words = ["--detector", "lstr", "--variant", "culane", "--out", str(tmp_path)]
        assert script.main(words) == 0
        assert [variant for _, variant in fitting(tmp_path, "lstr", dataset="culane")] == ["culane"]

        (tmp_path / release.save_as).unlink()
        server.files["/lstr.pkl"] = content[:-1] + b"x"
        assert script.main(words) == 1
        assert fitting(tmp_path, "lstr", dataset="culane") == []

    def test_weights_of_something_else_are_set_aside(
        self, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--detector", "scnn", "--variant", "r18", "--out", str(tmp_path)]
        assert script.main(words, lambda _, target: torch.save({"a": torch.zeros(1)}, target)) == 1
        assert "fits no variant of scnn" in capsys.readouterr().err
        assert names(tmp_path) == ["scnn/resnet18_scnn_culane.pt.refused"]
        assert fitting(tmp_path, "scnn") == []

    def test_the_steps_by_hand_work(
        self, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--culane", str(tmp_path), "--only", "list"]
        assert script.main(words, lambda _, target: target.write_bytes(PAGE) and None) == 1
        said = capsys.readouterr()
        place = tmp_path / "archives" / "list.tar.gz"
        assert "1 of 1 files are missing" in said.out
        assert "quota" in said.err
        assert "1. open https://drive.google.com/file/d/18alVEPAMBA9Hpr3RDAAchqSj5IxZNRKd/view" in said.err
        assert f"2. save it as {place}\n" in said.err
        tar(place, ("list/test.txt", b"/driver/1.jpg\n"))
        assert script.main(words, lambda *_: pytest.fail("was fetched again")) == 0
        assert (tmp_path / "list/test.txt").read_text() == "/driver/1.jpg\n"
        assert not place.exists()
        assert script.main(words, lambda *_: pytest.fail("was fetched again")) == 0

    def test_list_and_dry_run_fetch_nothing(
        self, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert script.main(["--list"]) == 0
        said = capsys.readouterr().out
        assert all(release.address in said for release in releases())
        assert "driver_193_90frame.tar.gz" in said
        assert script.main(["--dry-run", "--out", str(tmp_path)]) == 0
        assert capsys.readouterr().out.count("to fetch") == len({release.address for release in releases()})
        assert script.main(["--dry-run", "--culane", str(tmp_path)]) == 0
        assert capsys.readouterr().out.count("to fetch") == 8
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--detector", "nonsense"], "choose one of bezierlanenet"),
            (["--detector", "clrnet", "--variant", "r99"], "choose one of r18, r34"),
            (["--variant", "r18"], "give --detector"),
            (["--culane", "x", "--only", "nonsense"], "driver_37_30frame"),
            (["--only", "list"], "--culane"),
        ],
    )
    def test_bad_requests(
        self, script: ModuleType, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert script.main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert expected in lines[0]


def test_errors_are_bad_input() -> None:
    assert issubclass(DownloadError, BenchError)
    assert issubclass(ArchiveError, BenchError)
