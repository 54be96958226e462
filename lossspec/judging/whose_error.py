"""Whether an error in a clause comes from the implementation or from lossspec."""

from __future__ import annotations

import sysconfig
import traceback
from functools import cache
from pathlib import Path

import hypothesis
import numpy as np
import torch

import lossspec
from lossspec.clauses import Clause

#: The modules of lossspec that call an implementation.
_CALLERS = ("execution/implementation.py", "execution/call.py")


def of_implementation(error: BaseException, clause: Clause | None = None) -> bool:
    """Return whether an error was raised in code that the implementation runs.

    Such code is called by lossspec's modules for calls, or it is neither part of lossspec nor of
    the libraries that lossspec calls itself.

    Args:
        error: The error that reached the judge of a clause.
        clause: The clause, which may be part of another package.
    """
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    written = getattr(getattr(clause and clause.judge, "__code__", None), "co_filename", None)
    own = [i for i, file in enumerate(files) if file == written or _within(file, _folder(lossspec))]
    if not own:
        return True
    last = own[-1]
    called = files[last].replace("\\", "/").endswith(_CALLERS)
    return called or any(not _known(file) for file in files[last + 1 :])


def _known(file: str) -> bool:
    """Return whether a file belongs to a library that lossspec itself calls."""
    packages = map(_folder, (torch, np, hypothesis))
    return any(_within(file, folder) for folder in (*packages, sysconfig.get_path("stdlib")))


def _within(file: str, folder: str) -> bool:
    return Path(file).is_relative_to(folder)


@cache
def _folder(package: object) -> str:
    return str(Path(getattr(package, "__file__", "")).parent)
