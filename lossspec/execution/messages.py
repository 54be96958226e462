"""Messages and names of torch and Python that a verdict depends on.

No error class or attribute carries these facts. The wording was checked with torch 2.13.0 and
2.14.1 and Python 3.11. Warnings and names that torch can be made to produce are read from the
installed torch. The other functions document the effect of a changed wording.
tests/test_messages.py provokes each message, and fails if the wording changes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from functools import cache
from typing import Any

import torch

_NO_ROOM = re.compile(r"(allocate|enough|out of) memory")
_UNKNOWN = re.compile(r"\b(unexpected|unknown) (keyword )?(argument|option|parameter)", re.I)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports too little memory, rather than an illegal access.

    A failed allocation on a CPU raises a plain RuntimeError. If its wording changes, a batch that
    does not fit into memory counts as one that the implementation refuses.
    """
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or _NO_ROOM.search(str(error)) is not None


def unknown_keywords(error: BaseException, keywords: Collection[str]) -> set[str]:
    """Return those keywords that an error calls unknown.

    If Python's wording changes, a call with an argument that the implementation lacks is reported
    as raising rather than as unsupported.

    Args:
        error: The error of a call.
        keywords: Keywords of that call.
    """
    known = {*keywords}
    named = known & {*re.findall(r"unexpected keyword argument '(\w+)'", str(error))}
    if isinstance(error, TypeError) and _UNKNOWN.search(str(error)):
        named |= known - {"reduction"} & {*re.findall(r"\w+", str(error))}
    return named


def nondeterministic(warning: str) -> bool:
    """Return whether torch warns that an operation has no deterministic implementation.

    Torch warns of the operations that the page of `torch.use_deterministic_algorithms` lists. If
    the wording changes, a repeated call with other bits on an accelerator is a deviation.
    """
    return "does not have a deterministic implementation" in warning


def refuses_autocast(error: BaseException) -> bool:
    """Return whether an error says that a call does not support autocast.

    This applies to implementations that do not declare autocast. On accelerators torch raises a
    plain RuntimeError for calls that it documents as unsafe under autocast. If the wording
    changes, such a call is reported as a deviation.
    """
    return "autocast" in f"{type(error).__name__}: {error}"[:200]


def loss_kernels(value: torch.Tensor) -> set[str]:
    """Return the names of the loss kernels of torch in the autograd graph of a result.

    An implementation may call torch's kernel of another loss, and then has the abilities of that
    loss. If torch renames the nodes of its graph, the abilities of its own loss are required.
    """
    seen: set[torch.autograd.graph.Node] = set() if value.grad_fn is None else {value.grad_fn}
    nodes = list(seen)
    while nodes:
        further = {node for node, _ in nodes.pop().next_functions if node is not None} - seen
        seen |= further
        nodes += further
    return {node.name() for node in seen if "LossBackward" in node.name()}


def drops_imaginary_part(said: Collection[str]) -> bool:
    """Return whether torch has warned that a conversion dropped an imaginary part."""
    return any(_dropped() in warning for warning in said)


@cache
def _dropped() -> str:
    """Return the warning of torch for a conversion of complex numbers to real ones."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.zeros((), dtype=torch.complex64).to(torch.float32)
    finally:
        torch.set_warn_always(before)
    # The location in torch's source, in brackets at the end, differs between kernels.
    return str(caught[0].message).partition(" (")[0]


def differentiable_once(node: torch.autograd.graph.Node) -> bool:
    """Return whether a node of a graph marks a backward that cannot be differentiated."""
    return node.name() == _once_name()


@cache
def _once_name() -> str:
    """Return the name of the node that marks a backward that cannot be differentiated."""

    class Once(torch.autograd.Function):
        """A function whose gradient cannot be differentiated."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
            return cotangent.clone()

    with torch.enable_grad():
        x = torch.zeros((), requires_grad=True)
        value: Any = Once.apply(x)  # type: ignore[no-untyped-call]
        cotangent = torch.ones((), requires_grad=True)
        (gradient,) = torch.autograd.grad(value, x, cotangent, create_graph=True)
    node = gradient.grad_fn
    assert node is not None, "torch marks no backward as one that cannot be differentiated"
    return str(node.name())
