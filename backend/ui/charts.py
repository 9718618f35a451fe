"""Coordinates of the page's small plots. The templates draw them as SVG.

Called by: backend.pages. Pure. Must not import: anything but the standard library.
Example: `line_of([0.5, 1.0])` -> "30.0,45.0 310.0,10.0"
"""

from __future__ import annotations

from collections.abc import Sequence

LEFT, RIGHT, TOP, BOTTOM = 30.0, 310.0, 10.0, 80.0  #: of the plot inside its view box of 320 x 90


def line_of(shares: Sequence[float]) -> str:
    """Points of a polyline through values from 0 to 1, evenly spaced; empty for fewer than two, which make no line."""
    if len(shares) < 2:
        return ""
    step = (RIGHT - LEFT) / (len(shares) - 1)
    points = [(LEFT + place * step, BOTTOM - share * (BOTTOM - TOP)) for place, share in enumerate(shares)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
