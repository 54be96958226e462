"""Load the pytest plugin in a checkout that is not installed."""

from pathlib import Path

import pytest

import lossspec
from lossspec.pytest_plugin.hooks import add_short_names

pytest_plugins = ["lossspec.plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the short option names, which an installed plugin registers earlier."""
    add_short_names(parser)


def pytest_report_header() -> str | None:
    """Return the path of lossspec if it is not the one of this checkout."""
    package = Path(lossspec.__file__).resolve().parent
    return None if package.parent == Path(__file__).resolve().parent else f"lossspec: {package}"
