"""The verdicts that a cell can have."""

from enum import StrEnum


class Verdict(StrEnum):
    """The result of a cell: one of eight words, the same in every rendering."""

    CONFORMS = "conforms"
    DEVIATES = "deviates"
    KNOWN = "known"
    UNSUPPORTED = "unsupported"
    NOT_APPLICABLE = "not-applicable"
    INCONCLUSIVE = "inconclusive"
    CRASH = "crash"
    NOT_RUN = "not-run"

    @property
    def fails(self) -> bool:
        """Whether a cell with this verdict fails the run."""
        return self in (Verdict.DEVIATES, Verdict.CRASH, Verdict.NOT_RUN)

    @property
    def judges(self) -> bool:
        """Whether a cell with this verdict counts as judged: it conforms, is known, or fails."""
        return self.fails or self in (Verdict.CONFORMS, Verdict.KNOWN)

    @property
    def sign(self) -> str:
        """One character that shows the verdict without colour."""
        return _SIGNS[self]


# No character with an emoji form, because fonts render those differently.
_SIGNS = {
    Verdict.CONFORMS: "✓",
    Verdict.DEVIATES: "✗",
    Verdict.KNOWN: "◆",
    Verdict.UNSUPPORTED: "○",
    Verdict.NOT_APPLICABLE: "–",
    Verdict.INCONCLUSIVE: "?",
    Verdict.CRASH: "!",
    Verdict.NOT_RUN: "∅",
}
