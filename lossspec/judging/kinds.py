"""Kinds of deviations: what broke, and what the call needs for it to break."""

from __future__ import annotations

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: Features that tell kinds of deviations apart. Sizes, ties and magnitudes do not: they change
#: while a case is shrunk, and a simplest case of zeros has ties that its deviation does not need.
STRUCTURE = frozenset(
    (
        *("no batch", "k-d", "empty", "non-finite", "zero cotangent in front"),
        *("all ignored", "some ignored", "leading ignored"),
    )
)
#: What a call has that the plainest one has not.
Traits = frozenset[tuple[str, str]]
Kind = tuple[str, Traits]


def kind_of(solved: SolvedCase, deviation: Deviation) -> Kind:
    """What broke, and the traits of the call that showed it."""
    return deviation.kind, traits(solved.loss, solved.case)


def traits(loss: Loss, case: Case) -> Traits:
    """What a call has that the plainest one has not: options, parameters, dtype, shape."""
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
    """Whether a deviation is of the kind that a simplest case has shown.

    It is one if the same broke, in a call with everything that the simplest case still needs.
    """
    return shown[0] == kind[0] and shown[1] <= kind[1]
