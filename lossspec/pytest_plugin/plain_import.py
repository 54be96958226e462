"""Import packages as they are: pytest rewrites every module of a package that brings a plugin.

Rewriting its asserts makes the import of Hypothesis take nine times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def importing_plainly(config: pytest.Config) -> Iterator[None]:
    """Leave out pytest's rewriting of modules in it, where pytest rewrites any."""
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
