"""Timing comparisons: speed, growth and memory against torch."""
