"""Specs of losses that torch.nn lacks, each in a file of its own."""
