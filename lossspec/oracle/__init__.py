"""The oracle: the right answer of a case, in extended precision, with an error budget."""
