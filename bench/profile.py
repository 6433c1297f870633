"""What to run: a TOML profile, checked strictly, with the command line's choices laid over it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import BenchError, one_line
from selective_focus.quantization.config import parse_bits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROFILES = Path(__file__).resolve().parent / "profiles"
DatasetName = Literal["synthetic", "culane", "tusimple"]
DATASETS: tuple[str, ...] = get_args(DatasetName)
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


class Profile(BaseModel):
    """Everything a run needs to know. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    detectors: list[str] = Field(min_length=1)
    variant: str | None = None
    """None: "synthetic" without weights of your own, else the first variant that the weights fit."""
    weights: Path | None = None
    dataset: DatasetName = "synthetic"
    root: Path | None = None
    split: Literal["test", "val"] = "test"
    """Frames that are evaluated. Settings are chosen on "val" and never on "test"."""
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    """Method name -> its options, in the order of the table. The one place where methods are set.

    A table with ``method = NAME`` is a label: that method with other options, shown under a name of its own in tables
    and plots. It starts from NAME's own table (``inherited``).
    """
    budgets: str | None = None
    """A profile that comes with the benchmark: every table of ``methods`` starts from the one that it has there."""
    bits: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    seeds_at: dict[str, list[int]] = {}
    """Other seeds at some bit settings, "w4a4" -> seeds: where numbers are compared closely."""
    grids: dict[str, dict[str, dict[str, Any]]] = {}
    """Named ablations, variant -> options that differ from the profile's: ``python -m bench ablate --grid NAME``."""
    calibration_images: int = Field(default=128, ge=1, le=512)
    """At most so many unlabelled images; a data set that has fewer gives all it has, and the record says how many."""
    frames_per_category: int | None = Field(default=None, ge=1)
    """At most so many test frames of each category, drawn with seed 0; None: all."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many test frames in total, drawn with seed 0; None: all."""
    batch_size: int = Field(default=16, ge=1)
    input_cache_mb: int = Field(default=3000, ge=0)
    """Network inputs of the test frames are kept in memory up to this size; beyond it they are read again."""
    cell_timeout_s: float | None = Field(default=None, gt=0)
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the cells, each with its part of the cores (``processes``); no part of a cell's identity."""
    device: str = "cpu"

    @field_validator("bits")
    @classmethod
    def _bits_are_readable(cls, bits: list[str]) -> list[str]:
        return ["w{}a{}".format(*parse_bits(item)) for item in bits]

    @field_validator("seeds_at")
    @classmethod
    def _seeds_of_readable_bits(cls, seeds: dict[str, list[int]]) -> dict[str, list[int]]:
        if not all(seeds.values()):
            raise ValueError("expected one or more seeds for each bit setting")
        return {"w{}a{}".format(*parse_bits(bits)): list(dict.fromkeys(own)) for bits, own in seeds.items()}

    @field_validator("methods")
    @classmethod
    def _labels_are_words(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for label, options in methods.items():
            if "method" not in options:
                continue
            if not isinstance(options["method"], str) or options["method"] == "fp32":
                raise ValueError(f'{label}: expected method = "NAME" of a quantization method')
            if not LABEL.fullmatch(label):
                raise ValueError(f"{label!r}: expected a label of letters, digits and . _ = -")
        return methods

    @field_validator("detectors", "bits", "seeds")
    @classmethod
    def _no_repeats(cls, items: list[Any]) -> list[Any]:
        return list(dict.fromkeys(items))

    @property
    def processes(self) -> int:
        """Processes at a run: ``workers``, but one on an accelerator, which two would only take from each other.

        One, too, where no process can keep another from its cell (Windows).
        """
        return self.workers if self.device.startswith("cpu") and os.name == "posix" else 1

    def method_of(self, label: str) -> str:
        """The method that a label stands for; a method stands for itself."""
        return str(self.methods[label].get("method", label))

    def options_of(self, label: str) -> dict[str, Any]:
        """The options of a method or label, as the method takes them."""
        return {name: value for name, value in self.methods[label].items() if name != "method"}

    def seeds_of(self, bits: str) -> list[int]:
        """The seeds at a bit setting."""
        return self.seeds_at.get(bits, self.seeds)


def load_profile(profile: str, **overrides: Any) -> Profile:
    """A profile by name ("quick", "full") or by file, with ``overrides`` (None = not given) laid over it.

    ``methods`` may be given as a list of names: options come from the profile's tables. Raises BenchError.
    """
    path = _profile_path(profile)
    values = _read(path)
    values.setdefault("name", path.stem)
    budgets = _budgets(values.get("budgets"), path)
    values["methods"] = inherited(completed(values.get("methods", {}), budgets))
    given = {key: value for key, value in overrides.items() if value is not None}
    if "seeds" in given:
        given.setdefault("seeds_at", {})
    if "methods" in given:
        tables = values.get("methods", {})
        given["methods"] = {name: tables.get(name, budgets.get(name, {})) for name in given["methods"]}
    try:
        return Profile.model_validate({**values, **given})
    except ValidationError as error:
        raise BenchError(_first_complaint(error, path, set(given))) from error


def _read(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises BenchError."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also of text that is not UTF-8, and of numbers without end
        raise BenchError(f"{path}: not a readable TOML file ({one_line(error)[:200]})") from error
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error


def _budgets(name: Any, path: Path) -> dict[str, dict[str, Any]]:
    """The tables of the profile that ``budgets`` names. Raises BenchError for one that does not exist."""
    if name is None:
        return {}
    if name not in profile_names() or PROFILES / f"{name}.toml" == path:
        raise BenchError(f"{path}: budgets: expected {' or '.join(profile_names())}, not {name!r}")
    return load_profile(name).methods


def completed(tables: Any, budgets: dict[str, dict[str, Any]]) -> Any:
    """Tables of methods, each laid over the one of the same name in ``budgets``."""
    if not _are_tables(tables):
        return tables
    return {label: {**budgets.get(label, {}), **own} for label, own in tables.items()}


def _are_tables(tables: Any) -> bool:
    """False: refused, with its place, when the profile is checked."""
    return isinstance(tables, dict) and all(isinstance(own, dict) for own in tables.values())


def inherited(tables: Any) -> Any:
    """Tables of methods, each with ``method = NAME`` completed by what NAME's own table says."""
    if not _are_tables(tables):
        return tables
    bases = {label: str(own.get("method", "")) for label, own in tables.items()}
    return {label: {**tables.get(bases[label], {}), **own} for label, own in tables.items()}


def profile_names() -> list[str]:
    """The profiles that ship with the benchmark."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def _profile_path(profile: str) -> Path:
    if profile in profile_names():
        return PROFILES / f"{profile}.toml"
    path = Path(profile)
    if path.suffix == ".toml" and path.is_file():
        return path
    raise BenchError(
        f"profile {profile!r}: expected {' or '.join(profile_names())}, or an existing .toml file"
    )


def _first_complaint(error: ValidationError, path: Path, given: set[str]) -> str:
    complaints = error.errors(include_url=False)
    unknown = [each for each in complaints if each["type"] == "extra_forbidden"]
    complaint = (unknown or complaints)[0]  # a misspelt key is the reason why another one is missing
    where = ".".join(str(part) for part in complaint["loc"])
    source = "command line" if complaint["loc"] and complaint["loc"][0] in given else path
    rest = f" (and {len(complaints) - 1} more mistakes)" if len(complaints) > 1 else ""
    if unknown:
        known = ", ".join(Profile.model_fields)
        return f"{source}: no such key as {where!r}; expected some of {known} (docs/profiles.md){rest}"
    if complaint["type"] == "missing":
        return f"{source}: {where} is missing (docs/profiles.md){rest}"
    what = complaint["msg"].removeprefix("Value error, ")
    return f"{source}: {where}: {what}, not {complaint['input']!r}{rest}"
