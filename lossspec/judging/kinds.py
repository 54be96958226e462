"""The kind of a deviation: the broken property, and the traits of the call that showed it."""

from __future__ import annotations

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: The features that distinguish kinds of deviations. Sizes, ties and magnitudes do not belong to
#: them, because shrinking changes them. A shrunk case of zeros, for example, always has ties.
STRUCTURE = frozenset(
    (
        *("no batch", "k-d", "empty", "non-finite", "zero cotangent in front"),
        *("all ignored", "some ignored", "leading ignored"),
    )
)
#: The differences between a call and the simplest call of the loss, each with its sort and name.
Traits = frozenset[tuple[str, str]]
#: The broken property in words, and the traits of the call.
Kind = tuple[str, Traits]


def kind_of(solved: SolvedCase, deviation: Deviation) -> Kind:
    """Return the kind of a deviation that a case showed."""
    return deviation.kind, traits(solved.loss, solved.case)


def traits(loss: Loss, case: Case) -> Traits:
    """Return the differences between a case and the simplest call of the loss."""
    form = loss.form(case.form)
    known = loss.parameters_of(form)
    found = {("has", word) for word in STRUCTURE & features(case, loss)}
    found |= {("laid out", name) for name in case.layouts}
    found |= {("given", name) for name in case.tensors if name in loss.options}
    found |= {
        ("parameter", name)
        for name, parameter in known.items()
        if case.parameters[name] != parameter.default
    }
    if case.reduction != loss.reductions[-1]:
        found.add(("reduction", case.reduction))
    if case.dtype != "float32":
        found.add(("dtype", case.dtype))
    if form is not loss.forms[0]:
        found.add(("form", case.form))
    return frozenset(found)


def explains(shown: Kind, kind: Kind) -> bool:
    """Return whether a deviation is of the same kind as a shrunk one.

    It is if the same property is broken, and its call has all traits of the shrunk call.

    Args:
        shown: The kind of the shrunk deviation.
        kind: The kind of the other deviation.
    """
    return shown[0] == kind[0] and shown[1] <= kind[1]
