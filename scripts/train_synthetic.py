"""Train the small variant of a detector on rendered roads, write its weights and its model card.

    python scripts/train_synthetic.py --detector laneatt               train as the shipped weights were
    python scripts/train_synthetic.py --detector laneatt --card        measure the shipped weights again

Stopped at any point, the same command goes on where it was. The weights go to --out; copy them to
lane_models/weights to ship them (where --card looks). The card holds synthetic test frames alone, unless
--real names a folder whose culane_day and culane_night hold annotated camera frames (NAME.jpg, NAME.lines.txt).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import lane_models  # noqa: E402
from bench.model_card import Predictions, real_frames, synthetic_frames, write_card  # noqa: E402
from bench.train import CURVE, TrainingConfig, train, write_weights  # noqa: E402
from bench.training_frames import SyntheticSource, render_frames  # noqa: E402
from selective_focus import LaneDetector  # noqa: E402

CACHE = ROOT / ".cache"
REAL = ("culane_day", "culane_night")
RECIPES: dict[str, dict[str, Any]] = {
    "laneatt": {"steps": 5000, "learning_rate": 1.5e-3},
    "clrnet": {"steps": 4000, "learning_rate": 6e-3},
    "scnn": {"steps": 3000, "learning_rate": 4e-3},
    "bezierlanenet": {"steps": 3500, "learning_rate": 4e-3},
    "condlanenet": {"steps": 3000, "learning_rate": 4e-3},
}
"""How the shipped weights were trained, where that differs from ``TrainingConfig``."""
THREADS = {"laneatt": 2, "clrnet": 2}
"""Threads of the shipped runs (one, where not named): another number sums in another order."""


def main() -> int:
    """The command line; returns the exit code."""
    given = _parser().parse_args()
    given.threads = given.threads or THREADS.get(given.detector, 1)
    torch.set_num_threads(given.threads)
    try:
        if given.detector not in lane_models.names():
            raise ValueError(f"--detector {given.detector}: choose one of {', '.join(lane_models.names())}")
        if given.card:
            write(given, lane_models.build(given.detector, "synthetic"), lane_models.WEIGHTS)
        else:
            train_and_write(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step", file=sys.stderr)
        return 130
    return 0


def train_and_write(given: argparse.Namespace) -> None:
    """Render what is missing, train, write weights and card."""
    config = training_config(given)
    torch.manual_seed(given.seed)
    detector = lane_models.untrained(given.detector, "synthetic")
    source = SyntheticSource(detector.crop)
    frames = render_frames(CACHE / "training-frames" / source.key(), source, given.frames, given.threads, say)
    out = given.out or CACHE / "training" / f"{given.detector}-{given.seed}"
    result = train(config, detector, frames, out, device=given.device, report=say)
    detector.model.to("cpu")
    facts = {
        "frames": f"{config.frames} (renderer {source.key()})",
        "steps": f"{config.steps} of {config.batch} frames",
        "seed": config.seed,
        "optimizer": f"AdamW, {config.learning_rate} with cosine, weight decay {config.weight_decay}",
        "seconds": f"{result.seconds:.0f} ({given.threads} threads, {given.device}, {platform.machine()})",
    }
    weights = out / f"{given.detector}_synthetic.safetensors"
    write_weights(detector.model, weights, {"training": json.dumps(facts)})
    shutil.copyfile(out / CURVE, weights.with_name(f"{weights.stem}_curve.csv"))
    say(f"wrote {weights}")
    write(given, lane_models.build(given.detector, "synthetic", weights), out)


def training_config(given: argparse.Namespace) -> TrainingConfig:
    """The run that was asked for."""
    chosen = {"steps": given.steps, "learning_rate": given.learning_rate}
    recipe = {**RECIPES.get(given.detector, {}), **{k: v for k, v in chosen.items() if v is not None}}
    return TrainingConfig(given.detector, seed=given.seed, frames=given.frames, **recipe)


def write(given: argparse.Namespace, detector: LaneDetector, folder: Path) -> None:
    """Measure the weights in ``folder`` and write their card."""
    say(f"rendering and testing {given.test_frames} frames")
    synthetic = Predictions(detector, synthetic_frames("test", given.test_frames))
    real = {path.name: Predictions(detector, real_frames(path)) for path in real_folders(given.real)}
    card = write_card(detector, folder / f"{given.detector}_synthetic.safetensors", synthetic, real, say)
    print(card.read_text())


def real_folders(root: Path | None) -> list[Path]:
    """The folders of real frames to measure on; none without --real."""
    if root is None:
        return []
    found = [root / name for name in REAL if (root / name).is_dir()]
    if not found:
        raise ValueError(
            f"--real {root}: holds neither {' nor '.join(REAL)}; leave --real out or give another folder"
        )
    return found


def say(line: str) -> None:
    """One line of progress, at once even into a file."""
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = TrainingConfig("")
    parser.add_argument("--detector", required=True)
    parser.add_argument("--steps", type=int, help="default: as the shipped weights")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--frames", type=int, default=default.frames, help="rendered training frames")
    parser.add_argument("--learning-rate", type=float, help="default: as the shipped weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: as the shipped weights; others give others")
    parser.add_argument("--out", type=Path, help="default .cache/training/DETECTOR-SEED")
    parser.add_argument(
        "--card", action="store_true", help="only measure the shipped weights and write their card"
    )
    parser.add_argument("--test-frames", type=int, default=450)
    parser.add_argument(
        "--real",
        type=Path,
        help=f"folder with {' and '.join(REAL)}; default: only synthetic frames are measured",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
