"""The verdicts that a cell can have."""

from enum import StrEnum


class Verdict(StrEnum):
    """What a run says about one cell; eight words, the same in every rendering."""

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
        """Whether one such cell fails the run."""
        return self in (Verdict.DEVIATES, Verdict.CRASH, Verdict.NOT_RUN)

    @property
    def judges(self) -> bool:
        """Whether such a cell was judged at all: the others say why it was not."""
        return self.fails or self in (Verdict.CONFORMS, Verdict.KNOWN)

    @property
    def sign(self) -> str:
        """One character that tells the verdict without colour."""
        return _SIGNS[self]


# None of these has an emoji form, so that fonts render them alike.
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
