"""Official state-dict keys for modules whose own structure is another (because quantization wants it so)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn


def use_official_keys(module: nn.Module, names: Mapping[str, str]) -> None:
    """``module.state_dict()`` writes, and ``load_state_dict`` reads, official keys from now on.

    names: beginnings of own keys (relative to ``module``) and what official keys have there instead.
    """
    module.register_state_dict_post_hook(partial(_rename, names=dict(names)))
    inverse = {official: own for own, official in names.items()}
    module.register_load_state_dict_pre_hook(partial(_rename, names=inverse))


def _rename(
    _module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any, names: Mapping[str, str]
) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        for old, new in names.items():
            if key.startswith(prefix + old):
                state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)
                break
