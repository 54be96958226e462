"""Comparisons of speed, memory and growth with torch."""
