"""The conformance suite: one test for each cell."""
