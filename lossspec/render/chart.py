"""Charts of lines, in the units that a page draws them in."""

from dataclasses import dataclass, field

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34


@dataclass
class Line:
    """One line in a chart: its class in the page, its points, and what each of them says."""

    kind: str
    points: list[tuple[float, float]]
    titles: list[str]

    @property
    def path(self) -> str:
        """The points as SVG wants them."""
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclass
class Chart:
    """Some lines over a grid. across, up : place and label of what is written along the axes."""

    title: str
    says: str
    caption: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    lines: list[Line] = field(default_factory=list)
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    floor: int = _HEIGHT - _BOTTOM
    end: int = _WIDTH - _RIGHT


def across(share: float) -> float:
    """Where a share of the way along the lower axis lies."""
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * share, 1)


def up(share: float) -> float:
    """Where a share of the way up from the lower axis lies."""
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share), 1)
