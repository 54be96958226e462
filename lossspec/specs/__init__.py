"""One file for each loss; nothing else knows a loss by name."""
