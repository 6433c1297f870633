"""From CondLaneNet's heads to lanes, in floating point: starts, their conditional maps, a position in each row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models.below_sky import in_frame
from lane_models.condlanenet.model import STRIDE, CondLaneNetConfig, conditional_maps
from lane_models.key_points import peak_scores
from lane_models.road_crop import FRAME
from selective_focus import Lane

FloatArray = npt.NDArray[np.float64]


def starts(heads: Mapping[str, Tensor]) -> Tensor:
    """The probability of a start, [N, 1, h, w]; 0 where one of the eight cells around it has more."""
    return peak_scores(heads["heat_map"], (3, 3))


def at_cells(kernels: Tensor, cells: Tensor) -> Tensor:
    """One image's kernels [K, h, w] of the cells [P] (row by row) -> [P, K]."""
    return kernels.flatten(1)[:, cells].t()


def expected_columns(location: Tensor) -> Tensor:
    """Location logits [..., R, S] -> mean column of each row [..., R], differentiably."""
    columns = torch.arange(location.shape[-1], dtype=location.dtype, device=location.device)
    return location.softmax(dim=-1) @ columns


def last_of_groups(cells: npt.NDArray[np.int64], reach: float) -> list[int]:
    """Starts (x, y) [P, 2] -> the one that stands for each group, in the order in which groups began.

    A start joins the first group that has a member within ``reach``. The last one of a group stands for it: the
    official code means to keep the best, but never updates what it compares with.
    """
    groups: list[list[int]] = []
    for i, cell in enumerate(cells):
        for group in groups:
            if (np.hypot(*(cells[group] - cell).T) <= reach).any():
                group.append(i)
                break
        else:
            groups.append([i])
    return [group[-1] for group in groups]


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], config: CondLaneNetConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes, in pixels of a frame of ``image_size`` (H, W).

    Each network's own starts count, in row-major order. Points run from the top down, one a row; nothing is
    clipped. A lane's score is its start's. Starts with values that are not finite never become lanes.
    """
    return [
        _lanes({name: head[i] for name, head in heads.items()}, peaks[0], config, image_size)
        for i, peaks in enumerate(starts(heads))
    ]


def _lanes(
    heads: Mapping[str, Tensor], peaks: Tensor, config: CondLaneNetConfig, image_size: tuple[int, int]
) -> list[Lane]:
    """The lanes of one image: heads without the batch, peaks [h, w]."""
    found = torch.nonzero(peaks.flatten() > config.threshold)[:, 0]
    y, x = np.divmod(found.cpu().numpy(), peaks.shape[1])
    chosen = found[last_of_groups(np.stack((x, y), axis=1), config.grouping)]
    features = heads["features"][None].float()
    location, offset = (
        conditional_maps(at_cells(heads[name].float(), chosen)[None], features)[0].cpu()
        for name in ("location_kernels", "offset_kernels")
    )
    expected = expected_columns(location).numpy()
    inside = heads["row_range"].flatten(2)[..., chosen].float().cpu().numpy()
    inside = (inside[1] > inside[0]).T
    lanes = []
    for i, score in enumerate(peaks.flatten()[chosen].tolist()):
        rows = lane_rows(inside[i])
        if len(rows) < 2 or not np.isfinite(expected[i]).all() or not offset[i].isfinite().all():
            continue
        columns = np.trunc(expected[i, rows]).astype(np.int64)
        xs = columns + offset[i].numpy()[rows, columns]
        points = np.stack((xs, rows), axis=1).astype(np.float64) * STRIDE
        lanes.append(Lane(in_frame(points, config.input_size, image_size, config.crop), score))
    return lanes


def lane_rows(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows of a lane, of those [R] that are said to be inside: from the first to the last, and one more at each end."""
    valid = np.flatnonzero(inside)
    if len(valid) == 0:
        return valid
    return np.arange(max(0, valid[0] - 1), min(len(inside) - 1, valid[-1] + 1) + 1)


def lane_map(heads: Mapping[str, Tensor], count: int = 16) -> Tensor:
    """Where the lanes run that begin at an image's best peaks, [N, 1, R, S] in [0, 1].

    A start's score times the row's probability to be inside times the column's likelihood beside the row's best.
    """
    score, cells = starts(heads).flatten(1).topk(min(count, heads["heat_map"][0].numel()))
    kernels = heads["location_kernels"].flatten(2).transpose(1, 2)
    chosen = kernels.gather(1, cells[..., None].expand(-1, -1, kernels.shape[-1]))
    columns = conditional_maps(chosen, heads["features"]).softmax(dim=-1)
    inside = heads["row_range"].softmax(dim=1)[:, 1].flatten(2).transpose(1, 2)
    rows = inside.gather(1, cells[..., None].expand(-1, -1, inside.shape[-1]))
    likely = columns / columns.amax(dim=-1, keepdim=True)
    return (likely * rows[..., None] * score[..., None, None]).amax(dim=1, keepdim=True)


def dense_lanes(heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The lane of every cell as if one started there: columns and weights, both [N, h w, R].

    The column, in cells and differentiable, is the mean of what ``decode`` would give for each column, column +
    offset. The weight, without gradient, is the cell's peak score (0 where a neighbour has more) times the row's
    probability to be inside.
    """
    location, offset = (
        conditional_maps(heads[name].flatten(2).transpose(1, 2), heads["features"])
        for name in ("location_kernels", "offset_kernels")
    )
    share = location.softmax(dim=-1)
    columns = torch.arange(share.shape[-1], dtype=share.dtype, device=share.device)
    inside = heads["row_range"].softmax(dim=1)[:, 1].flatten(2).transpose(1, 2)
    weight = starts(heads).flatten(1)[..., None] * inside
    return (share * (columns + offset)).sum(dim=-1), weight.detach()
