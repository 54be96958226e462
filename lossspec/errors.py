"""The errors that lossspec raises for input it cannot use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np

from lossspec.nearest import suggestion
from lossspec.safe_text import clip, foreign_error, one_line

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CaseError",
    "ClauseError",
    "DeviationsError",
    "DeviceError",
    "EmptyPlan",
    "ImplementationError",
    "LossspecError",
    "ReportError",
    "SpecError",
    "UnknownName",
]


class LossspecError(Exception):
    """Base class of every error that lossspec raises for input it cannot use."""


class ArgumentError(LossspecError, ValueError):
    """An argument or option with a value that it does not take; says which values it takes."""


class ArgumentTypeError(LossspecError, TypeError):
    """An argument of a kind that a function does not take; says what it takes instead."""


class ClauseError(LossspecError, ValueError):
    """A clause that cannot be told from another one, or that says nothing."""


class SpecError(LossspecError, ValueError):
    """A spec that no loss can be judged by; the message names the spec and what is wrong in it."""


class OutOfRoom(LossspecError):
    """A definition that takes more memory at once than its caller allows."""


@contextmanager
def blaming(
    loss: str,
    function: str,
    tensors: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Raise SpecError in place of an exception that a function of a spec raises.

    loss, function : the names of the spec and of its function, such as `settle`. tensors, sizes :
    the arrays that the function was called with, or the sizes of axes.
    """
    try:
        yield
    except (SpecError, OutOfRoom):
        raise
    except (Exception, SystemExit) as error:
        given = [f"{name} of shape {list(np.shape(x))}" for name, x in (tensors or {}).items()]
        given += [f"{axis} = {size}" for axis, size in (sizes or {}).items()]
        called = f", called with {', '.join(given)}" if given else ""
        said = repr(" ".join(str(error).split())[:300])
        raise SpecError(
            f"spec {loss!r}: {function} raised {type(error).__name__}{called}; it said {said}"
        ) from error


class UnknownName(LossspecError, ValueError):
    """A name that is not one of the known ones; the message says which are like it."""

    def __init__(self, kind: str, given: str, known: Sequence[str]) -> None:
        every = {"loss": "losses", "clause": "clauses"}.get(kind.partition(" ")[0])
        command = f"lossspec list {every}" if every else None
        super().__init__(f"unknown {kind} {given!r}{suggestion(given, known, command)}")


def warn_of_left_out(kind: str, entry: EntryPoint, error: BaseException) -> None:
    """Warn that what another distribution brings along cannot be used; it stops nobody."""
    by = f" of {entry.dist.name}" if entry.dist else ""
    warnings.warn(
        one_line(
            f"left out the {kind} {entry.name!r}{by}, entry point {entry.value!r}: "
            f"{foreign_error(error)}"
        ),
        stacklevel=3,
    )


class CaseError(LossspecError, ValueError):
    """A stored case that is none; the message says which part of it, and what it should be."""


class DeviceError(LossspecError, ValueError):
    """A device that is not there; the message says which ones are."""


class ImplementationError(LossspecError, ValueError):
    """A name that does not lead to an implementation; the message says what was tried."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class EmptyPlan(LossspecError, ValueError):
    """A selection in which no clause has anything to say: a run of it could only look green."""


class DeviationsError(LossspecError, ValueError):
    """A deviations file that cannot be used; names the file, the entry and the problem."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


#: Characters of an error message: keys of a file that is no report may be of any length.
_MESSAGE = 2_000


class ReportError(LossspecError, ValueError):
    """A report that cannot be made, read or merged; says where and what is wrong."""

    def __init__(self, problem: str, where: str = "") -> None:
        message = f"{where.removeprefix('.')}: {problem}" if where else problem
        super().__init__(clip(one_line(message), _MESSAGE))
        self.problem = problem
        self.where = where

    def within(self, outer: str) -> ReportError:
        """The same error, seen from one level further out."""
        return ReportError(self.problem, outer + self.where)
