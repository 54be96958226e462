"""Conformance: one test for each cell."""
