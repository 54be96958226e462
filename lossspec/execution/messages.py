"""Texts and names of torch and Python that a verdict depends on.

No error class or attribute carries these facts. The wording was checked with torch 2.13.0 and
2.14.1 and Python 3.11. Names and warnings that torch can be made to show are read from the torch
in use. Each other function says what happens when its wording changes; tests/test_messages.py makes
torch and Python say each text, and fails then.
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
    """Whether an error says that memory does not suffice; an illegal access of it is a bug.

    An allocation on a processor fails with a plain RuntimeError. If its wording changes, a batch
    that this machine has no memory for counts as one that the implementation refuses.
    """
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or _NO_ROOM.search(str(error)) is not None


def unknown_keywords(error: BaseException, keywords: Collection[str]) -> set[str]:
    """Which of these keywords an error says to be unknown.

    If Python's wording changes, a call with an argument that an implementation lacks counts as one
    that raises, rather than as unsupported.
    """
    known = {*keywords}
    named = known & {*re.findall(r"unexpected keyword argument '(\w+)'", str(error))}
    if isinstance(error, TypeError) and _UNKNOWN.search(str(error)):
        named |= known - {"reduction"} & {*re.findall(r"\w+", str(error))}
    return named


def refuses_autocast(error: BaseException) -> bool:
    """Whether an error says that a call is not meant for autocast.

    It is asked of implementations that do not declare autocast. Torch raises a plain RuntimeError
    on accelerators for what it documents as unsafe there. If its wording changes, that counts as a
    deviation.
    """
    return "autocast" in f"{type(error).__name__}: {error}"[:200]


def loss_kernels(value: torch.Tensor) -> set[str]:
    """The names of torch's losses that a result was computed by, as its graph calls them.

    If torch names the nodes of its graph otherwise, an implementation that is made of torch's
    kernel of another loss is held to what its own loss supports.
    """
    seen: set[torch.autograd.graph.Node] = set() if value.grad_fn is None else {value.grad_fn}
    nodes = list(seen)
    while nodes:
        further = {node for node, _ in nodes.pop().next_functions if node is not None} - seen
        seen |= further
        nodes += further
    return {node.name() for node in seen if "LossBackward" in node.name()}


def drops_imaginary_part(said: Collection[str]) -> bool:
    """Whether one of these warnings is torch's of complex numbers that are made real ones."""
    return any(_dropped() in warning for warning in said)


@cache
def _dropped() -> str:
    """What torch warns of when complex numbers are made real ones."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.zeros((), dtype=torch.complex64).to(torch.float32)
    finally:
        torch.set_warn_always(before)
    # The place in torch's source that follows in brackets is another one for each kernel.
    return str(caught[0].message).partition(" (")[0]


def differentiable_once(node: torch.autograd.graph.Node) -> bool:
    """Whether a node of a graph stands for a backward that cannot be differentiated."""
    return node.name() == _once_name()


@cache
def _once_name() -> str:
    """The name of the node that torch puts behind a backward that cannot be differentiated."""

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
