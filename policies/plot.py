"""The curves of a training run, as a picture."""

import json
import sys
from itertools import accumulate
from pathlib import Path

CURVES = ("reward", "accuracy", "passes", "entropy")
KEPT = 0.95  # curves are running means, of which the past keeps this share


def plot_training(log: Path, picture: Path) -> None:
    """Draw the figures of each batch beside each other; where matplotlib is missing, say how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f'no {picture.name} without matplotlib; pip install "unmask[plot]"', file=sys.stderr)
        return
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        known = [(line["batch"], line[name]) for line in lines if name in line]
        batches, values = zip(*known, strict=True) if known else ((), ())
        axes.plot(batches, values, color="#b8c4d0", linewidth=0.6)
        axes.plot(batches, list(accumulate(values, lambda mean, x: KEPT * mean + (1 - KEPT) * x)), color="#0b5fa5")
        axes.set(title=name, xlabel="batch")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
