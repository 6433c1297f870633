"""Records as a run would leave them, with numbers that a test chooses: frames of four lanes, found with a chance."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from bench.cells import canonical_json
from bench.store import Record, Result

FRAMES = 300
FULL = {"focus": True, "selection": True, "share": 0.03}
LEARNS = {"iterations": 100, "batch_size": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "minmax": {},
    "omse": {},
    "qdrop": {"reconstruction": {**LEARNS, "unit": "block"}},
    "selective-focus": {"reconstruction": {**LEARNS, "unit": "network"}, "options": FULL},
    "selective-focus-plus": {
        "quantization": {"activation_importance": "lanes", "activation_equalisation": 0.5},
        "reconstruction": {**LEARNS, "unit": "network"},
        "options": FULL,
    },
}


def measured(
    method: str, hit: float = 0.9, seed: int = 0, bits: int = 4, lds: float = 1.0, **changes: Any
) -> Record:
    """A finished cell whose lanes are found with a chance ``hit``; ``changes`` go to the cell, or where named.

    base: the method behind a label.  options: what differs from the method's.  seconds, machine, sensitivity.
    """
    base = changes.pop("base", method)
    settings = {**SETTINGS[base]}
    if "options" in changes:
        settings["options"] = {**settings["options"], **changes.pop("options")}
    seconds, machine = changes.pop("seconds", 30.0), changes.pop("machine", "one")
    log = {"sensitivity": changes.pop("sensitivity", [])}
    bits = 32 if method == "fp32" else bits
    cell: dict[str, Any] = {
        **{"detector": "laneatt", "variant": "synthetic", "weights": "embedded", "weights_digest": "w"},
        **{"method": method, "base_method": "" if base == method else base, "w_bits": bits, "a_bits": bits},
        **{"dataset": "synthetic", "data_digest": "d", "images": FRAMES, "subset": "all", "seed": seed},
        **{"calibration_images": 8, "calibration": "first", "calibration_digest": "c", "device": "cpu"},
        **{"settings": settings, "code": "code", "metric": "metric", **changes},
    }
    # one level of difficulty a frame: what is found with a smaller chance is found with a greater one as well
    found = (np.random.default_rng(seed).random((FRAMES, 4)) < hit).sum(axis=1)
    tp, lost = [int(n) for n in found], [int(4 - n) for n in found]
    f1 = sum(tp) / (4 * FRAMES)
    result = Result(
        **{"images": FRAMES, "f1": f1, "precision": f1, "recall": f1, "tp": sum(tp)},
        **{"fp": sum(lost), "fn": sum(lost)},
        **{"lds": lds, "lds_displacement": lds, "lds_missing": 0.0, "lds_extra": 0.0},
        frames={"tp": tp, "fp": lost, "fn": lost},
    )
    return Record(
        key=hashlib.sha256(canonical_json(cell).encode()).hexdigest(),
        status="done",
        cell=cell,
        result=result,
        timing={"reconstruction_s": seconds},
        log=log,
        environment={"machine": machine, "threads": 2, "device": "cpu"},
        finished="2026",
    )


def three(method: str, hit: float, **changes: Any) -> list[Record]:
    """The same with three seeds."""
    return [measured(method, hit, seed, **changes) for seed in range(3)]
