"""How far the lanes move when one head of a detector is quantized: the measure that selection looks at.

The paper measures the "semantic sensitivity" of each head; how it does so is our reading (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from selective_focus.detector import Heads, LaneDetector
from selective_focus.lane_distortion import (
    Lanes,
    Norm,
    Reduction,
    RowLanes,
    lane_distortion_scores,
    mean_distortion,
    sample_rows,
)

Mode = Literal["swap-one", "leave-one-out"]


def head_sensitivity(
    detector: LaneDetector,
    reference_heads: Mapping[str, Tensor],
    quantized_heads: Mapping[str, Tensor],
    *,
    mode: Mode = "swap-one",
    alpha: float = 1.0,
    reference_lanes: Sequence[Lanes] | None = None,
    image_size: tuple[int, int] | None = None,
    norm: Norm = "l1",
    reduction: Reduction = "mean",
    delta: float | None = None,
    row_step: float | None = None,
) -> dict[str, float]:
    """Sensitivity s_k of each head k: a mean LDS over the N images of the batch, in pixels.

    reference_heads O, quantized_heads Q: the same images through the full-precision and the quantized
    network. With E_k = O_k + alpha (Q_k - O_k) and P the detector's decode:

        "swap-one"       s_k = LDS(P(O), P(O with O_k replaced by E_k))                           >= 0
        "leave-one-out"  s_k = LDS(P(O), P(E)) - LDS(P(O), P(E with E_k replaced by O_k))

    The second can fall a little below 0, where one head's error hides another's. ``alpha`` below 1 keeps
    scores away from the ceiling ``delta`` when the damage is large, so that heads stay comparable.

    reference_lanes: P(O) of the N images, decoded or, to save their preparation as well, sampled on rows.
    image_size: (H, W) of the frame in which pixels are counted; None is the detector's own.
    norm, reduction, delta, row_step: see ``lane_distortion_score``.

    Costs one decode of the batch a head, and one for each of P(O) (unless given) and P(E) (leave-one-out
    only). Swapping keeps the order of proposals, so heads of one proposal stay aligned. Raises ValueError
    when the heads do not line up.
    """
    _check(reference_heads, quantized_heads, mode, alpha)
    size = tuple(image_size or detector.image_size)
    frame = (size[0], size[1])

    def lanes_of(heads: Heads) -> list[RowLanes]:
        return [sample_rows(lanes, frame, row_step) for lanes in detector.decode(heads, frame)]

    with torch.no_grad():
        full = {name: head.detach() for name, head in reference_heads.items()}
        error = {name: _scaled_error(full[name], quantized_heads[name].detach(), alpha) for name in full}
        reference = lanes_of(full) if reference_lanes is None else reference_lanes

        def distortion(heads: Heads) -> float:
            scores = lane_distortion_scores(
                reference,
                lanes_of(heads),
                frame,
                norm=norm,
                reduction=reduction,
                delta=delta,
                row_step=row_step,
            )
            return mean_distortion(scores).score

        if mode == "swap-one":
            return {name: distortion({**full, name: error[name]}) for name in full}
        everything = distortion(error)
        return {name: everything - distortion({**error, name: full[name]}) for name in full}


def _scaled_error(full: Tensor, quantized: Tensor, alpha: float) -> Tensor:
    """O + alpha (Q - O); exactly Q at alpha 1."""
    return quantized if alpha == 1 else full + alpha * (quantized - full)


def _check(reference: Mapping[str, Tensor], quantized: Mapping[str, Tensor], mode: str, alpha: float) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"sensitivity mode must be one of {', '.join(get_args(Mode))}, not {mode!r}")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], not {alpha}")
    if not reference:
        raise ValueError("head sensitivity needs at least one head; the detector gave none")
    if set(reference) != set(quantized):
        raise ValueError(
            f"quantized heads {sorted(quantized)} must be the full-precision ones, {sorted(reference)}"
        )
    for name, head in reference.items():
        if head.shape != quantized[name].shape:
            raise ValueError(
                f"head {name!r} has shape {list(head.shape)} in full precision but "
                f"{list(quantized[name].shape)} quantized; both must see the same images"
            )
