"""The specification of a loss: tensors with roles, shapes, parameters, a definition, refusals."""

from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import (
    OF_DIFFERENCE,
    AnySize,
    Definition,
    Example,
    Form,
    Loss,
    Rows,
    Symmetry,
)
from lossspec.spec.mean import Mean
from lossspec.spec.parameters import Parameter, ignore_index, number, switch
from lossspec.spec.refusals import Refusal
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
    Surface,
    Weight,
)
from lossspec.spec.shapes import Shape, written_out

__all__ = [
    "OF_DIFFERENCE",
    "AnySize",
    "Binary",
    "ClassIndex",
    "Count",
    "Definition",
    "Distribution",
    "Example",
    "Factor",
    "Form",
    "Length",
    "LogProbability",
    "Logit",
    "Loss",
    "Mean",
    "NonNegative",
    "Parameter",
    "Positive",
    "Probability",
    "Real",
    "Refusal",
    "Role",
    "Rows",
    "Shape",
    "Sign",
    "Surface",
    "Symmetry",
    "Weight",
    "catalogue",
    "find",
    "ignore_index",
    "number",
    "switch",
    "written_out",
]
