"""CondLaneNet's training loss: where lanes start, and, at those cells, position, offset and range of every row.

Liu et al., ICCV 2021, section 3.4. Ours: positions are also learned as classes (a column and its neighbour share the
probability so that their mean is the label), which a short training needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.condlanenet.decode import expected_columns
from lane_models.condlanenet.model import STRIDE, CondLaneNet, conditional_maps
from lane_models.key_points import Polyline, focal, heat_map, row_columns

BLUR = 0.7
"""Standard deviation, in cells of the heat map, of the slope about a start."""
REACH = 2
"""Columns on either side of a lane for which the offset is learned."""


class Labels(NamedTuple):
    """The M lanes of a batch.

    image: of each [M]. start: its cell (x, y) at stride 16 [M, 2]. columns: its place in cells of stride 8 at every
    row [M, R], NaN where it has none. inside: rows of which the range is to say that they belong to it [M, R].
    """

    image: Tensor
    start: Tensor
    columns: Tensor
    inside: Tensor


class TrainingLoss(nn.Module):
    """Heads and label polylines -> terms to be summed (see ``bench.train``)."""

    def __init__(
        self,
        model: CondLaneNet,
        starts: float = 1.0,
        location: float = 1.0,
        column: float = 0.5,
        offset: float = 0.4,
        row_range: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.weights = {
            "starts": starts,
            "location": location,
            "column": column,
            "offset": offset,
            "row_range": row_range,
        }

    def forward(self, heads: Mapping[str, Tensor], lanes: Sequence[Sequence[Polyline]]) -> dict[str, Tensor]:
        """lanes: polylines [P, 2] of each image, in network pixels."""
        heat = heads["heat_map"]
        labels = labels_of(lanes, self.config.map_size, heat.device)
        target = heat_map(labels.image, labels.start, (len(heat), *heat.shape[2:]), BLUR)
        x, y = labels.start.unbind(1)
        location, offset = (maps_of(heads, name, labels) for name in ("location_kernels", "offset_kernels"))
        known = labels.columns.isfinite()
        columns = labels.columns[known]
        terms = {
            "starts": focal(heat[:, 0], target),
            "location": F.cross_entropy(location[known], two_columns(columns, location.shape[-1])),
            "column": (expected_columns(location)[known] - columns).abs().mean(),
            "offset": offset_error(offset[known], columns),
            "row_range": F.cross_entropy(heads["row_range"][labels.image, :, :, y, x], labels.inside.long()),
        }
        if len(labels.image) == 0:
            terms = {name: terms[name] if name == "starts" else heat.sum() * 0 for name in terms}
        return {name: self.weights[name] * term for name, term in terms.items()}


def maps_of(heads: Mapping[str, Tensor], name: str, labels: Labels) -> Tensor:
    """What the kernels ``name`` at the lanes' starts give, [M, R, S]."""
    x, y = labels.start.unbind(1)
    kernels = heads[name][labels.image, :, y, x]
    return conditional_maps(kernels[:, None], heads["features"][labels.image])[:, 0]


def labels_of(
    lanes: Sequence[Sequence[Polyline]], map_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Labels:
    """Labels of polylines [P, 2] in network pixels; map_size: (rows, columns) at stride 8.

    Lanes with less than two rows in the image are left out. A lane starts at its lowest row. The decoder adds a row at
    either end of the range, so the labels leave those out where more than two remain.
    """
    rows = map_size[0]
    image, starts, columns, inside = [], [], [], []
    for i, one in enumerate(lanes):
        for lane in one:
            xs = row_columns(lane, map_size, STRIDE)
            found = np.flatnonzero(np.isfinite(xs))
            if len(found) < 2:
                continue
            trim = int(len(found) > 4)
            within = np.zeros(rows, dtype=bool)
            within[found[trim : len(found) - trim]] = True
            image.append(i)
            starts.append((int(xs[found[-1]]) // 2, found[-1] // 2))
            columns.append(xs)
            inside.append(within)
    return Labels(
        torch.tensor(image, dtype=torch.long, device=device),
        torch.tensor(np.array(starts, dtype=np.int64).reshape(-1, 2), device=device),
        torch.tensor(np.array(columns, dtype=np.float32).reshape(-1, rows), device=device),
        torch.tensor(np.array(inside, dtype=bool).reshape(-1, rows), device=device),
    )


def two_columns(columns: Tensor, width: int) -> Tensor:
    """Probabilities [K, width] on the two columns about each place [K], whose mean it is."""
    left = columns.floor().long()
    share = columns - left
    target = torch.zeros(len(columns), width, dtype=columns.dtype, device=columns.device)
    target.scatter_(1, left[:, None], (1 - share)[:, None])
    return target.scatter_add(1, (left + 1)[:, None], share[:, None])


def offset_error(offset: Tensor, columns: Tensor) -> Tensor:
    """Mean |error| of offsets [K, width] to places [K], over the columns near them."""
    distance = columns[:, None] - torch.arange(offset.shape[1], device=offset.device)
    near = distance.abs() <= REACH
    return ((offset - distance).abs() * near).sum() / near.sum().clamp(min=1)
