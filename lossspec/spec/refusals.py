"""Refusals: calls that must raise, by a rule that valid calls follow or by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from lossspec.errors import blaming


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A call that must raise.

    At least one of `rule` and `breaks` is given. With a rule alone, lossspec looks for a change of
    a valid call that breaks it by more than rounding, and breaks nothing else. With both, it checks
    that `breaks` does break the rule.

    Attributes:
        says: The error in the call, as a clause without a full stop.
        rule: A function of some tensors and parameters by name, as `define` is. It gets the tensors
            as numpy arrays in the shapes of the call, and returns whether the call is valid. A call
            that lacks one of them follows the rule.
        breaks: A function of the tensors, as numpy arrays by name, and of the parameters by name.
            It makes a valid call invalid in place, or returns False if it cannot.
        raises: The exception type that the call must raise, or a tuple of allowed types. Without
            it, any type is allowed.
    """

    says: str
    rule: Callable[..., Any] | None = None
    breaks: Callable[[dict[str, Any], dict[str, Any]], bool | None] | None = None
    raises: type[BaseException] | tuple[type[BaseException], ...] = ()

    @property
    def types(self) -> tuple[type[BaseException], ...]:
        """The allowed exception types; none stands for any type."""
        return self.raises if isinstance(self.raises, tuple) else (self.raises,)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the tensors and parameters that the rule is about."""
        return () if self.rule is None else tuple(signature(self.rule).parameters)

    def holds(
        self, loss: str, tensors: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> bool:
        """Return whether a call follows the rule.

        Args:
            loss: The name of the spec, for the message.
            tensors: The tensors of the call by name.
            parameters: The parameters of the call by name.

        Raises:
            SpecError: The rule raises, or does not return a truth value.
        """
        names = self.arguments
        if self.rule is None or any(n not in tensors and n not in parameters for n in names):
            return True
        # bfloat16 arrays lack some functions of numpy, and float64 holds each of their numbers.
        given = {name: _comparable(tensors[name]) for name in names if name in tensors}
        given |= {name: parameters[name] for name in names if name not in tensors}
        arrays = {name: tensors[name] for name in names if name in tensors}
        with blaming(loss, f"the rule of {self.says!r}", arrays):
            return bool(self.rule(**given))

    def problems(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[str]:
        """Yield the errors in a refusal of a spec.

        Args:
            tensors: The roles of all tensors of the spec by name.
            parameters: All parameters of the spec by name.
        """
        where = f"the refusal {self.says!r}"
        for name, function in (("rule", self.rule), ("breaks", self.breaks)):
            if function is not None and not callable(function):
                yield f"{name} of {where} takes a function, got {function!r}"
        if self.rule is None and self.breaks is None:
            yield f"{where} needs a rule that valid calls follow, or a function `breaks`; give one"
        kinds: tuple[Any, ...] = self.types
        for kind in kinds:
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                yield (
                    f"raises of {where} takes an exception type or a tuple of them, such as "
                    f"ValueError, got {kind!r}"
                )
        known = [*tensors, *parameters]
        for name in self.arguments:
            if name not in known:
                yield (
                    f"arguments of the rule of {where}: unknown {name!r}; known: "
                    f"{', '.join(map(repr, known))}"
                )


def _comparable(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "iub" else array.astype(np.float64)
