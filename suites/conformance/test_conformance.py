"""One item for each cell: an implementation's loss, judged by one clause on one device."""

LOSSSPEC_SUITE = "conformance"  # the plugin makes items of this file's tests, and of no other's


def test_conformance(cell, conformance):
    """The clause holds for this loss."""
    conformance.judge(cell)
