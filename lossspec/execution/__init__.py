"""Run an implementation under test: load it, call it, keep what came of it."""
