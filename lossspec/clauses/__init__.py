"""The contract: one function for each clause, its docstring the sentence that the report prints."""

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
    "present_id",
    "returned",
    "stateless",
]

ENTRY_POINTS = "lossspec.clauses"
#: True when the case could have told right from wrong, False when not. None, which clauses of this
#: package do not return, says that the case is not about the clause.
Judgement = bool | None
Place = Literal["processor", "accelerator"]


@dataclass(frozen=True)
class Clause:
    """One checkable sentence of the contract.

    judge : raises `Deviation` when a trial breaks it. applies : whether the spec
    gives it anything to say, for a loss on a surface. only_on : the one kind of device that it is
    about. enough : after this many informative trials it has nothing left to learn; None for never.
    slow : left out of the quick profile. empty : whether it also judges calls on empty tensors.
    once : it is about the loss and not the case that it is handed: one trial is enough, and no
    simpler case shows more. needs : a package without which it cannot be judged. chosen : it costs
    too much to judge the cases of the stream: it is judged on the costly cases, which show every
    option, on so many at least, and a failing one is shrunk by its options alone.
    hazard : its calls must raise, and where they do not they may damage the process. It is judged
    on small calls that work, after all clauses with less of it. aliases : ids that it had before,
    which are still understood wherever one is given. requires : the preconditions of a case, the
    first of which that does not hold is what the case counts under.
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
        """Why it cannot be judged here, if it cannot."""
        if self.needs is None or find_spec(self.needs) is not None:
            return None
        return f"{self.name} needs the package {self.needs}, which is not installed"

    def speaks_on(self, device: str) -> bool:
        """Whether it has anything to say of a device."""
        return self.only_on in (None, "accelerator" if accelerates(device) else "processor")


def stateless(loss: Loss, surface: Surface) -> bool:
    """Whether the loss owns no parameters there, so that a call is all in its arguments."""
    return not loss.stateful(surface)


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
    """Make a clause of a function: its name is the id, its docstring the sentence."""

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
    """Every clause by id: those of the themes' files in their order, then entry points.

    ClauseError says which clauses have one name, as id or as alias.
    """
    found: dict[str, Clause] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        _add(found, _marked(loaded))
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            brought = _brought(entry)
        except (Exception, SystemExit) as error:  # what somebody else installed stops nobody
            warn_of_left_out("clause", entry, error)
        else:
            _add(found, brought)
    return found


def present_id(given: str) -> str:
    """The id of a clause in place of a former one, for which it warns; other text as it is.

    given : an id, which may stand behind the name of a loss and a slash.
    """
    prefix, slash, name = given.rpartition("/")
    known = clauses()
    if name in known:
        return given
    for clause in known.values():
        if name in clause.aliases:
            warnings.warn(
                f"the clause {name!r} is now called {clause.name!r}",
                FutureWarning,  # shown to who runs the command; DeprecationWarning is not
                stacklevel=3,
            )
            return f"{prefix}{slash}{clause.name}"
    return given


def _marked(module: ModuleType) -> list[Clause]:
    """The clauses that a module defines, in the order of their functions."""
    functions = [thing for thing in vars(module).values() if isinstance(thing, FunctionType)]
    marks = [getattr(f, "clause", None) for f in functions if f.__module__ == module.__name__]
    return [mark for mark in marks if isinstance(mark, Clause)]


def _brought(entry: EntryPoint) -> list[Clause]:
    """The clauses of an entry point, which is a module of marked functions or one of those."""
    given = entry.load()
    mark = getattr(given, "clause", None)
    alone = [mark] if isinstance(mark, Clause) else []
    marks = _marked(given) if isinstance(given, ModuleType) else alone
    if not marks:
        raise TypeError(
            f"group {ENTRY_POINTS!r} must give a function marked with @lossspec.clause, or a "
            f"module that defines some, got {given!r}"
        )
    for mark in marks:
        if not mark.says:
            raise TypeError(f"clause {mark.name!r} needs a docstring, the sentence of the report")
    return marks


def _add(found: dict[str, Clause], marks: Iterable[Clause]) -> None:
    """Add clauses to those that are known; ClauseError where two have one name."""
    taken = {name: clause for clause in found.values() for name in (clause.name, *clause.aliases)}
    for mark in marks:
        if not mark.says:
            raise ClauseError(f"clause {mark.name!r} needs a docstring, the sentence of the report")
        for name in (mark.name, *mark.aliases):
            other = taken.get(name)
            if other is not None and other.judge is not mark.judge:
                places = " and ".join(sorted({_place(mark), _place(other)}))
                raise ClauseError(f"two clauses are called {name!r}: {places}")
            taken[name] = mark
        found[mark.name] = mark


def _place(clause: Clause) -> str:
    return f"{clause.judge.__module__}.{clause.judge.__name__}"
