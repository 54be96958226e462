"""The implementations that lossspec ships, and the interface for your own."""

from lossspec.execution.implementation import Implementation
from lossspec.execution.loading import load

__all__ = ["Implementation", "load"]
