"""The assignment of CULane's C++ evaluator: Kuhn-Munkres with a tolerance, so the order of lanes matters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TIGHT = 1e-2
"""An edge counts as tight when its labels exceed its weight by less than this; the reference's constant."""


def match(similarity: npt.ArrayLike) -> list[int]:
    """Similarity [annotated, predicted], maybe not-a-number -> predicted lane of each annotated one, or -1.

    The smaller side (the annotated lanes if equal) is assigned lane by lane, in order; candidates are tried
    in order. Not-a-number is never a maximum, never tight and never the smallest slack; without any slack
    the matching stops where it is.
    """
    weights = np.asarray(similarity, dtype=np.float64)
    annotated, predicted = weights.shape
    if annotated == 0 or predicted == 0:
        return [-1] * annotated
    if annotated <= predicted:
        return _Matching(weights.tolist()).rows()
    of_predicted = _Matching(weights.T.tolist()).rows()
    result = [-1] * annotated
    for prediction, annotation in enumerate(of_predicted):
        if annotation >= 0:
            result[annotation] = prediction
    return result


class _Matching:
    """Rows (the smaller side) and columns with their labels, and who has whom so far."""

    def __init__(self, weights: list[list[float]]) -> None:
        self.weights = weights
        self.row_label = [max((w for w in row if w == w), default=-1e5) for row in weights]
        self.column_label = [0.0] * len(weights[0])
        self.column_of = [-1] * len(weights)
        self.row_of = [-1] * len(weights[0])

    def rows(self) -> list[int]:
        """The column of each row, or -1."""
        for row in range(len(self.weights)):
            while True:
                self.seen_rows: set[int] = set()
                self.seen_columns: set[int] = set()
                if self._extend(row):
                    break
                if not self._relax():
                    return self.column_of
        return self.column_of

    def _extend(self, row: int) -> bool:
        """Find a column for the row along tight edges, moving other rows where needed."""
        self.seen_rows.add(row)
        for column, weight in enumerate(self.weights[row]):
            slack = self.row_label[row] + self.column_label[column] - weight
            if column in self.seen_columns or not abs(slack) < TIGHT:
                continue
            self.seen_columns.add(column)
            if self.row_of[column] < 0 or self._extend(self.row_of[column]):
                self.row_of[column] = row
                self.column_of[row] = column
                return True
        return False

    def _relax(self) -> bool:
        """Lower the labels by the smallest slack, so that one more edge gets tight. False without any."""
        slacks = (
            self.row_label[row] + self.column_label[column] - weight
            for row in sorted(self.seen_rows)
            for column, weight in enumerate(self.weights[row])
            if column not in self.seen_columns and weight == weight
        )
        slack = min(slacks, default=None)
        if slack is None:
            return False
        for row in self.seen_rows:
            self.row_label[row] -= slack
        for column in self.seen_columns:
            self.column_label[column] += slack
        return True
