"""Hypothesis strategies for loss inputs."""

from lossspec.cases.strategies import cases

__all__ = ["cases"]
