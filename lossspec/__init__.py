"""The conformance suite for loss functions: executable specs, exact answers, verdicts.

PYTEST_DONT_REWRITE: the command imports this package before pytest could rewrite it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossspec.api import check, parametrize
    from lossspec.errors import SpecError
    from lossspec.execution.implementation import Implementation
    from lossspec.report.records import Report
    from lossspec.report.verdict import Verdict
    from lossspec.spec.catalogue import catalogue
    from lossspec.spec.loss import AnySize, Example, Form, Loss, Refusal, Symmetry
    from lossspec.spec.parameters import Parameter, ignore_index, number, switch
    from lossspec.spec.roles import (
        Binary,
        ClassIndex,
        Count,
        Distribution,
        Factor,
        Length,
        Logit,
        LogProbability,
        NonNegative,
        Positive,
        Probability,
        Real,
        Sign,
        Weight,
    )

__all__ = [
    "AnySize",
    "Binary",
    "ClassIndex",
    "Count",
    "Distribution",
    "Example",
    "Factor",
    "Form",
    "Implementation",
    "Length",
    "LogProbability",
    "Logit",
    "Loss",
    "NonNegative",
    "Parameter",
    "Positive",
    "Probability",
    "Real",
    "Refusal",
    "Report",
    "Sign",
    "SpecError",
    "Symmetry",
    "Verdict",
    "Weight",
    "catalogue",
    "check",
    "ignore_index",
    "number",
    "parametrize",
    "switch",
]

_HOMES = {
    "Implementation": "execution.implementation",
    "Report": "report",
    "Verdict": "report",
    "check": "api",
    "parametrize": "api",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: reading a report must not cost the import of torch.
    if name not in __all__:
        raise AttributeError(f"module 'lossspec' has no attribute {name!r}")
    return getattr(import_module(f"lossspec.{_HOMES.get(name, 'spec')}"), name)
