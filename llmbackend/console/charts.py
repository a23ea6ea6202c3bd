"""
Numbers as SVG: geometry only; how it looks is in the templates and the style sheet.

Every chart comes with the same numbers as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.template.loader import render_to_string
from django.utils.formats import number_format
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 24
PLOT_WIDTH = WIDTH - LEFT - RIGHT
PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
ROW_HEIGHT = 26
LABELLED_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One colour of a chart: a number, or None, for each label of the chart."""

    name: str
    colour: str
    values: Sequence[int | None]

    @property
    def total(self) -> int:
        return sum(value or 0 for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn; `name` is an id of the page's, `corner` heads the labels."""

    name: str
    title: str
    description: str
    corner: str
    labels: Sequence[str]
    series: Sequence[Series]


def stacked(chart: Chart) -> SafeString:
    """Columns, one for each label, of the series one above the other."""
    sums = [sum(value or 0 for value in column) for column in _columns(chart)]
    top = ceiling(max(sums, default=0))
    step = PLOT_WIDTH / max(1, len(chart.labels))
    bars = []
    for place, column in enumerate(_columns(chart)):
        below = 0
        for series, value in zip(chart.series, column, strict=True):
            if not value:
                continue
            below += value
            bars.append(
                {
                    "x": _px(LEFT + place * step + step * 0.12),
                    "y": _px(_height(below, top)),
                    "width": _px(step * 0.76),
                    "height": _px(value / top * PLOT_HEIGHT),
                    "colour": series.colour,
                    "said": _said(chart, place, series, value),
                }
            )
    return _drawn(chart, top, step, {"bars": bars, "sums": True})


def lines(chart: Chart) -> SafeString:
    """A line for each series, broken where there is no number, with its points."""
    values = [value or 0 for series in chart.series for value in series.values]
    top = ceiling(max(values, default=0))
    step = PLOT_WIDTH / max(1, len(chart.labels))
    drawn = []
    for series in chart.series:
        points = [
            (_px(LEFT + (place + 0.5) * step), _px(_height(value, top)), place, value)
            for place, value in enumerate(series.values)
            if value is not None
        ]
        drawn.append(
            {
                "colour": series.colour,
                "path": path_through(points),
                "points": [
                    {
                        "x": x,
                        "y": y,
                        "said": _said(chart, place, series, value),
                    }
                    for x, y, place, value in points
                ],
            }
        )
    return _drawn(chart, top, step, {"lines": drawn})


def rows(chart: Chart, *, links: Mapping[str, str] | None = None) -> SafeString:
    """A bar for each label, of the one series that there is, in a table."""
    [series] = chart.series
    most = max((value or 0 for value in series.values), default=0) or 1
    bars = [
        {
            "label": label,
            "value": value,
            "width": _px((value or 0) / most * 100),
            "link": (links or {}).get(label, ""),
        }
        for label, value in zip(chart.labels, series.values, strict=True)
    ]
    return render_to_string("console/rows.html", {"chart": chart, "bars": bars})


def path_through(points: Sequence[tuple[str, str, int, int]]) -> str:
    """An SVG path; neighbours are joined, a gap begins a new line.

    >>> path_through([("1", "9", 0, 5), ("2", "8", 1, 6), ("4", "7", 3, 7)])
    'M1 9L2 8M4 7'
    """
    path, before = "", None
    for x, y, place, _ in points:
        path += f"{'M' if before != place - 1 else 'L'}{x} {y}"
        before = place
    return path


def ceiling(most: int) -> int:
    """
    A round number that is not less, for the top of a scale of four.

    >>> [ceiling(n) for n in (0, 3, 5, 37, 401, 1300)]
    [4, 4, 8, 40, 800, 2000]
    """
    top = 4
    while top < most:
        for factor in (1, 2, 5):
            if top * factor >= most:
                break
        else:
            top *= 10
            continue
        return top * factor
    return top


def _said(chart: Chart, place: int, series: Series, value: int) -> str:
    return f"{chart.labels[place]}: {series.name} {number_format(value)}"


def _columns(chart: Chart) -> list[tuple[int | None, ...]]:
    return list(zip(*(series.values for series in chart.series), strict=True))


def _height(value: float, top: int) -> float:
    return TOP + PLOT_HEIGHT * (1 - value / top)


def _px(number: float) -> str:
    # Not as the visitor's language writes it.
    return f"{number:.1f}"


def _drawn(
    chart: Chart, top: int, step: float, shapes: dict[str, object]
) -> SafeString:
    every = -(-len(chart.labels) // LABELLED_TICKS)
    grid = [
        {"y": _px(_height(top * part / 4, top)), "label": top * part // 4}
        for part in range(5)
    ]
    ticks = [
        {"x": _px(LEFT + (place + 0.5) * step), "label": label}
        for place, label in enumerate(chart.labels)
        if (len(chart.labels) - 1 - place) % every == 0
    ]
    context = {
        "chart": chart,
        "grid": grid,
        "ticks": ticks,
        "table": list(zip(chart.labels, _columns(chart), strict=True)),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "foot": HEIGHT - 6,
        **shapes,
    }
    return render_to_string("console/chart.html", context)
