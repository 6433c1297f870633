"""The training script: its plain command is the shipped run, and bad folders are named in one line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from safetensors import safe_open

from bench.model_card import real_frames
from bench.train import TrainingConfig
from datasets.errors import DatasetError
from lane_models import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_synthetic", ROOT / "scripts" / "train_synthetic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_command_is_the_shipped_run(script: ModuleType) -> None:
    given = script._parser().parse_args(["--detector", "laneatt"])
    assert (given.frames, given.seed, given.threads) == (10000, 0, None)
    assert (given.real, given.out) == (None, None)
    assert script.training_config(given) == TrainingConfig("laneatt")
    given = script._parser().parse_args(["--detector", "clrnet", "--steps", "7"])
    assert (script.training_config(given).steps, script.training_config(given).learning_rate) == (7, 6e-3)


def test_recipes_are_those_of_the_shipped_weights(script: ModuleType) -> None:
    shipped = {path.name.removesuffix("_synthetic.safetensors") for path in WEIGHTS.glob("*.safetensors")}
    assert shipped <= script.RECIPES.keys()
    for name in shipped:  # a recipe may be written before its weights are trained
        recipe = script.RECIPES[name]
        with safe_open(WEIGHTS / f"{name}_synthetic.safetensors", "pt") as weights:
            facts = json.loads(weights.metadata()["training"])
        assert facts["steps"] == f"{recipe['steps']} of 16 frames"
        assert f"({script.THREADS.get(name, 1)} threads, cpu" in facts["seconds"]
        assert facts["optimizer"].startswith(f"AdamW, {recipe['learning_rate']} with cosine")


def test_real_frames_are_measured_on_request_only(script: ModuleType, tmp_path: Path) -> None:
    assert script.real_folders(None) == []
    with pytest.raises(ValueError, match="holds neither culane_day nor culane_night"):
        script.real_folders(tmp_path)
    (tmp_path / "culane_night").mkdir()
    assert script.real_folders(tmp_path) == [tmp_path / "culane_night"]


def frame(folder: Path, lanes: str = "80 59 82 40\n") -> Path:
    image = np.random.default_rng(0).integers(0, 255, (59, 164, 3), dtype=np.uint8)
    assert cv2.imwrite(str(folder / "a.jpg"), image)
    (folder / "a.lines.txt").write_text(lanes)
    return folder / "a.jpg"


def test_real_frames_are_whole_or_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no \*\.lines\.txt"):
        list(real_frames(tmp_path))
    image = frame(tmp_path)
    (one,) = real_frames(tmp_path)
    assert (one.image.shape, one.category) == ((59, 164, 3), tmp_path.name)
    np.testing.assert_array_equal(one.lanes[0], [[80, 59], [82, 40]])
    image.write_bytes(image.read_bytes()[:-500])
    with pytest.raises(DatasetError, match="ends too early"):
        list(real_frames(tmp_path))
    image.unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot read"):
        list(real_frames(tmp_path))
    frame(tmp_path, "80 59 eighty 40\n")
    with pytest.raises(DatasetError, match="eighty"):
        list(real_frames(tmp_path))
