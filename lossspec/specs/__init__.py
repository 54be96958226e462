"""One file for each loss, which beside it only the audit and the known deviations know by name."""
