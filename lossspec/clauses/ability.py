"""The answer of a clause to a call that shows that an ability is not there."""

from __future__ import annotations

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.execution.declaration import Ability
from lossspec.execution.outcome import legible
from lossspec.safe_text import foreign_error


def lacking(
    trial: Trial,
    ability: Ability,
    why: str,
    what: str = "",
    got: str = "",
    *,
    case: Case | None = None,
    error: tuple[str, str] | None = None,
) -> Deviation | Unsupported:
    """Return what a clause raises when the implementation turns out to lack an ability.

    A declared ability that is not there is a deviation. Anything else is unsupported, and the
    report says whether that was declared or inferred.

    why : a sentence for the report, such as "it takes no complex numbers". what, got : what broke
    and what came, where the ability is declared. case : the call that shows it, where that is not
    the trial's own. error : the type and the text of the error that showed it.
    """
    if trial.under_test.declares(ability):
        check = None if case is None else "error is None"
        want = f"it works: {ability} is declared"
        return Deviation(what or why, got or why, want, check=check, case=case, raised=error)
    source = "declared" if ability in trial.under_test.abilities else "inferred"
    return Unsupported(f"{source}: {why}")


def raised(
    trial: Trial,
    ability: Ability,
    error: BaseException,
    way: str,
    lack: str = "",
    *,
    case: Case | None = None,
) -> Deviation | Unsupported:
    """Return what a clause raises when a call in another way raised an error.

    way : such as "torch.vmap". lack : a sentence in place of "it does not work with torch.vmap".
    """
    error = legible(error)
    why = f"{lack or f'it does not work with {way}'} ({foreign_error(error)})"
    kind, text = type(error).__name__, str(error)[:200]
    what, got = f"{way} raised", f"{kind}: {text}"
    return lacking(trial, ability, why, what, got, case=case, error=(kind, text))
