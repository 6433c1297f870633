"""Quantization methods by name. A method is declared in one file and found by it; nobody edits a list.

The library brings full precision and Selective Focus. Baselines live in packages named in ``PLUGIN_PACKAGES``:
a package there says so with ``SELECTIVE_FOCUS_METHODS = True``, and every module in it that has a ``METHOD`` (or
``METHODS``) is a plug-in.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selective_focus.job import QuantizationJob
from selective_focus.quantization.config import ConfigurationError

PLUGIN_PACKAGES = ["baselines"]
"""Importable packages that are searched for methods; absent ones are skipped."""

OWN_MODULES = ["selective_focus.method", "selective_focus.plus", "selective_focus.full_precision"]
"""The library's own methods."""


@dataclass(frozen=True)
class Method:
    """A quantization method: its name, where it is from, its defaults, and what it does with a job."""

    name: str
    summary: str
    run: Callable[[QuantizationJob], None]
    source: str = ""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that differ from QuantizationConfig's."""
    reconstruction: Mapping[str, Any] | None = None
    """Defaults that differ from ReconstructionConfig's; None: the method learns nothing."""
    options: type[Any] | None = None
    """A dataclass of options that only this method has."""


_registered: dict[str, Method] = {}
_searched: set[str] = set()


def register(method: Method) -> Method:
    """Make a method known by its name.

    Raises:
        ConfigurationError: the name is taken by another method.
    """
    known = _registered.setdefault(method.name, method)
    if known is not method:
        raise ConfigurationError(f"method {method.name!r} is registered twice; expected every name once")
    return method


def methods() -> list[str]:
    """Names of all methods that can be found here."""
    _discover()
    return sorted(_registered)


def find(name: str) -> Method:
    """The method of this name.

    Raises:
        ConfigurationError: there is none; the message lists those there are.
    """
    _discover()
    if name not in _registered:
        raise ConfigurationError(
            f"method {name!r} does not exist; expected one of: {', '.join(sorted(_registered))}"
        )
    return _registered[name]


def _discover() -> None:
    """Import every plug-in module once."""
    for package_name in [*OWN_MODULES, *PLUGIN_PACKAGES]:
        if package_name in _searched:
            continue
        try:
            package = importlib.import_module(package_name)
        except ModuleNotFoundError as error:
            if error.name == package_name:
                continue
            raise
        if package_name in PLUGIN_PACKAGES and not getattr(package, "SELECTIVE_FOCUS_METHODS", False):
            continue  # somebody else's package of that name
        modules = [package]
        for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
            modules.append(importlib.import_module(f"{package_name}.{info.name}"))
        for module in modules:
            for method in getattr(module, "METHODS", [getattr(module, "METHOD", None)]):
                if method is not None:
                    register(method)
        _searched.add(package_name)
