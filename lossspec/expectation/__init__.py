"""The oracle for your own tensors: the right answer of a call, and the error of a result."""
