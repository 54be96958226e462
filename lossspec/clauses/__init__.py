"""Clauses: one function for each, whose docstring is the sentence that reports print."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import FunctionType, ModuleType
from typing import Literal

from lossspec.clauses.precondition import SMALL, Precondition
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported, failed, returned
from lossspec.errors import ClauseError, warn_of_left_out
from lossspec.execution.devices import accelerates
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

__all__ = [
    "SMALL",
    "Clause",
    "Deviation",
    "Judgement",
    "NotJudged",
    "Precondition",
    "Trial",
    "Unsupported",
    "clause",
    "clauses",
    "failed",
    "independent",
    "of_elements",
    "present_id",
    "returned",
    "stateless",
]

ENTRY_POINTS = "lossspec.clauses"
#: True if the case could have shown a wrong result, False if not. A clause of another package may
#: return None for a case that it does not judge. Clauses of this package have preconditions.
Judgement = bool | None
Place = Literal["processor", "accelerator"]


@dataclass(frozen=True)
class Clause:
    """One property of a loss that the suite checks.

    Attributes:
        name: Its id, such as "batch-split".
        theme: The file in which it is defined, such as "relation".
        says: The sentence that reports print.
        judge: Judges a trial, and raises `Deviation` if the property does not hold.
        applies: Whether the clause applies to a loss on a surface.
        only_on: The only kind of device on which it is judged; None for any device.
        enough: The number of informative trials after which it is not judged any more; None for
            no limit.
        slow: Whether the quick profile leaves it out.
        empty: Whether it also judges calls on empty tensors.
        once: Whether it depends on the loss only and not on the case. One trial is then enough,
            and a deviation is not shrunk.
        needs: A package that it needs; None if it needs none.
        chosen: If above 0, the clause is too slow for the cases of the stream. It is judged on
            at least this many costly cases, which cover every option, and only the options of a
            failing case are shrunk.
        hazard: If above 0, its calls must raise, and may damage the process if they do not. They
            are made from small calls that work, after all clauses with a lower hazard.
        aliases: Former ids, which are still accepted.
        requires: The preconditions of a case. A case is skipped for the first that does not hold.
    """

    name: str
    theme: str
    says: str
    judge: Callable[[Trial], Judgement]
    applies: Callable[[Loss, Surface], bool]
    only_on: Place | None = None
    enough: int | None = None
    slow: bool = False
    empty: bool = False
    once: bool = False
    needs: str | None = None
    chosen: int = 0
    hazard: int = 0
    aliases: tuple[str, ...] = ()
    requires: tuple[Precondition, ...] = ()

    def unmet(self, trial: Trial) -> Precondition | None:
        """Return the first precondition that a trial does not meet, if any."""
        return next((each for each in self.requires if not each.holds(trial)), None)

    @property
    def lacks(self) -> str | None:
        """The reason why it cannot be judged here; None if it can."""
        if self.needs is None or find_spec(self.needs) is not None:
            return None
        return f"{self.name} needs the package {self.needs}, which is not installed"

    def speaks_on(self, device: str) -> bool:
        """Return whether the clause is judged on a device."""
        return self.only_on in (None, "accelerator" if accelerates(device) else "processor")


def stateless(loss: Loss, surface: Surface) -> bool:
    """Return whether the loss has no trainable parameters on a surface."""
    return not loss.stateful(surface)


def of_elements(loss: Loss, surface: Surface) -> bool:
    """Return whether some unreduced result has an axis, so that it may be empty."""
    return any(contract.result for form in loss.forms for contract in form.contracts)


def independent(loss: Loss, surface: Surface) -> bool:
    """Return whether the loss of each row depends on that row only."""
    return loss.rows == "independent"


def clause(
    applies: Callable[[Loss, Surface], bool] = lambda loss, surface: True,
    only_on: Place | None = None,
    enough: int | None = None,
    slow: bool = False,
    empty: bool = False,
    once: bool = False,
    needs: str | None = None,
    chosen: int = 0,
    hazard: int = 0,
    aliases: Sequence[str] = (),
    requires: Sequence[Precondition] = (),
) -> Callable[[Callable[[Trial], Judgement]], Callable[[Trial], Judgement]]:
    """Make a clause of a function, with its name as the id and its docstring as the sentence.

    `Clause` describes the options in full.

    Args:
        applies: Whether the clause applies to a loss on a surface.
        only_on: The only kind of device on which it is judged; None for any device.
        enough: The number of informative trials after which it is not judged any more.
        slow: Whether the quick profile leaves it out.
        empty: Whether it also judges calls on empty tensors.
        once: Whether it depends on the loss only, so that one trial is enough.
        needs: A package that it needs.
        chosen: The number of costly cases on which it is judged instead of the stream.
        hazard: How much harm its invalid calls may do to the process; 0 for none.
        aliases: Former ids, which are still accepted.
        requires: The preconditions of a case.

    Returns:
        A decorator that marks a function as a clause and returns the function.
    """

    def register(judge: Callable[[Trial], Judgement]) -> Callable[[Trial], Judgement]:
        judge.clause = Clause(  # type: ignore[attr-defined]  # a mark, as pytest's own are
            name=judge.__name__.replace("_", "-"),
            theme=judge.__module__.rpartition(".")[2],
            says=" ".join((judge.__doc__ or "").split()),
            judge=judge,
            applies=applies,
            only_on=only_on,
            enough=enough,
            slow=slow,
            empty=empty,
            once=once,
            needs=needs,
            chosen=chosen,
            hazard=hazard,
            aliases=(aliases,) if isinstance(aliases, str) else tuple(aliases),
            requires=tuple(requires),
        )
        return judge

    return register


@cache
def clauses() -> Mapping[str, Clause]:
    """Return every clause by id: those of this package by theme, then those of entry points.

    Raises:
        ClauseError: Two clauses share an id or alias, or a clause has no docstring.
    """
    found: dict[str, Clause] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        _add(found, _marked(loaded))
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            brought = _brought(entry)
        except (Exception, SystemExit) as error:  # a faulty plugin must not end the run
            warn_of_left_out("clause", entry, error)
        else:
            _add(found, brought)
    return found


def present_id(given: str) -> str:
    """Replace a former id of a clause by the present one, with a warning.

    Args:
        given: An id, with or without the name of a loss and a slash before it.

    Returns:
        The present id with the same prefix. Text that is no former id is returned unchanged.
    """
    prefix, slash, name = given.rpartition("/")
    known = clauses()
    if name in known:
        return given
    for clause in known.values():
        if name in clause.aliases:
            warnings.warn(
                f"the clause {name!r} is now called {clause.name!r}",
                FutureWarning,  # Python hides DeprecationWarning from users of the command
                stacklevel=3,
            )
            return f"{prefix}{slash}{clause.name}"
    return given


def _marked(module: ModuleType) -> list[Clause]:
    """Return the clauses that a module defines, in the order of their functions."""
    functions = [thing for thing in vars(module).values() if isinstance(thing, FunctionType)]
    marks = [getattr(f, "clause", None) for f in functions if f.__module__ == module.__name__]
    return [mark for mark in marks if isinstance(mark, Clause)]


def _brought(entry: EntryPoint) -> list[Clause]:
    """Return the clauses of an entry point: a marked function, or a module that defines some."""
    given = entry.load()
    mark = getattr(given, "clause", None)
    alone = [mark] if isinstance(mark, Clause) else []
    marks = _marked(given) if isinstance(given, ModuleType) else alone
    if not marks:
        raise TypeError(
            f"an entry point of {ENTRY_POINTS!r} must give a function marked with "
            f"@lossspec.clause, or a module that defines some, got {given!r}"
        )
    for mark in marks:
        if not mark.says:
            raise TypeError(f"clause {mark.name!r} needs a docstring, which reports print")
    return marks


def _add(found: dict[str, Clause], marks: Iterable[Clause]) -> None:
    """Add clauses by id; raise ClauseError if two share an id or alias."""
    taken = {name: clause for clause in found.values() for name in (clause.name, *clause.aliases)}
    for mark in marks:
        if not mark.says:
            raise ClauseError(f"clause {mark.name!r} needs a docstring, which reports print")
        for name in (mark.name, *mark.aliases):
            other = taken.get(name)
            if other is not None and other.judge is not mark.judge:
                places = " and ".join(sorted({_place(mark), _place(other)}))
                raise ClauseError(f"two clauses are called {name!r}: {places}; rename one of them")
            taken[name] = mark
        found[mark.name] = mark


def _place(clause: Clause) -> str:
    return f"{clause.judge.__module__}.{clause.judge.__name__}"
