"""Excuses: the closed list of reasons why a case was not judged, each with its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Excuse(StrEnum):
    """A reason why a case, or a number in it, was not judged.

    Reports count excuses by their value, and print the sentence in `says`.
    """

    EXPECTED_FAILURE = "expected-failure"
    SAME_AS_TORCH = "same-as-torch"
    OTHER_MEANING = "other-meaning"
    NONDETERMINISTIC = "nondeterministic"
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
        """The sentence that a report prints for this excuse."""
        return _SAYS[self]


_SAYS = {
    Excuse.EXPECTED_FAILURE: "the result matches a known deviation of the implementation",
    Excuse.SAME_AS_TORCH: "torch returns the same result for the same call",
    Excuse.OTHER_MEANING: (
        "the implementation lacks a parameter, and is right for the other documented value of it"
    ),
    Excuse.NONDETERMINISTIC: (
        "torch documents an operation of the call as nondeterministic on this device, and the "
        "repeated result differs by no more than the error budgets"
    ),
    Excuse.UNDOCUMENTED_DTYPE: "the documentation neither promises nor rules out this dtype",
    Excuse.NOT_SUPPORTED: "the implementation does not support this call, which is optional",
    Excuse.NOT_IMPLEMENTED: "the implementation raises NotImplementedError for this call",
    Excuse.NOT_DIFFERENTIABLE: "no tensor of the call requires a gradient, or its result has none",
    Excuse.CALL_FAILS: "a call that this clause needs fails, which another clause reports",
    Excuse.TOO_EXPENSIVE: "the case is too large for this clause",
    Excuse.OVERFLOW: "the textbook formula overflows in this dtype too",
    Excuse.SUBNORMAL: "the number is so small in this dtype that kernels may round it to 0",
    Excuse.KINK: (
        "at a kink, any gradient between the one-sided derivatives is accepted, and any at all if "
        "they are unknown"
    ),
    Excuse.UNDEFINED: "the definition does not determine the number",
    Excuse.IGNORED: "the element is ignored",
    Excuse.TOO_UNCERTAIN: "rounding alone can change the number by a tenth or more",
    Excuse.NOT_ABOUT: "the case contains nothing that this clause checks",
}


class NotJudged(Exception):
    """The error that is raised if, while judging a case, it turns out that it cannot be judged.

    A condition that is known beforehand is a `Precondition`.

    Attributes:
        excuse: The reason under which the case is counted.
    """

    def __init__(self, excuse: Excuse, why: str = "") -> None:
        super().__init__(why or excuse.says)
        self.excuse = excuse


def word(reason: str) -> str:
    """Return the value of an excuse as a report prints it."""
    return reason.replace("-", " ")


def excused_text(counts: Mapping[str, int]) -> str:
    """Return text such as "12 excused: 9 overflow, 3 same as torch"; empty if there are none."""
    told = sorted(((n, name) for name, n in counts.items() if n > 0), key=lambda pair: -pair[0])
    if not told:
        return ""
    words = ", ".join(f"{n} {word(name)}" for n, name in told)
    return f"{sum(n for n, _ in told)} excused: {words}"
