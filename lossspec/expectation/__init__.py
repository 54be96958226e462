"""The oracle on somebody's own tensors: the right answer of a call, and what a result is off by."""
