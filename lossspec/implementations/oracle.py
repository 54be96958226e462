"""The oracle as an implementation: what the suite must find nothing against."""
