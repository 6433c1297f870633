"""Non-maximum suppression of lanes given as one x a row (the kernel that LaneATT and CLRNet share),
vectorised.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def suppress(
    scores: Array, starts: Array, lengths: Array, xs: Array, threshold: float, top_k: int
) -> npt.NDArray[np.int64]:
    """Indices of the lanes that stay, best score first, at most ``top_k``.

    scores [K]; starts [K], relative height of the first row, 0 = bottom edge, 1 = top edge; lengths [K]
    in rows; xs [K, R] in pixels, row 0 at the bottom. A lane falls when its mean |dx| to a better lane
    that stays, over the rows that both have, is below ``threshold`` pixels; lanes without a common row
    never suppress each other.

    Differences to the CUDA kernel: ties in score keep their order (there it is undefined), and a lane
    that starts below the image counts from row 0 (there the kernel reads memory in front of the xs when
    both lanes do so).
    """
    rows = xs.shape[1]
    # C casts truncate towards zero; the second one rounds a negative number of strips away from it.
    first = np.trunc(starts * np.float32(rows - 1) + np.float32(0.5)).astype(np.int64)
    strips = lengths - np.float32(1)
    last = np.trunc(first.astype(np.float32) + strips + np.float32(0.5) - (strips < 0)).astype(np.int64)
    first, last = np.maximum(first, 0), np.minimum(last, rows - 1)
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting) and len(kept) < top_k:
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        start = np.maximum(first[best], first[waiting])
        common = np.minimum(last[best], last[waiting]) - start + 1
        row = np.arange(rows) - start[:, None]
        counted = (row >= 0) & (row < common[:, None])
        distance = np.where(counted, np.abs(xs[waiting] - xs[best]), np.float32(0)).sum(axis=1)
        waiting = waiting[(common <= 0) | (distance >= np.float32(threshold) * common)]
    return np.array(kept, dtype=np.int64)
