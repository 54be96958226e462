"""The arguments of the command `lossspec expect`, parsed without importing torch."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("loss")
    parser.add_argument(
        "tensors",
        nargs="+",
        metavar="[NAME=]FILE[:KEY]",
        help="the tensors in order or by name; a file with several passes each by its own name",
    )
    parser.add_argument(
        "--against", metavar="FILE[:KEY]", help="the result of an implementation, to be compared"
    )
    parser.add_argument(
        "--gradient",
        action="append",
        default=[],
        metavar="NAME=FILE[:KEY]",
        help="a gradient of the implementation, to be compared; may be repeated",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the loss; may be repeated",
    )
    parser.add_argument("--reduction", help="default: that of the loss")
    parser.add_argument(
        "--upstream", metavar="FILE[:KEY]", help="the cotangent of the result; default: ones"
    )
    parser.add_argument(
        "--computed-in", metavar="DTYPE", help="a wider dtype in which the result was computed"
    )
