"""The timing suite: one test for each timing cell, and one for each axis of a loss."""
