"""The arguments of the command `lossspec expect`, which are read without torch."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("loss")
    parser.add_argument(
        "tensors",
        nargs="+",
        metavar="[NAME=]FILE[:KEY]",
        help="the loss's tensors in order, or by name; a file with several gives each by its name",
    )
    parser.add_argument("--against", metavar="FILE[:KEY]", help="what an implementation returned")
    parser.add_argument(
        "--gradient",
        action="append",
        default=[],
        metavar="NAME=FILE[:KEY]",
        help="a gradient that it computed; may be repeated",
    )
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    parser.add_argument("--reduction", help="default: that of the loss")
    parser.add_argument(
        "--upstream", metavar="FILE[:KEY]", help="the gradient of the result; default: ones"
    )
    parser.add_argument(
        "--computed-in", metavar="DTYPE", help="a wider dtype that the result was computed in"
    )
