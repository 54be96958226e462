"""The cause of a deviation: one sentence, which is equal for deviations that have one cause.

A sentence about one loss begins with its name. A raised error and a lack of precision in a dtype
may be shared by several losses. None stands for a deviation whose cause is not clear; it is shown
on its own, so that no cause hides a deviation of another kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation
from lossspec.judging.kinds import traits
from lossspec.spec.loss import Loss

#: Significant bits of a number in each dtype, the widest first.
_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
#: A number with at most this share of the significant bits of a dtype, such as 0.5, does not show
#: that it was computed in the dtype: many numbers of a wider dtype are as simple.
_SIMPLE = 0.5
#: Error ÷ number, at most, that a computation in a narrower dtype explains, the narrowest first.
_NARROW_ERROR = {"bfloat16": 2.0**-5, "float16": 2.0**-8, "float32": 2.0**-12}
#: Uncertainty of a factor, at most, and its distance from 1, at least, for two to be compared.
_FACTOR_KNOWN, _FACTOR_AWAY = 2e-4, 5e-3
#: Whole factors up to this one, and their reciprocals, which two unlike bugs may well share.
_LARGEST_WHOLE = 1000
#: Numbers, shapes and addresses in the message of an error, and printed tensors.
_FIGURES = re.compile(
    r"tensor\([^()]*\)|[\[(][-+\d.,\s einfa]*\d[-+\d.,\s einfa]*[\])]"
    r"|\b0x[0-9a-f]+\b|[-+]?\b\d+(\.\d*)?(e[-+]?\d+)?\b"
)
_LONGEST = 200
#: Features that say how large a case is, which no cause is about.
_SIZES = re.compile(r"\d+-d|square|many rows")


def cause_of(loss: Loss, case: Case, deviation: Deviation, first: str | None = None) -> str | None:
    """Return the cause of a deviation that a case of a loss shows; None if it is not clear.

    first : the cause of the first deviation of the same clause.
    """
    case = deviation.case or case
    if deviation.raised is not None:
        return _raised(*deviation.raised)
    if deviation.missing:
        return f"{loss.name}: the gradient of {deviation.gradient_of} is missing"
    narrow = _narrow_dtype(case, deviation)
    if narrow is not None:
        return narrow
    if deviation.numbers is None or deviation.budget is None:
        return None  # not a value or a gradient, or not one that rounding could explain
    got, want = deviation.numbers
    if math.isnan(want) or math.isinf(want):
        return None
    if not math.isfinite(got):
        return _not_finite(loss, case, deviation, got)
    return _precision(case.dtype, got, want, first) or _factor(loss, case, deviation)


def _raised(kind: str, message: str) -> str | None:
    """The error without what differs from call to call; None if it says nothing but its type."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return None
    text = " ".join(lines) if lines[0].endswith(":") else lines[0]
    # Where a shape has one axis more, its text has one number more.
    text = re.sub(r"…(\s*[,x×]\s*…)+", "…", _FIGURES.sub("…", text[:_LONGEST]))
    return f"raises {kind}: {text}"


def _narrow_dtype(case: Case, deviation: Deviation) -> str | None:
    """A result in another dtype than the call's."""
    got, want = deviation.got, deviation.want
    if got not in _BITS or want != case.dtype or want not in _BITS:
        return None
    if _BITS[got] < _BITS[want]:
        return _as_if(want, got)
    return f"{want}: the result is in {got}"


def _as_if(dtype: str, narrow: str) -> str:
    return f"{dtype}: as if computed in {narrow}"


def _precision(dtype: str, got: float, want: float, first: str | None) -> str | None:
    """A number that lies near the right one, and is one of a narrower dtype.

    Where the clause is known to be computed in it, a simple number needs no other cause.
    """
    for narrow, limit in _NARROW_ERROR.items():
        width, bits = _BITS[narrow], _significant_bits(got)
        if width >= _BITS.get(dtype, 0) or bits > width or abs(got - want) > limit * abs(want):
            continue
        cause = _as_if(dtype, narrow)
        # The right number 100 and the wrong one 101 are both simple, whatever is wrong.
        telling = bits > _SIMPLE * width and (width > 11 or _significant_bits(want) > width)
        rounded = abs(got - want) <= 2.0**-width * abs(want)
        if telling or (rounded and first == cause):
            return cause
    return None


def _significant_bits(number: float) -> int:
    """How many bits there are from the first to the last that is set."""
    whole = int(math.frexp(abs(number))[0] * 2**53)
    return whole.bit_length() - (whole & -whole).bit_length() + 1 if whole else 0


def _not_finite(loss: Loss, case: Case, deviation: Deviation, got: float) -> str:
    """A number that is infinite or nan where the definition is finite."""
    word = "nan" if math.isnan(got) else "infinite"
    gradient = deviation.gradient_of is not None or deviation.backward
    if not gradient and case.reduction == "mean" and math.isinf(got):
        # After shrinking, a call has a mean only if the deviation needs one.
        given = {trait for trait in traits(loss, case) if trait[0] == "given"}
        told = f"{case.dtype}: the mean is infinite where the definition is finite"
        return told + _with(_words(given))
    what = "a gradient" if gradient else "the loss"
    told = f"{loss.name}: {what} is {word} where the definition is finite"
    numbers = {word for word in features(case, loss) if not _SIZES.fullmatch(word)}
    return told + _with(numbers | _words(traits(loss, case)))


def _factor(loss: Loss, case: Case, deviation: Deviation) -> str | None:
    """A number that is the right one times a factor, if that is known well enough."""
    got, want = deviation.numbers or (math.nan, math.nan)
    budget = _number(deviation.budget)
    if want == 0 or got == 0 or not budget <= _FACTOR_KNOWN * abs(want):
        return None
    factor = got / want
    if abs(factor - 1) < _FACTOR_AWAY:
        return None
    cause = f"{loss.name}: off by the factor {factor:.4g}"
    whole = factor if abs(factor) >= 1 else 1 / factor
    if factor < 0 or (whole <= _LARGEST_WHOLE and abs(whole - round(whole)) < 1e-3 * whole):
        asked = {trait for trait in traits(loss, case) if trait[0] != "has"}
        return cause + _with(_words(asked))
    return cause


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _words(traits: Iterable[tuple[str, str]]) -> set[str]:
    """What a call needs for it to deviate, in words."""
    said = {"reduction": "{!r}", "given": "with {}", "laid out": "layout of {}"}
    return {said.get(kind, "{}").format(name) for kind, name in traits}


def _with(words: Iterable[str]) -> str:
    told = ", ".join(sorted(words))
    return f" ({told})" if told else ""
