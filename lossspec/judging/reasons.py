"""The reasons why a clause was not judged, as a report prints them.

Errors of an implementation are quoted with `lossspec.safe_text.foreign_error`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.support import Feature, Support

#: The clauses that judge the call of a case itself. The first that deviates explains the failure.
PLAIN_CALL = ("accepts", "result-shape", "result-dtype", "value", "gradient")


def lacking(under_test: LossUnderTest, support: Support) -> list[str]:
    """Return a phrase for each feature that the implementation lacks.

    Args:
        under_test: The implementation of the loss.
        support: The features that it supports, as its calls show.
    """
    forms = {form.name for form in under_test.loss.forms}
    phrases = []
    if taken := _not_taken(under_test, sorted(support.unsupported - forms)):
        phrases.append(taken)
    phrases += [f"no call with {form} works" for form in sorted(support.unsupported & forms)]
    phrases += _not_implemented(support)
    return phrases + _not_working(support.refused)


def call_fails(clause_records: Mapping[str, ClauseRecord]) -> str:
    """Return the reason for a clause that was not judged because the call itself is wrong.

    Args:
        clause_records: The records of all clauses of the campaign.
    """
    for name in PLAIN_CALL:
        clause_record = clause_records.get(name)
        found = clause_record and (clause_record.found or next(iter(clause_record.findings), None))
        if found:
            what = found.deviation.what.partition(" at [")[0]
            return f"no applicable case: the call itself fails, see clause {name} ({what})"
    return f"no applicable case: the call itself fails; judge clause {PLAIN_CALL[0]} too"


def _not_taken(under_test: LossUnderTest, names: Collection[str]) -> str:
    """Return a phrase such as "it takes no weight or reduction (for 'none' and 'sum')"."""
    reductions = [name.partition("=")[2] for name in names if name.startswith("reduction=")]
    words = [name for name in names if not name.startswith("reduction=")]
    if reductions:
        words.append(f"reduction (for {_joined(reductions, 'and')})")
    if not words:
        return ""
    return f"it takes no {_joined(words, 'or')}{_misspelt(under_test, names)}"


def _misspelt(under_test: LossUnderTest, names: Iterable[str]) -> str:
    """Return a phrase with arguments of the implementation that may be misspelt names."""
    loss = under_test.loss
    known = {*loss.options, *loss.parameters, "reduction"}
    known |= {name for form in loss.forms for name in form.tensors}
    words = sorted({word.partition("=")[0] for word in names})
    stray = sorted((under_test.keywords or frozenset()) - known)
    near = [name for word in words for name in get_close_matches(word, stray, 1, 0.8)]
    return f"; it takes {', '.join(near)}, which the loss does not have" if near else ""


def _not_implemented(support: Support) -> list[str]:
    """Return phrases such as "not implemented for float16 (NotImplementedError: “...”)"."""
    kinds: dict[str, list[str]] = {}
    for error in support.unimplemented:
        kinds.setdefault(error.partition(":")[0], []).append(error)
    phrases = []
    for errors in kinds.values():
        calls = set().union(*(support.unimplemented[error] for error in errors))
        where = _written(calls - support.worked)
        if not support.worked:
            where = "for any call"
        phrases.append(f"not implemented {where or 'in some calls'} ({errors[0]})")
    return phrases


def _written(features: Iterable[Feature]) -> str:
    words = []
    for kind, value in sorted(features):
        if kind == "reduction":
            words.append(f"reduction={value!r}")
        elif value:
            words.append(value)
    return f"for {', '.join(words)}" if words else ""


def _not_working(refused: Mapping[str, str]) -> list[str]:
    """Return phrases such as "float16 and float64 do not work (TypeError: “...”)"."""
    kinds: dict[str, list[str]] = {}
    for dtype, error in refused.items():
        if not error.startswith("NotImplementedError"):  # `_not_implemented` reports these
            kinds.setdefault(error.partition(":")[0], []).append(dtype)
    return [
        f"{_joined(sorted(dtypes), 'and')} {'does' if len(dtypes) == 1 else 'do'} not work "
        f"({refused[min(dtypes)]})"
        for dtypes in kinds.values()
    ]


def _joined(words: Collection[str], word: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {word} {last}" if first else last
