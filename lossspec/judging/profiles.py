"""The profiles of a run: how many cases it draws."""

from __future__ import annotations

from dataclasses import dataclass

from lossspec.errors import UnknownName
from lossspec.spec.loss import Loss


@dataclass(frozen=True)
class Profile:
    """The number of cases that a run draws, and how much evidence a verdict needs."""

    name: str
    #: The number of cases for a loss of average breadth, on one device.
    examples: int
    #: A clause is inconclusive with fewer cases that could tell right from wrong.
    informative: int
    #: The share of `Clause.enough` after which a clause needs no more cases.
    patience: float = 1.0
    #: The number of informative cases of `value` in each dtype. If the drawn cases contain fewer,
    #: more are drawn in that dtype. In float16, for example, many squares overflow.
    each_dtype: int = 0
    #: The number of further cases, which Hypothesis searches near the largest errors.
    searched: int = 0
    #: Whether every loss has the same number of cases, independently of its breadth.
    even: bool = True

    def cases(self, loss: Loss) -> int:
        """Return the number of cases to draw for a loss."""
        return self.examples if self.even else round(self.examples * (0.5 + loss.breadth / 8))


PROFILES = {
    "quick": Profile("quick", 60, 1, 0.3, each_dtype=4, even=False),
    "standard": Profile("standard", 320, 4, each_dtype=4, even=False),
    "deep": Profile("deep", 10_000, 20, each_dtype=4, searched=1_000, even=False),
}


def profile_named(name: str) -> Profile:
    """Return the profile with a name.

    Raises:
        UnknownName: There is no such profile. The message lists all profiles.
    """
    if name not in PROFILES:
        raise UnknownName("profile", name, list(PROFILES))
    return PROFILES[name]
