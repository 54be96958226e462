"""The exceptions that clauses raise if an implementation lacks an ability."""

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
    """Return the exception that a clause raises if the implementation lacks an ability.

    Args:
        trial: The trial that shows the lack.
        ability: The ability.
        why: A sentence for the report, such as "it takes no complex numbers".
        what: The deviating quantity, if the ability is declared; `why` if empty.
        got: The result, if the ability is declared; `why` if empty.
        case: The case whose call shows the lack; None for that of the trial.
        error: The type name and the text of the error that shows the lack.

    Returns:
        `Deviation` if the ability is declared, else `Unsupported`, which tells whether the lack
        was declared or inferred.
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
    """Return the exception that a clause raises if a variant of a call raised an error.

    Args:
        trial: The trial that shows the error.
        ability: The ability that the variant needs.
        error: The error that the variant raised.
        way: The variant, such as "torch.vmap".
        lack: A sentence for the report; "it does not work with" and `way` if empty.
        case: The case whose call raised; None for that of the trial.

    Returns:
        `Deviation` if the ability is declared, else `Unsupported`.
    """
    error = legible(error)
    why = f"{lack or f'it does not work with {way}'} ({foreign_error(error)})"
    kind, text = type(error).__name__, str(error)[:200]
    what, got = f"{way} raised", f"{kind}: {text}"
    return lacking(trial, ability, why, what, got, case=case, error=(kind, text))
