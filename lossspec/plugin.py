"""The module of the pytest plugin, which users load as `-p lossspec.plugin`."""

from lossspec.pytest_plugin.hooks import *  # noqa: F403  # pytest finds hooks by name

__all__ = [name for name in dir() if name.startswith("pytest_")]
