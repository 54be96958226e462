"""The conformance suite for loss functions: executable specs, exact answers, verdicts.

PYTEST_DONT_REWRITE: the command imports this package before pytest could rewrite it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossspec import strategies
    from lossspec.api import check, parametrize
    from lossspec.clauses import Deviation, Trial, Unsupported, clause
    from lossspec.errors import (
        ArgumentError,
        ArgumentTypeError,
        CaseError,
        ClauseError,
        DeviationsError,
        DeviceError,
        EmptyPlan,
        ImplementationError,
        LossspecError,
        ReportError,
        SpecError,
        UnknownName,
    )
    from lossspec.execution.declaration import Declaration, all_but
    from lossspec.execution.implementation import Implementation
    from lossspec.expectation.answer import expect
    from lossspec.report.records import Cell, Report
    from lossspec.report.verdict import Verdict
    from lossspec.spec.catalogue import catalogue
    from lossspec.spec.constrained import (
        Box,
        Label,
        Mask,
        Rank,
        Sorted,
        Temperature,
        UnitVector,
    )
    from lossspec.spec.loss import AnySize, Example, Form, Key, Loss, Refusal, Symmetry
    from lossspec.spec.parameters import Parameter, choice, ignore_index, number, switch, vector
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
        Role,
        Sign,
        Weight,
    )

__all__ = [
    "AnySize",
    "ArgumentError",
    "ArgumentTypeError",
    "Binary",
    "Box",
    "CaseError",
    "Cell",
    "ClassIndex",
    "ClauseError",
    "Count",
    "Declaration",
    "Deviation",
    "DeviationsError",
    "DeviceError",
    "Distribution",
    "EmptyPlan",
    "Example",
    "Factor",
    "Form",
    "Implementation",
    "ImplementationError",
    "Key",
    "Label",
    "Length",
    "LogProbability",
    "Logit",
    "Loss",
    "LossspecError",
    "Mask",
    "NonNegative",
    "Parameter",
    "Positive",
    "Probability",
    "Rank",
    "Real",
    "Refusal",
    "Report",
    "ReportError",
    "Role",
    "Sign",
    "Sorted",
    "SpecError",
    "Symmetry",
    "Temperature",
    "Trial",
    "UnitVector",
    "UnknownName",
    "Unsupported",
    "Verdict",
    "Weight",
    "all_but",
    "catalogue",
    "check",
    "choice",
    "clause",
    "expect",
    "ignore_index",
    "number",
    "parametrize",
    "strategies",
    "switch",
    "vector",
]

#: The module that a name is imported from, if it is not `lossspec.spec`.
_HOMES = {
    "Cell": "report",
    "Declaration": "execution.declaration",
    "Deviation": "clauses",
    "Implementation": "execution.implementation",
    "Report": "report",
    "Trial": "clauses",
    "Unsupported": "clauses",
    "Verdict": "report",
    "all_but": "execution.declaration",
    "check": "api",
    "clause": "clauses",
    "expect": "expectation.answer",
    "parametrize": "api",
    **dict.fromkeys(
        (
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
        ),
        "errors",
    ),
}


def __getattr__(name: str) -> Any:
    # Names are imported on first use, so that reading a report does not import torch.
    if name not in __all__:
        raise AttributeError(f"module 'lossspec' has no attribute {name!r}")
    if name == "strategies":
        return import_module("lossspec.strategies")
    return getattr(import_module(f"lossspec.{_HOMES.get(name, 'spec')}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
