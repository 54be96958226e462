"""Import without pytest's assertion rewriting, which covers each package that has a plugin.

With rewriting, the import of Hypothesis takes nine times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def importing_plainly(config: pytest.Config) -> Iterator[None]:
    """Turn off pytest's assertion rewriting for the modules imported in this context."""
    hook = getattr(config.pluginmanager, "rewrite_hook", None)
    if hook not in sys.meta_path:
        yield
        return
    place = sys.meta_path.index(hook)
    sys.meta_path.remove(hook)
    try:
        yield
    finally:
        sys.meta_path.insert(place, hook)
