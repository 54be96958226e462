"""Profiles: how many cases a run draws."""

from __future__ import annotations

from dataclasses import dataclass

from lossspec.errors import UnknownName
from lossspec.spec.loss import Loss


@dataclass(frozen=True)
class Profile:
    """How long to look."""

    name: str
    #: Cases for a loss of average breadth, on a device.
    examples: int
    #: A clause with fewer cases that could have told right from wrong is inconclusive.
    informative: int
    #: The share of what a clause calls enough that is enough here.
    patience: float = 1.0
    #: Cases beyond `examples`, each sought where the worst error so far was found.
    searched: int = 0
    #: Whether there are as many for every loss, whatever its breadth.
    even: bool = True

    def cases(self, loss: Loss) -> int:
        """How many cases of a loss are drawn."""
        return self.examples if self.even else round(self.examples * (0.5 + loss.breadth / 8))


PROFILES = {
    "quick": Profile("quick", 40, 1, 0.3, even=False),
    "standard": Profile("standard", 320, 4, even=False),
    "deep": Profile("deep", 10_000, 20, searched=1_000, even=False),
}


def profile_named(name: str) -> Profile:
    """The profile of a name; UnknownName lists the known ones."""
    if name not in PROFILES:
        raise UnknownName("profile", name, list(PROFILES))
    return PROFILES[name]
