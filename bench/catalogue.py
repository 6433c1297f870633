"""Every detector and variant with its size, its heads, where its weights come from, and its accuracy."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import lane_models
from bench.detectors import usable_variants
from bench.errors import BenchError, StoreError
from bench.paper.releases import Release, releases
from bench.whole_file import write_whole
from selective_focus import MatMul

CACHE = lane_models.FOLDER.parent / ".cache" / "sizes.json"
WIDTH = 100


@dataclass(frozen=True)
class Size:
    """What a variant costs. parameters: all in its state dict, training-only branches too. macs: multiply-accumulates
    of one image at ``input_size`` (H, W), in convolutions, linear layers and products of activations.
    heads: name -> shape of one image's tensor.
    """

    input_size: tuple[int, int]
    parameters: int
    macs: int
    heads: dict[str, list[int]]


@dataclass(frozen=True)
class Entry:
    """One variant. weights: the embedded file, a released checkpoint's address, or "none". F1 in 0..1, None: unknown.

    published: as the authors report for the released weights, on the data set that ``published_source`` names.
    embedded: our measurement of the embedded weights, on the frames that ``embedded_source`` names.
    """

    detector: str
    variant: str
    size: Size
    weights: str
    published: float | None = None
    published_source: str = ""
    embedded: float | None = None
    embedded_source: str = ""


def catalogue(cache: Path | None = CACHE) -> list[Entry]:
    """All variants of all detectors. Sizes are counted once for each state of the code and kept in ``cache``."""
    known, digest = _known_sizes(cache), _code_digest()
    entries, counted = [], {}
    for name in lane_models.names():
        try:
            variants = usable_variants(name)
        except BenchError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        for variant in variants:
            key = f"{name}:{variant}"
            counted[key] = known.get(key) or count(name, variant)
            entries.append(_entry(name, variant, counted[key]))
    if cache is not None and counted != known:
        content = {"code": digest, "sizes": {key: asdict(size) for key, size in counted.items()}}
        _keep(cache, content)
    return entries


def count(name: str, variant: str) -> Size:
    """Size of a variant, by hooks on one forward without memory (PyTorch's meta device)."""
    with torch.device("meta"):
        detector = lane_models.untrained(name, variant)
    model = detector.model.to("meta")
    macs: list[int] = []
    for module in model.modules():
        module.register_forward_hook(lambda *call: macs.append(_macs(*call)))
    with torch.no_grad():
        heads = detector.heads(torch.empty(1, 3, *detector.input_size, device="meta"))
    return Size(
        detector.input_size,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(macs),
        {head: list(tensor.shape[1:]) for head, tensor in heads.items()},
    )


def _macs(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> int:
    """Multiply-accumulates of one call of a layer; 0 for whatever is no layer of products."""
    weight = getattr(module, "weight", None)
    if isinstance(module, MatMul):
        return int(output.numel() * inputs[0].shape[-1])
    if not isinstance(weight, Tensor):
        return 0
    if isinstance(module, nn.ConvTranspose2d):
        return inputs[0].numel() * weight[0].numel()
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or getattr(module, "quantizable", False):
        return int(output.numel() * weight[0].numel())
    return 0


def _entry(name: str, variant: str, size: Size) -> Entry:
    released = [release for release in releases() if (release.detector, release.variant) == (name, variant)]
    embedded = lane_models.shipped_weights(name, variant)
    score, source = embedded_f1(embedded) if embedded else (None, "")
    weights = embedded.name if embedded else released[0].address if released else "none"
    published: Release | None = next((release for release in released if release.f1 is not None), None)
    return Entry(
        name,
        variant,
        size,
        weights,
        published.f1 if published else None,
        published.f1_source if published else "",
        score,
        source,
    )


def embedded_f1(weights: Path) -> tuple[float | None, str]:
    """F1 of all synthetic test frames as the model card beside ``weights`` says, and on what it was measured.

    A card that was written for other weights (their training facts differ) says nothing.
    """
    card = weights.with_suffix(".md")
    try:
        text = card.read_text(encoding="utf-8")
        with safe_open(weights, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("training", "{}"))
    except (OSError, UnicodeDecodeError, SafetensorError, json.JSONDecodeError):
        return None, ""
    if any(f"- {name}: {value}" not in text.splitlines() for name, value in facts.items()):
        return None, f"{card.name} is about other weights; scripts/train_synthetic.py --card writes it again"
    found = re.search(
        r"on the first (\d+ synthetic test frames).*?\| \*\*all\*\* \| ([\d.]+) ", text, re.DOTALL
    )
    return (float(found[2]) / 100, f"{found[1]} ({card.name})") if found else (None, "")


def tables(entries: Sequence[Entry]) -> Iterator[Table | Text]:
    """For the terminal, at most 100 columns: a table for each detector, then what the marks mean."""
    sources = list(dict.fromkeys(entry.published_source for entry in entries if entry.published is not None))
    for name in dict.fromkeys(entry.detector for entry in entries):
        yield _table(name, [entry for entry in entries if entry.detector == name], sources)
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    measured = sorted({entry.embedded_source for entry in entries if entry.embedded_source})
    notes += [f"embedded: {source}" for source in measured]
    notes.append("GMACs: of one image, in convolutions, linear layers and products of activations")
    yield Text("\n".join(notes), style="dim")


def _table(name: str, entries: Sequence[Entry], sources: Sequence[str]) -> Table:
    shapes = {head: "x".join(map(str, shape)) for head, shape in entries[0].size.heads.items()}
    title = f"{name}   heads: " + ", ".join(f"{head} {shape}" for head, shape in shapes.items())
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=0, width=WIDTH
    )
    table.add_column("variant", no_wrap=True)
    table.add_column("input", no_wrap=True)
    for word in ("M par.", "GMACs", "F1 publ.", "F1 emb."):
        table.add_column(word, justify="right", no_wrap=True)
    table.add_column("weights", overflow="fold", ratio=1)
    for entry in entries:
        height, width = entry.size.input_size
        mark = f" [{sources.index(entry.published_source) + 1}]" if entry.published is not None else ""
        table.add_row(
            entry.variant,
            f"{width}x{height}",
            f"{entry.size.parameters / 1e6:.2f}",
            f"{entry.size.macs / 1e9:.2f}",
            Text(_percent(entry.published, 2) + mark),
            _percent(entry.embedded, 1),
            Text(entry.weights),
        )
    return table


def plain(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One flat record a variant, for JSON."""
    rows = []
    for entry in entries:
        row = asdict(entry)
        size = row.pop("size")
        size["input_size"] = list(size["input_size"])
        rows.append({"detector": row.pop("detector"), "variant": row.pop("variant"), **size, **row})
    return rows


def as_csv(entries: Sequence[Entry]) -> str:
    """The same as comma-separated lines: the input as WIDTHxHEIGHT, heads separated by blanks."""
    rows = plain(entries)
    for row in rows:
        height, width = row["input_size"]
        row["input_size"] = f"{width}x{height}"
        row["heads"] = " ".join(f"{head}:{'x'.join(map(str, shape))}" for head, shape in row["heads"].items())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _known_sizes(cache: Path | None) -> dict[str, Size]:
    """Sizes counted before, if the detectors' code has not changed since."""
    try:
        content = json.loads(cache.read_text()) if cache else {}
        if content["code"] != _code_digest():
            return {}
        return TypeAdapter(dict[str, Size]).validate_python(content["sizes"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return {}


def _keep(cache: Path, content: dict[str, Any]) -> None:
    """A cache that cannot be written costs time only."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps(content).encode())
    except (OSError, StoreError) as error:
        warnings.warn(f"sizes will be counted again next time: {error}", stacklevel=2)


def _code_digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(lane_models.FOLDER.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
