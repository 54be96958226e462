"""Charts of training runs: the loss at each step, with the right answer in the tooltips."""

import math
from collections.abc import Sequence

from lossspec.render.chart import Chart, Line, across, up
from lossspec.report.records import Cell

#: The names of the lines in the artifact, and their CSS classes.
LINES = {"training": "implementation", "validation": "other"}


def curves(cells: Sequence[Cell]) -> list[Chart]:
    """Return a chart for each cell whose clause trained a model."""
    return [chart(cell) for cell in cells if "curves" in cell.extra]


def chart(cell: Cell) -> Chart:
    """Return a chart of the loss by step, on linear axes."""
    found = cell.extra["curves"]
    points = [point for name in LINES for point in found[name]]
    values = [float(value) for _, *pair in points for value in pair]
    low, high = min([0.0, *values]), max(values)
    step = _step(high - low)
    floor, top = math.floor(low / step), math.ceil(high / step) or 1
    last = max(1, *(int(number) for number, *_ in points))

    def place(number: float, value: float) -> tuple[float, float]:
        return across(number / last), up((value / step - floor) / (top - floor))

    lines = [
        Line(
            kind,
            [place(number, float(got)) for number, got, _ in found[name]],
            [f"{name}, step {n}: {got:.4g} ({want:.4g})" for n, got, want in found[name]],
        )
        for name, kind in LINES.items()
    ]
    worst = "" if cell.worst is None else f", worst error {cell.worst:.2g} × budget"
    return Chart(
        cell.loss,
        f"{cell.loss} by step of a training run",
        f" ({cell.surface}){worst}",
        [(across(n / last), str(n)) for n in range(0, last + 1, 5)],
        [(up((k - floor) / (top - floor)), f"{k * step:g}") for k in range(floor, top + 1)],
        lines,
    )


def _step(span: float) -> float:
    """Return a round number that divides the span into about four parts."""
    power = 10.0 ** math.floor(math.log10(max(span, 1e-9) / 4))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= span / 4)
