"""Why something is not held against an implementation: a closed list, each with its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Excuse(StrEnum):
    """A reason for which a case, or a number in it, says nothing against an implementation.

    The value is the word that reports count by, `says` the sentence that they print.
    """

    EXPECTED_FAILURE = "expected-failure"
    SAME_AS_TORCH = "same-as-torch"
    OTHER_MEANING = "other-meaning"
    UNDOCUMENTED_DTYPE = "undocumented-dtype"
    NOT_SUPPORTED = "not-supported"
    NOT_IMPLEMENTED = "not-implemented"
    NOT_DIFFERENTIABLE = "not-differentiable"
    CALL_FAILS = "call-fails"
    TOO_EXPENSIVE = "too-expensive"
    OVERFLOW = "overflow"
    SUBNORMAL = "subnormal"
    KINK = "kink"
    UNDEFINED = "undefined"
    IGNORED = "ignored"
    TOO_UNCERTAIN = "too-uncertain"
    NOT_ABOUT = "not-about"

    @property
    def says(self) -> str:
        """The sentence that a report prints for it."""
        return _SAYS[self]


_SAYS = {
    Excuse.EXPECTED_FAILURE: "a known deviation is listed for such a case",
    Excuse.SAME_AS_TORCH: "torch does the same on the same call",
    Excuse.OTHER_MEANING: (
        "the implementation lacks a parameter, and is right for the parameter's other meaning"
    ),
    Excuse.UNDOCUMENTED_DTYPE: "the documentation neither promises nor rules out this dtype",
    Excuse.NOT_SUPPORTED: "the implementation does not support this, and need not",
    Excuse.NOT_IMPLEMENTED: "the implementation says that this is not implemented",
    Excuse.NOT_DIFFERENTIABLE: "nothing in the call has a gradient that the documentation promises",
    Excuse.CALL_FAILS: "a call that the clause builds on fails, which another clause reports",
    Excuse.TOO_EXPENSIVE: "the case is too large for this clause",
    Excuse.OVERFLOW: "the textbook formula overflows in this dtype too",
    Excuse.SUBNORMAL: "the number lies among the smallest of this dtype, which kernels take for 0",
    Excuse.KINK: "every slope between the one-sided derivatives is right, if they are known at all",
    Excuse.UNDEFINED: "the definition leaves the number open",
    Excuse.IGNORED: "the element is ignored",
    Excuse.TOO_UNCERTAIN: "rounding explains an error of a tenth of the number or more",
    Excuse.NOT_ABOUT: "the case has nothing that the clause is about",
}


def word(reason: str) -> str:
    """Return the word of a reason as a report prints it."""
    return reason.replace("-", " ")


def excused_text(counts: Mapping[str, int]) -> str:
    """Return such as "12 excused: 9 overflow, 3 same as torch"; nothing if no case is excused."""
    told = sorted(((n, name) for name, n in counts.items() if n > 0), key=lambda pair: -pair[0])
    if not told:
        return ""
    words = ", ".join(f"{n} {word(name)}" for n, name in told)
    return f"{sum(n for n, _ in told)} excused: {words}"
