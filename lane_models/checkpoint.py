"""Reading released checkpoints: strictly, as tensors only, with one clear line when something does not fit.

Every file from outside is treated as hostile: pickles are read by PyTorch's tensors-only loader.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selective_focus import LaneDetector

State = dict[str, Tensor]

NESTED = ("net", "model", "state_dict")
"""Names under which training programs store the weights beside epoch, optimizer and the like."""

LARGEST = 2 * 2**30
"""Bytes, unpacked, of the weights inside an archive. The largest released ones have 0.4 GB."""

OPTIONAL = "num_batches_tracked"
"""Counters that checkpoints from before PyTorch 0.4.1 lack; inference does not read them."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line and says what to do."""


class MismatchError(CheckpointError):
    """Weights of another network.

    fits: the variant that they do fit, or None. closest: the variant that differs from them in the fewest tensors
    (None when no variants were given).
    """

    def __init__(self, message: str, fits: str | None = None, closest: str | None = None) -> None:
        super().__init__(message)
        self.fits, self.closest = fits, closest


def load_official(
    target: LaneDetector | nn.Module,
    source: Mapping[str, Any] | str | Path,
    *,
    ignore: Sequence[str] = (),
    variants: Mapping[str, Callable[[], nn.Module]] | None = None,
) -> None:
    """Load a checkpoint in the official code's layout into a detector (or a bare module), strictly.

    source: a path (.pth, .pt, .pkl, a .zip around one, .safetensors) or what such a file holds.
    ignore: shell patterns of keys to leave out where they exist (training-only layers, profiler entries).
    variants: constructors of all variants' modules, tried (without memory) to name the one that would fit.
    Raises CheckpointError, MismatchError when the weights are of another network; the target is unchanged then.
    """
    model = target.model if isinstance(target, LaneDetector) else target
    label = f"{target.name} {target.variant}" if isinstance(target, LaneDetector) else type(model).__name__
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read(Path(source))
    state = {
        key: value
        for key, value in state_dict_of(content, where).items()
        if key in model.state_dict() or not any(fnmatchcase(key, pattern) for pattern in ignore)
    }
    differences = _differences(model, state)
    if any(differences.values()):
        distances = {name: _distance(make, state) for name, make in (variants or {}).items()}
        closest = min(distances, key=lambda name: distances[name], default=None)
        fits = closest if closest is not None and distances[closest] == 0 else None
        hint = f"; it fits variant {fits!r}: build that one" if fits else ""
        message = f"{where}: not a checkpoint of {label}: {_in_words(differences)}{hint}"
        raise MismatchError(message, fits, closest)
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise CheckpointError(f"{where}: {_first(bad)} hold NaN or infinite values; download the file again")
    model.load_state_dict(state, strict=False)


def read(path: Path) -> Any:
    """The content of a checkpoint file, on the CPU. Nothing but tensors and plain containers is accepted."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(_unzipped(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for the Python object {found[1]}" if found else "it is no pickle of tensors"
        advice = "save only the state dict (torch.save(model.state_dict(), ...)) and try again"
        raise CheckpointError(f"{path}: refused, {what}; {advice}") from None
    except CheckpointError:
        raise
    except Exception as error:  # what foreign loaders say to damaged files is open-ended
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"{path}: truncated or not a checkpoint ({reason}); download the file again"
        ) from None


def state_dict_of(content: Any, where: str) -> State:
    """The weights inside a checkpoint: nested dict found, a data-parallel wrapper's ``module.`` removed."""
    for name in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{where}: holds no state dict (a dict of tensors, or one under {', '.join(NESTED)})"
        )
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{where}: {_first(odd)} in the state dict are no tensors; give the weights alone"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _unzipped(path: Path) -> Path | io.BytesIO:
    """The file itself, or the only .pth/.pt inside a plain zip archive (how some projects publish)."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith((".pth", ".pt"))]
        inside = members[0] if len(members) == 1 else None
        # PyTorch's own files are archives too, of tensors.
        size = archive.getinfo(inside).file_size if inside else sum(i.file_size for i in archive.infolist())
        if size > LARGEST:
            raise CheckpointError(
                f"{path}: {inside or 'it'} unpacks to {size} bytes, expected at most {LARGEST}; save the weights alone"
                " (torch.save(model.state_dict(), ...)) if you trust it"
            )
        return io.BytesIO(archive.read(inside)) if inside else path


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What keeps a state dict from fitting a model: kind of difference -> where."""
    expected = model.state_dict()
    return {
        "missing": [key for key in expected if key not in state and not key.endswith(OPTIONAL)],
        "unexpected": [key for key in state if key not in expected],
        "other shape:": [
            f"{key} is {list(value.shape)}, not {list(expected[key].shape)}"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
    }


def _in_words(differences: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{kind} {_first(places)}" for kind, places in differences.items() if places)


def _distance(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> int:
    """Number of tensors in which a state dict differs from a network, which is made without memory."""
    with torch.device("meta"):
        return sum(len(places) for places in _differences(make(), state).values())


def _first(keys: Sequence[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
