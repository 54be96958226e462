"""Parts that the renderings share: the matrix, its order, and texts for numbers and reasons."""

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
    "batch",
    "size",
    "layout",
    "effect",
    "overlap",
    "process",
    "mode",
    "module",
    "refusal",
    "resource",
    "training",
)


@dataclass
class Row:
    """A row of the matrix: the cells of a loss on one surface and device.

    Attributes:
        loss: The name of the loss.
        surface: "function" or "class".
        device: The device.
        cells: The cells, by theme and clause.
    """

    loss: str
    surface: str
    device: str
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)


def columns(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """Return the clauses of each theme, in the order of `THEMES`; unknown themes come last."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        found.setdefault(cell.theme, set()).add(cell.clause)
    known = {theme: place for place, theme in enumerate(THEMES)}
    order = sorted(found, key=lambda theme: (known.get(theme, len(known)), theme))
    return {theme: sorted(found[theme]) for theme in order}


def rows(report: Report) -> list[Row]:
    """Return the rows of the matrix, in the order of the artifact, without absent losses."""
    found: dict[tuple[str, str, str], Row] = {}
    for cell in report.present:
        key = (cell.loss, cell.surface, cell.device)
        found.setdefault(key, Row(*key)).cells[cell.theme, cell.clause] = cell
    return [found[key] for key in sorted(found)]


def ratio(value: float | None) -> str:
    """Return an error ÷ budget with three digits at most; "-" for None."""
    if value is None:
        return "-"
    if not math.isfinite(value) or 0.001 <= abs(value) < 10_000 or value == 0:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def plural(count: int, word: str, words: str = "") -> str:
    """Return such as "1 case" or "2 cases".

    Args:
        count: The number.
        word: The word in the singular.
        words: The word in the plural, if it is not the singular with an s.
    """
    return f"{count} {word if count == 1 else words or f'{word}s'}"


@dataclass(frozen=True)
class Unjudged:
    """The cells that were not judged for one reason.

    Attributes:
        verdict: Their verdict.
        reason: The reason.
        cells: The cells.
    """

    verdict: Verdict
    reason: str
    cells: tuple[Cell, ...]

    @property
    def count(self) -> int:
        """The number of cells."""
        return len(self.cells)

    @property
    def where(self) -> str:
        """The clauses of each loss, such as "huber_loss (value, gradient); l1_loss (value)"."""
        found: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            found.setdefault(cell.loss, {})[cell.clause] = None
        return "; ".join(f"{loss} ({', '.join(names)})" for loss, names in found.items())


def unjudged(report: Report) -> list[Unjudged]:
    """Return the reasons why cells of present losses were not judged.

    Inconclusive cells come first, and then the reasons with the most cells. Reasons that differ
    only in numbers are grouped under the first of them.
    """
    found: dict[tuple[Verdict, str], list[Cell]] = {}
    for cell in report.present:
        if cell.verdict in (Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED):
            reason = re.sub(r"\d+", "0", cell.reason or "")
            found.setdefault((cell.verdict, reason), []).append(cell)
    groups = []
    for (verdict, _), cells in found.items():
        reasons = dict.fromkeys(cell.reason or "no reason was given" for cell in cells)
        reason = next(iter(reasons)) + (" (numbers vary by cell)" if len(reasons) > 1 else "")
        groups.append(Unjudged(verdict, reason, tuple(cells)))
    return sorted(groups, key=lambda group: (group.verdict, -len(group.cells)))


def judged(report: Report) -> str:
    """Return implementation and torch, as "mylib 1.0, torch 2.13.0" or "torch.nn 2.13.0"."""
    implementation, own = report.implementation, report.environment.torch
    if implementation.version == own:  # torch itself
        return f"{implementation.name} {own}"
    return f"{implementation.name} {implementation.version or ''}".rstrip() + f", torch {own}"


def seed_text(seed: int | None) -> str:
    """Return the seed, or "unknown"."""
    return UNKNOWN if seed is None else str(seed)


def threads_text(environment: Environment) -> str:
    """Return the number of threads, such as "1 thread"."""
    return plural(environment.threads, "thread") if environment.threads else "unknown threads"


def oracle_text(environment: Environment) -> str:
    """Return the arithmetic of the oracle, such as "longdouble with a mantissa of 64 bits"."""
    oracle = environment.oracle
    bits = f" with a mantissa of {oracle.mantissa_bits} bits" if oracle.mantissa_bits else ""
    return f"{oracle.dtype}{bits}"


def nothing(report: Report) -> str:
    """Return the sentence for a report without cells."""
    if report.selection.shard is not None:
        return f"Shard {report.selection.shard} of this run has no cell; other shards have."
    return "No clause was run, so the run fails."
