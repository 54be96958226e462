"""Loads the plugin for a checkout that is not installed."""

from pathlib import Path

import pytest

import lossspec
from lossspec.pytest_plugin.hooks import add_short_names

pytest_plugins = ["lossspec.plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the names that an installed plugin reads before any conftest.py is loaded."""
    add_short_names(parser)


def pytest_report_header() -> str | None:
    """Tell of another lossspec than this checkout's, such as one installed from it."""
    package = Path(lossspec.__file__).resolve().parent
    return None if package.parent == Path(__file__).resolve().parent else f"lossspec: {package}"
