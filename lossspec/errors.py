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
    """An argument or option with a wrong value; the message says which values are allowed."""


class ArgumentTypeError(LossspecError, TypeError):
    """An argument with a wrong type; the message says which types are allowed."""


class ClauseError(LossspecError, ValueError):
    """A clause with the name of another clause, or without a sentence."""


class SpecError(LossspecError, ValueError):
    """A spec that cannot be used; the message names the spec and the problem."""


class OutOfRoom(LossspecError):
    """A definition that needs more memory at once than its caller allows."""


@contextmanager
def blaming(
    loss: str,
    function: str,
    tensors: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Replace an exception that a function of a spec raises by a SpecError.

    Args:
        loss: The name of the spec.
        function: The name of its function, such as `settle`.
        tensors: The arrays that the function was called with, for the message.
        sizes: The sizes of axes that the function was called with, for the message.

    Raises:
        SpecError: The function raised.
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
    """An unknown name; the message lists similar known ones."""

    def __init__(self, kind: str, given: str, known: Sequence[str]) -> None:
        every = {"loss": "losses", "clause": "clauses"}.get(kind.partition(" ")[0])
        command = f"lossspec list {every}" if every else None
        super().__init__(f"unknown {kind} {given!r}{suggestion(given, known, command)}")


def warn_of_left_out(kind: str, entry: EntryPoint, error: BaseException) -> None:
    """Warn that an entry point of another distribution cannot be used and is ignored.

    Args:
        kind: The kind of the object, such as "spec".
        entry: The entry point.
        error: The error of its import or check.
    """
    by = f" of {entry.dist.name}" if entry.dist else ""
    warnings.warn(
        one_line(
            f"left out the {kind} {entry.name!r}{by}, entry point {entry.value!r}: "
            f"{foreign_error(error)}"
        ),
        stacklevel=3,
    )


class CaseError(LossspecError, ValueError):
    """A stored case that is invalid; the message names the wrong part and what it must be."""


class DeviceError(LossspecError, ValueError):
    """A device that this machine does not have; the message lists those that it has."""


class ImplementationError(LossspecError, ValueError):
    """A name that no implementation was found for; the message says what was tried."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class EmptyPlan(LossspecError, ValueError):
    """A selection without any applicable clause, whose run would judge nothing and pass."""


class DeviationsError(LossspecError, ValueError):
    """A deviations file that cannot be used; the message names file, entry and problem."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


#: The most characters of a message, which may quote keys of any length from a foreign file.
_MESSAGE = 2_000


class ReportError(LossspecError, ValueError):
    """A report that cannot be made, read or merged; the message names the place and the problem.

    Attributes:
        problem: What is wrong.
        where: The path of keys to the wrong value.
    """

    def __init__(self, problem: str, where: str = "") -> None:
        message = f"{where.removeprefix('.')}: {problem}" if where else problem
        super().__init__(clip(one_line(message), _MESSAGE))
        self.problem = problem
        self.where = where

    def within(self, outer: str) -> ReportError:
        """Return the same error with a key in front of its path."""
        return ReportError(self.problem, outer + self.where)
