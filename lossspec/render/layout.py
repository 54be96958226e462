"""What every rendering shares: the matrix of a report, its order, numbers and reasons."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lossspec.report.records import UNKNOWN, Cell, Environment, Report
from lossspec.report.verdict import Verdict

THEMES = (
    "shape",
    "value",
    "reduction",
    "gradient",
    "dtype",
    "device",
    "relation",
    "effect",
    "mode",
    "module",
    "refusal",
    "resource",
    "training",
)


@dataclass
class Row:
    """One line of the matrix: the cells of a loss on one surface and device, by column."""

    loss: str
    surface: str
    device: str
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)


def columns(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """The clauses of each theme; themes in the order of the contract, unknown ones last."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        found.setdefault(cell.theme, set()).add(cell.clause)
    known = {theme: place for place, theme in enumerate(THEMES)}
    order = sorted(found, key=lambda theme: (known.get(theme, len(known)), theme))
    return {theme: sorted(found[theme]) for theme in order}


def rows(report: Report) -> list[Row]:
    """The lines of the matrix, in the order of the artifact, without absent losses."""
    found: dict[tuple[str, str, str], Row] = {}
    for cell in report.present:
        key = (cell.loss, cell.surface, cell.device)
        found.setdefault(key, Row(*key)).cells[cell.theme, cell.clause] = cell
    return [found[key] for key in sorted(found)]


def ratio(value: float | None) -> str:
    """An error ÷ budget as readers want it: three digits, short exponents, "-" for none."""
    if value is None:
        return "-"
    if not math.isfinite(value) or 0.001 <= abs(value) < 10_000 or value == 0:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def plural(count: int, word: str, words: str = "") -> str:
    """Such as "1 case" and "2 cases"; `words` where the plural takes more than an s."""
    return f"{count} {word if count == 1 else words or f'{word}s'}"


@dataclass(frozen=True)
class Unjudged:
    """Cells that were not judged for one reason."""

    verdict: Verdict
    reason: str
    cells: tuple[Cell, ...]

    @property
    def count(self) -> int:
        """The number of cells."""
        return len(self.cells)

    @property
    def where(self) -> str:
        """The clauses by loss, such as "huber_loss (value, gradient); l1_loss (value)"."""
        found: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            found.setdefault(cell.loss, {})[cell.clause] = None
        return "; ".join(f"{loss} ({', '.join(names)})" for loss, names in found.items())


def unjudged(report: Report) -> list[Unjudged]:
    """Why cells of present losses were not judged: inconclusive first, then by number of cells.

    Reasons that differ in numbers only are one; the first one stands for them.
    """
    found: dict[tuple[Verdict, str], list[Cell]] = {}
    for cell in report.present:
        if cell.verdict in (Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED):
            reason = re.sub(r"\d+", "0", cell.reason or "")
            found.setdefault((cell.verdict, reason), []).append(cell)
    groups = []
    for (verdict, _), cells in found.items():
        reasons = dict.fromkeys(cell.reason or "no reason was given" for cell in cells)
        reason = next(iter(reasons)) + (" (other numbers elsewhere)" if len(reasons) > 1 else "")
        groups.append(Unjudged(verdict, reason, tuple(cells)))
    return sorted(groups, key=lambda group: (group.verdict, -len(group.cells)))


def judged(report: Report) -> str:
    """Return what was judged with which torch: "mylib 1.0, torch 2.13.0" or "torch.nn 2.13.0"."""
    implementation, own = report.implementation, report.environment.torch
    if implementation.version == own:  # torch itself
        return f"{implementation.name} {own}"
    return f"{implementation.name} {implementation.version or ''}".rstrip() + f", torch {own}"


def seed_text(seed: int | None) -> str:
    """Return the seed, or that it is unknown."""
    return UNKNOWN if seed is None else str(seed)


def threads_text(environment: Environment) -> str:
    """Return how many threads there were, such as "1 thread"."""
    return plural(environment.threads, "thread") if environment.threads else "unknown threads"


def oracle_text(environment: Environment) -> str:
    """Return the arithmetic of the right answers, such as "longdouble with a mantissa of ..."."""
    oracle = environment.oracle
    bits = f" with a mantissa of {oracle.mantissa_bits} bits" if oracle.mantissa_bits else ""
    return f"{oracle.dtype}{bits}"


def nothing(report: Report) -> str:
    """What to say of a report without a cell."""
    if report.selection.shard is not None:
        return f"Part {report.selection.shard} of this run holds no cell; other parts do."
    return "No clause was run, which is an error in itself."
