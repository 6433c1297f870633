"""Official state-dict keys for LSTR, while its modules have the structure that quantization wants.

With both hooks, ``state_dict()`` of the network writes, and ``load_state_dict`` reads, the official layout:
the query, key and value projections of an attention packed in one matrix (as in ``nn.MultiheadAttention``),
and for the original checkpoints the backbone's layers without a prefix. Sub-modules keep their own keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
BACKBONE = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")


def write_official(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """State-dict post-hook: own keys become official (``network.prefixed``: with "backbone." in front)."""
    for key in [k for k in state if k.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith("backbone.") and not network.prefixed:
            state[prefix + name.removeprefix("backbone.")] = state.pop(key)
        for kind in ("weight", "bias"):
            attention = key.removesuffix(f"q_proj.{kind}")
            parts = [f"{attention}{part}.{kind}" for part in PROJECTIONS]
            # A quantizer may have replaced some of the three: then they stay apart.
            if attention != key and all(part in state for part in parts):
                state[f"{attention}in_proj_{kind}"] = torch.cat([state.pop(part) for part in parts])


def read_official(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load-state-dict pre-hook: the inverse of ``write_official``."""
    for key in [k for k in state if k.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith(BACKBONE) and not network.prefixed:
            state[f"{prefix}backbone.{name}"] = state.pop(key)
        for kind in ("weight", "bias"):
            attention = key.removesuffix(f"in_proj_{kind}")
            if attention != key:
                for part, value in zip(PROJECTIONS, state.pop(key).chunk(3), strict=True):
                    state[f"{attention}{part}.{kind}"] = value
