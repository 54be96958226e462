"""Tell Hypothesis of the backend `lossspec`, through its entry-point group `hypothesis`.

Hypothesis loads this when it is imported, so it imports nothing of lossspec itself.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS

BACKEND = "lossspec"


def register() -> None:
    """Add the backend, by the name under which Hypothesis imports it when it is first used."""
    AVAILABLE_PROVIDERS[BACKEND] = "lossspec.cases.backend.StratifiedProvider"
