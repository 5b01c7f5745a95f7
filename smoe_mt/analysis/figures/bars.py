"""Bars of mean requested capacity, and the axis that they share: from 1 visit to all strata, nothing cut off or blown up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bars(
    panel: Axes, names: Sequence[str], means: Sequence[float], colours: Sequence[str], labels: Sequence[str]
) -> None:
    """Bars that start at 1, the least that a token can request."""
    panel.bar(range(len(names)), [mean - 1 for mean in means], bottom=1, color=list(colours), width=0.75)
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.7, len(names) - 0.3)
    for place, (mean, label) in enumerate(zip(means, labels)):
        panel.annotate(label, (place, mean), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)


def visits_axis(panel: Axes, most: int) -> None:
    """1 to the most visits of a token, with room for the labels of the bars."""
    panel.set_ylim(1, most + 0.15 * (most - 1))
    panel.set_yticks(range(1, most + 1))
