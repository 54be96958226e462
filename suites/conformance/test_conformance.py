"""The conformance suite: one pytest item for each cell."""

LOSSSPEC_SUITE = "conformance"  # tells the plugin to parametrize the tests of this file


def test_conformance(cell, conformance):
    """Judge one loss by one clause on one device."""
    conformance.judge(cell)
