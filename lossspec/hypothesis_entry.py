"""Tell Hypothesis of the backend `lossspec`, through its entry-point group `hypothesis`.

Hypothesis loads this when it is imported, so it imports nothing of lossspec itself.
"""

from __future__ import annotations

BACKEND = "lossspec"


def register() -> None:
    """Add the backend, by the name under which Hypothesis imports it when it is first used.

    A Hypothesis that has moved its backends is left alone: it must import for everybody who has
    lossspec installed. A campaign then fails with Hypothesis's own message.
    """
    try:
        from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS
    except ImportError:
        return
    AVAILABLE_PROVIDERS[BACKEND] = "lossspec.cases.backend.StratifiedProvider"
