"""One colour, marker and label for each method in every plot; Okabe and Ito's colour-blind-safe palette."""

from __future__ import annotations

COLOURS = {
    "fp32": "#444444",
    "minmax": "#999999",
    "omse": "#56B4E9",
    "aciq": "#8C6D31",
    "bias-correction": "#332288",
    "adaround": "#E69F00",
    "brecq": "#009E73",
    "qdrop": "#0072B2",
    "selective-focus": "#D55E00",
    "selective-focus-plus": "#CC79A7",
    "selective-focus-without-sgf": "#882255",
    "selective-focus-without-sas": "#117733",
    "selective-focus-without-both": "#AA4499",
    "omse-for-lanes": "#708090",
    "qdrop-clipped": "#6699CC",
    "qdrop-own-weight-search": "#3C8D0D",
    "qdrop-for-lanes": "#8E63CE",
    "selective-focus-clipped": "#999933",
    "selective-focus-for-lanes": "#0E7C86",
    "selective-focus-plus-uniform": "#C44536",
}
MARKERS = {
    "fp32": "*",
    "minmax": "o",
    "omse": "s",
    "aciq": "P",
    "bias-correction": "X",
    "adaround": "v",
    "brecq": "^",
    "qdrop": "D",
    "selective-focus": "o",
    "selective-focus-plus": "h",
    "selective-focus-without-sgf": "<",
    "selective-focus-without-sas": ">",
    "selective-focus-without-both": "p",
    "omse-for-lanes": "d",
    "qdrop-clipped": "8",
    "qdrop-own-weight-search": "D",
    "qdrop-for-lanes": "H",
    "selective-focus-clipped": "v",
    "selective-focus-for-lanes": "^",
    "selective-focus-plus-uniform": "s",
}
LABELS = {
    "fp32": "FP32",
    "minmax": "min-max",
    "omse": "OMSE",
    "aciq": "ACIQ",
    "bias-correction": "bias correction",
    "adaround": "AdaRound",
    "brecq": "BRECQ",
    "qdrop": "QDrop",
    "selective-focus": "Selective Focus",
    "selective-focus-plus": "Selective Focus+ (ours)",
    "selective-focus-without-sgf": "SF without SGF",
    "selective-focus-without-sas": "SF without SAS",
    "selective-focus-without-both": "SF without both",
    "omse-for-lanes": "OMSE, ranges for lanes",
    "qdrop-clipped": "QDrop, clipped ranges",
    "qdrop-own-weight-search": "QDrop, own weight search",
    "qdrop-for-lanes": "QDrop, ranges for lanes",
    "selective-focus-clipped": "SF, clipped ranges",
    "selective-focus-for-lanes": "SF, ranges for lanes",
    "selective-focus-plus-uniform": "SF+, uniform ranges",
}
ANNOTATED = "#FFFFFF"
_OTHER = ("#117733", "#882255", "#AA4499", "#DDCC77")


def colour_of(method: str) -> str:
    """The method's colour; one that is not listed gets a fixed one of its own by its name."""
    return COLOURS.get(method, _OTHER[sum(method.encode()) % len(_OTHER)])


def marker_of(method: str) -> str:
    """The method's marker."""
    return MARKERS.get(method, "p")


def label_of(method: str) -> str:
    """The method's name as papers write it."""
    return LABELS.get(method, method)
