"""The conformance suite for loss functions."""
