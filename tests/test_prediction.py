"""Pictures and videos with lanes: what is written, what is said, and what is refused without a trace."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import stand_ins

import lane_models
from bench import cli, prediction
from bench.errors import BenchError
from bench.prediction import look, predict
from datasets.errors import DatasetError
from selective_focus import LaneDetector

SIZE = (60, 164)


@pytest.fixture
def detector() -> LaneDetector:
    return stand_ins.toy_detector()


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def video(path: Path, frames: int = 6, fps: float = 12.5, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, SIZE[::-1])
    assert writer.isOpened()
    for seed in range(frames):
        writer.write(noise(seed))
    writer.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


class TestImages:
    def test_lanes_are_drawn_and_times_told(self, detector: LaneDetector, tmp_path: Path) -> None:
        source, out = tmp_path / "a.png", tmp_path / "new" / "b.png"
        cv2.imwrite(str(source), noise(0))
        (line,) = predict(detector, source, out)
        for word in ("preprocessing", "network", "decoding"):
            assert f"{word} " in line
        seen = look(detector, noise(0))
        assert f"{len(seen.lanes)} lanes" in line
        assert len(seen.lanes) > 0
        assert (cv2.imread(str(out)) != noise(0)).any()
        assert [path.name for path in out.parent.iterdir()] == ["b.png"]

    def test_the_suffix_is_kept_where_it_is_a_picture(self, detector: LaneDetector, tmp_path: Path) -> None:
        source = tmp_path / "a.png"
        cv2.imwrite(str(source), noise(0))
        list(predict(detector, source, tmp_path / "b.jpg"))
        assert (tmp_path / "b.jpg").read_bytes().startswith(b"\xff\xd8")
        list(predict(detector, source, tmp_path / "c"))
        assert (tmp_path / "c.png").is_file()

    def test_a_folder_keeps_its_layout(self, detector: LaneDetector, tmp_path: Path) -> None:
        for name in ("x/1.jpg", "y/1.jpg"):
            (tmp_path / "in" / name).parent.mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "in" / name), noise(1))
        lines = list(predict(detector, tmp_path / "in", tmp_path / "out"))
        assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == [
            "x/1.png",
            "y/1.png",
        ]
        assert lines[-1].startswith("2 images, medians: preprocessing")

    @pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 half a jpeg"])
    def test_an_unreadable_image_leaves_nothing(
        self, detector: LaneDetector, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.jpg"):
            list(predict(detector, tmp_path / "a.jpg", tmp_path / "out" / "b.png"))
        assert not (tmp_path / "out").exists()

    def test_what_is_read_is_not_written_over(self, detector: LaneDetector, tmp_path: Path) -> None:
        source = tmp_path / "a.png"
        cv2.imwrite(str(source), noise(0))
        for image, out in ((source, source), (tmp_path, tmp_path)):
            with pytest.raises(BenchError, match="choose another --out"):
                list(predict(detector, image, out))
        assert (cv2.imread(str(source)) == noise(0)).all()

    def test_an_out_that_cannot_be_made(self, detector: LaneDetector, tmp_path: Path) -> None:
        source = tmp_path / "a.png"
        cv2.imwrite(str(source), noise(0))
        with pytest.raises(BenchError, match="choose another --out"):
            list(predict(detector, source, source / "b.png"))


class TestVideos:
    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_size_rate_and_number_of_frames_stay(
        self, detector: LaneDetector, tmp_path: Path, suffix: str
    ) -> None:
        source, out = video(tmp_path / "a.avi"), tmp_path / "out" / f"b{suffix}"
        (line,) = predict(detector, source, out)
        assert line.startswith(f"{out}: 6 frames, ")
        assert "decoding" in line
        capture = cv2.VideoCapture(str(out))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
        drawn = frames_of(out)
        assert [frame.shape[:2] for frame in drawn] == [SIZE] * 6
        assert [path.name for path in out.parent.iterdir()] == [out.name]

    def test_lanes_are_drawn_on_every_frame(
        self, detector: LaneDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        marked = []

        def mark(frame: np.ndarray, lanes: object, scores: bool) -> np.ndarray:
            marked.append(lanes)
            return np.full_like(frame, 255)

        monkeypatch.setattr(prediction, "draw_lanes", mark)
        list(predict(detector, video(tmp_path / "a.avi"), tmp_path / "b.avi"))
        assert len(marked) == 6
        assert all(frame.min() > 250 for frame in frames_of(tmp_path / "b.avi"))

    def test_a_folder_as_out(self, detector: LaneDetector, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        list(predict(detector, video(tmp_path / "a.avi"), tmp_path / "out"))
        assert (tmp_path / "out" / "a.mp4").is_file()

    @pytest.mark.parametrize("kind", ["empty", "text", "cut"])
    def test_no_video(
        self, detector: LaneDetector, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = video(tmp_path / "a.mp4", codec="mp4v")
        content = {"empty": b"", "text": b"not a video\n" * 99, "cut": path.read_bytes()[:-600]}[kind]
        path.write_bytes(content)
        with pytest.raises(BenchError, match=r"a\.mp4: not a video that OpenCV can decode") as caught:
            list(predict(detector, path, tmp_path / "b.mp4"))
        assert "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
        assert capfd.readouterr().err == ""

    def test_a_video_that_ends_too_early(self, detector: LaneDetector, tmp_path: Path) -> None:
        path = video(tmp_path / "a.avi", frames=40)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BenchError, match=r"a\.avi: (ends after \d+ of 40 frames|not a video)"):
            list(predict(detector, path, tmp_path / "b.mp4"))
        assert [p.name for p in tmp_path.iterdir()] == ["a.avi"]

    def test_a_missing_codec(
        self, detector: LaneDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(prediction.CODECS, ".mp4", "ZZZZ")
        with pytest.raises(
            BenchError, match=r"b\.mp4: this OpenCV cannot write 164x60 video with the codec ZZZZ"
        ):
            list(predict(detector, video(tmp_path / "a.avi"), tmp_path / "b.mp4"))
        assert [p.name for p in tmp_path.iterdir()] == ["a.avi"]

    @pytest.mark.parametrize("out", ["b.png", "b", "b.xyz"])
    def test_out_must_be_a_video(self, detector: LaneDetector, tmp_path: Path, out: str) -> None:
        with pytest.raises(BenchError, match="expected a video's name as --out"):
            list(predict(detector, video(tmp_path / "a.avi"), tmp_path / out))

    def test_an_image_makes_no_video(self, detector: LaneDetector, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), noise(0))
        with pytest.raises(BenchError, match="is no video"):
            list(predict(detector, tmp_path / "a.png", tmp_path / "b.mp4"))

    def test_a_mistake_on_the_way_leaves_nothing(
        self, detector: LaneDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(prediction, "draw_lanes", stop)
        with pytest.raises(KeyboardInterrupt):
            list(predict(detector, video(tmp_path / "a.avi"), tmp_path / "b.avi"))
        assert [p.name for p in tmp_path.iterdir()] == ["a.avi"]


@pytest.mark.parametrize("name", lane_models.names())
def test_every_embedded_detector_predicts(name: str, tmp_path: Path) -> None:
    if "synthetic" not in lane_models.variants(name) or not lane_models.shipped_weights(name, "synthetic"):
        pytest.skip(f"{name} has no embedded weights")
    from datasets.synthetic import render, sample_scene

    image, out = tmp_path / "a.png", tmp_path / "b.png"
    cv2.imwrite(str(image), render(sample_scene("test", 0)))
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "--detector", name, "--image", str(image), "--out", str(out)])
    assert caught.value.code == 0
    assert cv2.imread(str(out)).shape == (590, 1640, 3)
    assert (cv2.imread(str(out)) != cv2.imread(str(image))).any()
