"""Run an implementation under test: load it, call it, and keep the outcome."""
