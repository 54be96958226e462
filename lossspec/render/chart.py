"""Line charts, in the coordinates of an SVG image."""

from dataclasses import dataclass, field

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34


@dataclass
class Line:
    """A line in a chart.

    Attributes:
        kind: The CSS class of the line.
        points: Its points, in coordinates of the image.
        titles: The tooltip of each point.
    """

    kind: str
    points: list[tuple[float, float]]
    titles: list[str]

    @property
    def path(self) -> str:
        """The points in the format of SVG."""
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclass
class Chart:
    """Lines over a grid.

    Attributes:
        title: The title, in bold.
        says: The description for screen readers.
        caption: The text after the title.
        across: The coordinate and the label of each tick of the horizontal axis.
        up: The coordinate and the label of each tick of the vertical axis.
        lines: The lines.
        width: The width of the image.
        height: The height of the image.
        left: The left end of the horizontal axis.
        floor: The lower end of the vertical axis.
        end: The right end of the horizontal axis.
    """

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
    """Return the coordinate of a point on the horizontal axis, from 0 (left) to 1 (right)."""
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * share, 1)


def up(share: float) -> float:
    """Return the coordinate of a point on the vertical axis, from 0 (bottom) to 1 (top)."""
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share), 1)
