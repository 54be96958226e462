"""Kinds of deviations: what broke, and what the call needs for it to break."""

from __future__ import annotations

import re

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: Features that say how large a case is, which no kind of deviation is about.
_SIZES = re.compile(r"\d+-d|square|many rows")

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
    words = features(case, loss)
    found = {("has", word) for word in words if not _SIZES.fullmatch(word)}
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
