"""The entry point of the pytest plugin, under the name that users load it by."""

from lossspec.pytest_plugin.hooks import *  # noqa: F403  # pytest finds hooks by their names

__all__ = [name for name in dir() if name.startswith("pytest_")]
