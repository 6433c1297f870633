"""The CULane comparison in its slowest and plainest form, frozen: the yardstick for equality and for speed.

Every pair of lanes is drawn on two fresh full-size canvases, sample by sample, and multiplied; scalar
arithmetic for the splines; recursive matching over the whole matrix. Nothing is shared with ``bench.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

Curve = list[tuple[int, int]]


def curve(lane: Sequence[Sequence[float]]) -> Curve:
    """The pixels that the lane's curve is drawn through, repetitions included; empty below two points."""
    points = [(float(np.float32(x)), float(np.float32(y))) for x, y in lane]
    if len(points) < 2:
        return []
    if len(points) == 2:
        return [pixel(*point) for point in points]
    axes = [[point[axis] for point in points] for axis in (0, 1)]
    # Differences of neighbours in single precision, everything else in double
    steps = [[float(np.float32(b) - np.float32(a)) for a, b in pairwise(axis)] for axis in axes]
    h = [math.sqrt(dx * dx + dy * dy) for dx, dy in zip(*steps, strict=True)]
    if 0.0 in h:
        return [(-(2**31), -(2**31)), pixel(*points[-1])]
    bends = [second_derivatives(step, h) for step in steps]
    pixels = []
    for i, length in enumerate(h):
        for k in range(50):
            t = length / 50 * k
            position = []
            for axis, step, bend in zip(axes, steps, bends, strict=True):
                b = step[i] / length - (2 * length * bend[i] + length * bend[i + 1]) / 6
                d = (bend[i + 1] - bend[i]) / (6 * length)
                position.append(axis[i] + b * t + bend[i] / 2 * (t * t) + d * (t * t * t))
            pixels.append(pixel(*position))
    return [*pixels, pixel(*points[-1])]


def second_derivatives(step: list[float], h: list[float]) -> list[float]:
    """Natural spline: tridiagonal system, forward elimination, back substitution."""
    count = len(h) - 1
    upper = [h[i + 1] for i in range(count)]
    right = [6 * (step[i + 1] / h[i + 1] - step[i] / h[i]) for i in range(count)]
    for i in range(count):
        pivot = 2 * (h[i] + h[i + 1]) - (h[i] * upper[i - 1] if i else 0.0)
        upper[i] /= pivot
        right[i] = (right[i] - (h[i] * right[i - 1] if i else 0.0)) / pivot
    for i in range(count - 2, -1, -1):
        right[i] -= upper[i] * right[i + 1]
    return [0.0, *right, 0.0]


def pixel(x: float, y: float) -> tuple[int, int]:
    """Single precision, then round half to even."""
    return round(float(np.float32(x))), round(float(np.float32(y)))


def similarity(first: Curve, second: Curve, image_size: tuple[int, int], width: int) -> float:
    """Intersection over union of two curves, each drawn on a canvas of its own."""
    if not first or not second:
        return 0.0
    canvases = []
    for pixels in (first, second):
        canvas = np.zeros(image_size, dtype=np.uint8)
        cv2.polylines(canvas, [np.array(pixels, dtype=np.int32)], False, 1, width)
        canvases.append(canvas)
    shared = cv2.sumElems(cv2.multiply(*canvases))[0]
    union = cv2.sumElems(canvases[0])[0] + cv2.sumElems(canvases[1])[0] - shared
    return shared / union if union else math.nan


def similarities(
    predicted: list[Curve], annotated: list[Curve], image_size: tuple[int, int] = (590, 1640), width: int = 30
) -> list[list[float]]:
    """[annotated][predicted]"""
    return [[similarity(a, p, image_size, width) for p in predicted] for a in annotated]


def match(matrix: list[list[float]]) -> list[int]:
    """Kuhn-Munkres with the tolerance of 0.01; the predicted lane of each annotated one, or -1."""
    if not matrix or not matrix[0]:
        return [-1] * len(matrix)
    swapped = len(matrix) > len(matrix[0])
    weights = [list(column) for column in zip(*matrix, strict=True)] if swapped else matrix
    lefts, rights = range(len(weights)), range(len(weights[0]))
    left_label = [-1e5] * len(weights)
    for i in lefts:
        for j in rights:
            if left_label[i] < weights[i][j]:
                left_label[i] = weights[i][j]
    right_label = [0.0] * len(weights[0])
    left_match, right_match = [-1] * len(weights), [-1] * len(weights[0])

    def search(i: int) -> bool:
        left_used[i] = True
        for j in rights:
            if not right_used[j] and abs(left_label[i] + right_label[j] - weights[i][j]) < 0.01:
                right_used[j] = True
                if right_match[j] == -1 or search(right_match[j]):
                    left_match[i], right_match[j] = j, i
                    return True
        return False

    stuck = False
    for start in lefts:
        while not stuck:
            left_used, right_used = [False] * len(weights), [False] * len(weights[0])
            if search(start):
                break
            slack = 1e10
            for i in lefts:
                for j in rights:
                    if left_used[i] and not right_used[j]:
                        candidate = left_label[i] + right_label[j] - weights[i][j]
                        slack = candidate if candidate < slack else slack
            stuck = slack == 1e10
            if not stuck:
                left_label = [label - slack * used for label, used in zip(left_label, left_used, strict=True)]
                right_label = [
                    label + slack * used for label, used in zip(right_label, right_used, strict=True)
                ]
    return right_match if swapped else left_match


def counts(
    predicted: list[Curve],
    annotated: list[Curve],
    image_size: tuple[int, int] = (590, 1640),
    width: int = 30,
    iou: float = 0.5,
) -> tuple[int, int, int]:
    """(TP, FP, FN) of one image."""
    matrix = similarities(predicted, annotated, image_size, width)
    tp = sum(column >= 0 and matrix[row][column] > iou for row, column in enumerate(match(matrix)))
    return tp, len(predicted) - tp, len(annotated) - tp
