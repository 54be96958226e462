"""Timing: one test for each cell, and for each axis that a loss grows along."""
