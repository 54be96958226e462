"""One item for each cell: an implementation's loss, judged by one clause on one device."""


def test_conformance(cell, conformance):
    """The clause holds for this loss."""
    conformance.judge(cell)
