"""The report as one HTML page, which works offline and without JavaScript, and holds its data."""

import base64
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lossspec.errors import ReportError
from lossspec.render.asked import asked_by_loss, reasons_told
from lossspec.render.curves import curves
from lossspec.render.excused import excused, reasons
from lossspec.render.layout import (
    columns,
    nothing,
    oracle_text,
    plural,
    ratio,
    rows,
    seed_text,
    threads_text,
    unjudged,
)
from lossspec.report.causes import blocks, other_kinds
from lossspec.report.files import LARGEST_FILE
from lossspec.report.records import Cell, Report
from lossspec.report.verdict import Verdict
from lossspec.safe_text import clip, foreign_error, html_text, json_text

# A longer artifact, in characters, is compressed so that the page opens fast.
VERBATIM = 400_000
# The largest number and size of articles on single cells; tables list the other cells.
ARTICLES = 100
ARTICLE_CHARACTERS = 200_000
# The largest number of links from one cause to its other cells.
LINKS = 40
_LONGEST = 4_000  # the most characters of one text in an article


def page(report: Report) -> str:
    """Return the report as an HTML page that needs no other file."""
    anchors = _anchors(report)
    causes = blocks(report.failing)
    known = [cell for cell in report.cells if cell.verdict is Verdict.KNOWN]
    shown = _fitting(block.shown for block in causes), _fitting(known)
    causes_shown = causes[: len(shown[0])]
    return _ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        anchors=anchors,
        links=LINKS,
        articles={cell.id for cells in shown for cell in cells},
        causes=causes,
        causes_shown=causes_shown,
        # The cell that shows the cause of each cell without an article.
        shown_by={other.id: block.shown for block in causes_shown for other in block.others},
        known=known,
        known_shown=shown[1],
        unjudged=unjudged(report),
        # It holds only numbers and fixed words; escaping would break the no-break spaces.
        headline=Markup(re.sub(r"([,;] \d+) ", "\\1\N{NO-BREAK SPACE}", report.headline)),
        tiles=[
            (verdict, count)
            for verdict in sorted(Verdict, key=_urgency)
            if (count := report.counts[verdict]) or verdict in (Verdict.CONFORMS, Verdict.DEVIATES)
        ],
        columns=columns(report.cells),
        nothing=nothing(report),
        rows=rows(report),
        several_devices=len({cell.device for cell in report.cells}) > 1,
        axis=(axis := Axis.of(cell.worst for cell in report.cells)),
        accuracy=_accuracy(report, axis),
        asked=asked_by_loss(report),
        reasons=reasons_told(report),
        excused=excused(report),
        curves=curves(report.cells),
        sentences=_sentences(report),
        losses=_by_loss(report),
        seconds=sum(cell.seconds for cell in report.cells),
        **_embedded(report),
    )


def artifact(html: str) -> Report:
    """Return the report that a page was made from.

    Raises:
        ReportError: The page holds no report, or a damaged one.
    """
    found = re.search(r'type="application/json" id="artifact"( data-gzip)?>(.*?)</script>', html)
    packed, text = found.groups() if found else (None, "null")
    if packed:
        try:
            text = _unpacked(base64.b64decode(json.loads(text), validate=True))
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise ReportError(f"holds a damaged artifact ({foreign_error(error)})") from None
    return Report.from_json(text)


def _unpacked(data: bytes) -> bytes:
    """Unpack gzip data, up to the size that a file may have."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        text = file.read(LARGEST_FILE + 1)
    if len(text) > LARGEST_FILE:
        raise ReportError(f"holds more than {LARGEST_FILE // 2**20} MiB, which is the limit")
    return text


def _embedded(report: Report) -> dict[str, Any]:
    text = report.to_json()
    if len(text) <= VERBATIM:
        return {"artifact": report.to_data(), "compressed": False}
    # Without a time stamp, so that the same report gives the same page.
    packed = gzip.compress(text.encode("utf-8", "backslashreplace"), mtime=0)
    return {"artifact": base64.b64encode(packed).decode(), "compressed": True}


def _anchors(report: Report) -> dict[str, str]:
    """Return a readable and unique HTML id for each cell, which is the same in later reports."""
    taken: dict[str, int] = {}
    anchors = {}
    for cell in report.cells:
        slug = re.sub(r"[^\w.]+", "-", cell.id, flags=re.ASCII).strip("-")
        taken[slug] = taken.get(slug, 0) + 1
        anchors[cell.id] = slug if taken[slug] == 1 else f"{slug}--{taken[slug]}"
    return anchors


def _fitting(cells: Iterable[Cell]) -> list[Cell]:
    shown: list[Cell] = []
    room = ARTICLE_CHARACTERS
    for cell in cells:
        room -= sum(len(text) for text in _texts(cell) if text)
        if len(shown) == ARTICLES or (shown and room < 0):
            break
        shown.append(cell)
    return shown


def _texts(cell: Cell) -> list[str | None]:
    case = json.dumps(cell.case) if cell.case is not None else None
    texts = [cell.reason, cell.call, cell.got, cell.want, cell.budget, cell.repeat, case]
    texts += [other.told(with_call=True) for other in other_kinds(cell)]
    return [clip(text, _LONGEST) if text else None for text in texts]


def _sentences(report: Report) -> dict[str, dict[str, list[str]]]:
    """Return the sentences of each clause, by theme and clause; losses may have different ones."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in report.cells:
        found.setdefault((cell.theme, cell.clause), {})[cell.says] = None
    return {
        theme: {clause: list(found[theme, clause]) for clause in clauses}
        for theme, clauses in columns(report.cells).items()
    }


@dataclass
class LossSummary:
    """The cells of one loss, counted by verdict."""

    name: str
    anchor: str
    cells: list[Cell]
    counts: dict[Verdict, int]


def _by_loss(report: Report) -> list[LossSummary]:
    found: dict[str, list[Cell]] = {}
    for cell in report.cells:
        found.setdefault(cell.loss, []).append(cell)
    return [
        LossSummary(
            name,
            f"loss-{place}",
            cells,
            {v: n for v in Verdict if (n := sum(cell.verdict is v for cell in cells))},
        )
        for place, (name, cells) in enumerate(found.items(), 1)
    ]


@dataclass
class Axis:
    """A logarithmic axis for error ÷ budget, which always contains 1.

    Attributes:
        low: The exponent of 10 at its start.
        high: The exponent of 10 at its end.
        clipped: Whether a value lies outside the axis.
    """

    low: int
    high: int
    clipped: bool

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Axis":
        """Return an axis that contains the values, as far as they lie in 0.001 to 1000."""
        given = [value for value in values if value is not None]
        logs = [math.log10(value) for value in given if 0 < value < math.inf]
        low = max(-3, math.floor(min([*logs, -1])))
        high = min(3, math.ceil(max([*logs, 1])))
        return cls(low, high, clipped=any(not 10.0**low <= value <= 10.0**high for value in given))

    def place(self, value: float) -> float:
        """Return the place of a value, in per cent of the axis; NaN is placed at its end."""
        if math.isnan(value):
            value = math.inf
        exponent = math.log10(min(max(value, 10.0**self.low), 10.0**self.high))
        return round(3 + 94 * (exponent - self.low) / (self.high - self.low), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The place and the label of each decade."""
        decades = [10.0**exponent for exponent in range(self.low, self.high + 1)]
        return [(self.place(value), ratio(value)) for value in decades]


@dataclass
class Profile:
    """The worst cell of each clause of a loss.

    Attributes:
        loss: The name of the loss.
        anchor: The HTML id of the loss.
        dots: The place on the axis and the cell of each clause, in the order of their errors.
    """

    loss: str
    anchor: str
    dots: list[tuple[float, Cell]]

    @property
    def worst(self) -> Cell:
        """The cell with the largest error ÷ budget."""
        return self.dots[-1][1]


def _accuracy(report: Report, axis: Axis) -> list[Profile]:
    profiles = []
    for loss in _by_loss(report):
        worst: dict[tuple[str, str], Cell] = {}
        for cell in sorted(loss.cells, key=_badness):
            if cell.worst is not None:
                worst[cell.theme, cell.clause] = cell
        if worst:
            cells = sorted(worst.values(), key=_badness)
            dots = [(axis.place(c.worst), c) for c in cells if c.worst is not None]
            profiles.append(Profile(loss.name, loss.anchor, dots))
    return profiles


def _badness(cell: Cell) -> float:
    worst = -1.0 if cell.worst is None else cell.worst
    return math.inf if math.isnan(worst) else worst


def environment() -> Environment:
    """Return the Jinja environment, which escapes all texts and rejects undefined names."""
    made = Environment(
        loader=PackageLoader("lossspec.render", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=html_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_function"] = _json
    made.filters |= {
        "ratio": ratio,
        "clip": clip,
        "long": lambda text: clip(text, _LONGEST),
        "pretty": _pretty,
        "short": lambda verdict: "n/a" if verdict is Verdict.NOT_APPLICABLE else str(verdict),
        "tone": _TONES.__getitem__,
    }
    made.tests["web"] = _is_web
    # Only a path below the folder of the report may become a link.
    made.tests["below"] = lambda path: (
        re.fullmatch(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*", path or "", re.ASCII) is not None
    )
    made.globals["plural"] = plural
    functions = (seed_text, threads_text, oracle_text, other_kinds)
    made.globals |= {f.__name__: f for f in functions}
    made.filters["reasons"] = reasons
    return made


def _is_web(link: str | None) -> bool:
    """Tell whether a text is a printable link to a web page."""
    return link is not None and link.isprintable() and re.match(r"https?://", link) is not None


def _json(data: Any, **_: Any) -> str:
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return json_text(text)


def _pretty(data: Any) -> str:
    """Return JSON with one entry on each line; a list of numbers takes one line."""
    text = json_text(json.dumps(data, indent=2, ensure_ascii=False))
    return clip(re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text), _LONGEST)


# The CSS class of a verdict; colours are shared, since each verdict also has a sign and a word.
_TONES = {
    Verdict.CONFORMS: "pass",
    Verdict.DEVIATES: "fail",
    Verdict.CRASH: "fail",
    Verdict.NOT_RUN: "fail",
    Verdict.KNOWN: "warn",
    Verdict.INCONCLUSIVE: "warn",
    Verdict.UNSUPPORTED: "none",
    Verdict.NOT_APPLICABLE: "none",
}


def _urgency(verdict: Verdict) -> int:
    return ("pass", "fail", "warn", "none").index(_TONES[verdict])


_ENVIRONMENT = environment()
