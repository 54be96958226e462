"""The cause of a deviation, as a text that is equal for all deviations with the same cause.

A report shows deviations with the same cause in one block. A text about one loss begins with the
name of the loss. Several losses may share a raised error or a lack of precision. A deviation
without a clear cause has None, and is shown in a block of its own.
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

#: The significant bits of a number in each dtype, the widest first.
_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
#: A number shows that it was computed in a dtype only if it uses more than this share of the
#: dtype's significant bits. Simpler numbers, such as 0.5, are common in wider dtypes too.
_SIMPLE = 0.5
#: The largest relative error that a computation in a narrower dtype explains, the narrowest first.
_NARROW_ERROR = {"bfloat16": 2.0**-5, "float16": 2.0**-8, "float32": 2.0**-12}
#: The largest budget ÷ number, and the smallest distance from 1, with which a factor is a cause.
_FACTOR_KNOWN, _FACTOR_AWAY = 2e-4, 5e-3
#: Different bugs may share a whole factor up to this one, or its reciprocal.
_LARGEST_WHOLE = 1000
#: Numbers, shapes, addresses and printed tensors in the message of an error.
_FIGURES = re.compile(
    r"tensor\([^()]*\)|[\[(][-+\d.,\s einfa]*\d[-+\d.,\s einfa]*[\])]"
    r"|\b0x[0-9a-f]+\b|[-+]?\b\d+(\.\d*)?(e[-+]?\d+)?\b"
)
_LONGEST = 200
#: Features that are never part of a cause: the size of a case, and a tensor compared with a
#: parameter of another meaning.
_SIZES = re.compile(r"\d+-d|square|many rows|.* below (ignore_index|label_smoothing|eps|blank)")


def cause_of(loss: Loss, case: Case, deviation: Deviation, first: str | None = None) -> str | None:
    """Return the cause of a deviation.

    Args:
        loss: The spec of the loss.
        case: The case that deviates.
        deviation: The deviation.
        first: The cause of the first deviation of the same clause, if this is a later one.

    Returns:
        The cause as text. None if it is not clear.
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
        return None  # no number is compared, or none with a budget
    got, want = deviation.numbers
    if math.isnan(want) or math.isinf(want):
        return None
    if not math.isfinite(got):
        return _not_finite(loss, case, deviation, got)
    return _precision(case.dtype, got, want, first) or _factor(loss, case, deviation)


def _raised(kind: str, message: str) -> str | None:
    """Return the error without the numbers and shapes of the call; None if it has no message."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return None
    text = " ".join(lines) if lines[0].endswith(":") else lines[0]
    # Shapes with different numbers of axes must give the same text.
    text = re.sub(r"…(\s*[,x×]\s*…)+", "…", _FIGURES.sub("…", text[:_LONGEST]))
    return f"raises {kind}: {text}"


def _narrow_dtype(case: Case, deviation: Deviation) -> str | None:
    """Return the cause if the result has another dtype than the case."""
    got, want = deviation.got, deviation.want
    if got not in _BITS or want != case.dtype or want not in _BITS:
        return None
    if _BITS[got] < _BITS[want]:
        return _as_if(want, got)
    return f"{want}: the result is in {got}"


def _as_if(dtype: str, narrow: str) -> str:
    return f"{dtype}: as if computed in {narrow}"


def _precision(dtype: str, got: float, want: float, first: str | None) -> str | None:
    """Return the cause if a number looks as if it was computed in a narrower dtype.

    A simple number counts only if the first deviation of the clause has the same cause.

    Args:
        dtype: The dtype of the case.
        got: The number that the implementation returned.
        want: The right number.
        first: The cause of the first deviation of the same clause.
    """
    for narrow, limit in _NARROW_ERROR.items():
        width, bits = _BITS[narrow], _significant_bits(got)
        if width >= _BITS.get(dtype, 0) or bits > width or abs(got - want) > limit * abs(want):
            continue
        cause = _as_if(dtype, narrow)
        # Simple numbers such as 101 instead of 100 say nothing about the dtype.
        telling = bits > _SIMPLE * width and (width > 11 or _significant_bits(want) > width)
        rounded = abs(got - want) <= 2.0**-width * abs(want)
        if telling or (rounded and first == cause):
            return cause
    return None


def _significant_bits(number: float) -> int:
    """Return the number of bits from the first set bit to the last."""
    whole = int(math.frexp(abs(number))[0] * 2**53)
    return whole.bit_length() - (whole & -whole).bit_length() + 1 if whole else 0


def _not_finite(loss: Loss, case: Case, deviation: Deviation, got: float) -> str:
    """Return the cause if a number is infinite or NaN although the right one is finite."""
    word = "nan" if math.isnan(got) else "infinite"
    gradient = deviation.gradient_of is not None or deviation.backward
    if not gradient and case.reduction == "mean" and math.isinf(got):
        # Shrinking has removed the mean unless the deviation needs it.
        given = {trait for trait in traits(loss, case) if trait[0] == "given"}
        told = f"{case.dtype}: the mean is infinite where the definition is finite"
        return told + _with(_words(given))
    what = "a gradient" if gradient else "the loss"
    told = f"{loss.name}: {what} is {word} where the definition is finite"
    numbers = {word for word in features(case, loss) if not _SIZES.fullmatch(word)}
    return told + _with(numbers | _words(traits(loss, case)))


def _factor(loss: Loss, case: Case, deviation: Deviation) -> str | None:
    """Return the cause if a number is off by a factor that is known well enough."""
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
    """Return the traits that a call needs to deviate, in words."""
    said = {"reduction": "{!r}", "given": "with {}", "laid out": "layout of {}"}
    return {said.get(kind, "{}").format(name) for kind, name in traits}


def _with(words: Iterable[str]) -> str:
    told = ", ".join(sorted(words))
    return f" ({told})" if told else ""
