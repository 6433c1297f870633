"""What to run: a TOML profile, checked strictly, with the command line's choices laid over it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import BenchError
from selective_focus.quantization.config import parse_bits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROFILES = Path(__file__).resolve().parent / "profiles"
DATASETS = ("synthetic", "culane", "tusimple")


class Profile(BaseModel):
    """Everything a run needs to know. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    detectors: list[str] = Field(min_length=1)
    variant: str | None = None
    """None: "synthetic" without weights of your own, else the first variant that the weights fit."""
    weights: Path | None = None
    dataset: Literal["synthetic", "culane", "tusimple"] = "synthetic"
    root: Path | None = None
    split: Literal["test", "val"] = "test"
    """Frames that are evaluated. Settings are chosen on "val" and never on "test"."""
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    """Method name -> its options, in the order of the table. The one place where methods are set."""
    bits: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
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
    device: str = "cpu"

    @field_validator("bits")
    @classmethod
    def _bits_are_readable(cls, bits: list[str]) -> list[str]:
        return ["w{}a{}".format(*parse_bits(item)) for item in bits]

    @field_validator("detectors", "bits", "seeds")
    @classmethod
    def _no_repeats(cls, items: list[Any]) -> list[Any]:
        return list(dict.fromkeys(items))


def load_profile(profile: str, **overrides: Any) -> Profile:
    """A profile by name ("quick", "full") or by file, with ``overrides`` (None = not given) laid over it.

    ``methods`` may be given as a list of names: options come from the profile's tables. Raises BenchError.
    """
    path = _profile_path(profile)
    try:
        with path.open("rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"{path}: not a readable TOML file ({error})") from error
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    values.setdefault("name", path.stem)
    given = {key: value for key, value in overrides.items() if value is not None}
    if "methods" in given:
        tables = values.get("methods", {})
        given["methods"] = {name: tables.get(name, {}) for name in given["methods"]}
    try:
        return Profile.model_validate({**values, **given})
    except ValidationError as error:
        raise BenchError(_first_complaint(error, path, set(given))) from error


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
    complaint = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in complaint["loc"])
    source = "command line" if complaint["loc"] and complaint["loc"][0] in given else path
    what = complaint["msg"].removeprefix("Value error, ")
    rest = f" (and {error.error_count() - 1} more mistakes)" if error.error_count() > 1 else ""
    return f"{source}: {where}: {what}, not {complaint['input']!r}{rest}"
