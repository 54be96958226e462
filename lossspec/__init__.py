"""The conformance suite for loss functions: executable specs, exact answers, verdicts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossspec.api import check, parametrize
    from lossspec.implementations import Implementation
    from lossspec.spec import (
        ClassIndex,
        Count,
        Distribution,
        Example,
        Form,
        Logit,
        LogProbability,
        Loss,
        Parameter,
        Positive,
        Probability,
        Real,
        Refusal,
        Sign,
        Weight,
        catalogue,
        number,
        switch,
    )
    from lossspec.verdict import Report, Verdict

__all__ = [
    "ClassIndex",
    "Count",
    "Distribution",
    "Example",
    "Form",
    "Implementation",
    "LogProbability",
    "Logit",
    "Loss",
    "Parameter",
    "Positive",
    "Probability",
    "Real",
    "Refusal",
    "Report",
    "Sign",
    "Verdict",
    "Weight",
    "catalogue",
    "check",
    "number",
    "parametrize",
    "switch",
]

_HOMES = {
    "Implementation": "implementations",
    "Report": "verdict",
    "Verdict": "verdict",
    "check": "api",
    "parametrize": "api",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: reading a report must not cost the import of torch.
    if name not in __all__:
        raise AttributeError(f"module 'lossspec' has no attribute {name!r}")
    return getattr(import_module(f"lossspec.{_HOMES.get(name, 'spec')}"), name)
