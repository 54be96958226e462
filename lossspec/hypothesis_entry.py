"""The registration of the backend `lossspec` in Hypothesis's entry-point group `hypothesis`.

Importing Hypothesis loads this module, so it imports nothing else of lossspec.
"""

from __future__ import annotations

BACKEND = "lossspec"


def register() -> None:
    """Register the backend with Hypothesis, which imports it on first use.

    If a later Hypothesis keeps its backends elsewhere, do nothing: `import hypothesis` must work
    wherever lossspec is installed. A campaign then fails with Hypothesis's own message.
    """
    try:
        from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS
    except ImportError:
        return
    AVAILABLE_PROVIDERS[BACKEND] = "lossspec.cases.backend.StratifiedProvider"
