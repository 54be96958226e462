"""Cases with the options of another case and another shape contract."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lossspec.cases.case import Case
from lossspec.cases.draw import drawn
from lossspec.errors import LossspecError
from lossspec.spec.loss import Form, Loss

T = TypeVar("T")


def in_other_contracts(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield a small case in each other shape contract and form, with the options of a case.

    Args:
        loss: The spec of the loss.
        case: The case whose parameters, reduction and optional tensors the others have. A contract
            that does not admit them has no case.
    """
    for form in loss.forms:
        for contract in form.contracts:
            if form.name == case.form and contract.text == case.contract:
                continue
            try:
                other = drawn(_Like(loss, case, form, contract.text), loss, (case.dtype,))
            except LossspecError:
                continue  # the options and the contract exclude each other
            common = other.parameters.keys() & case.parameters.keys()
            same = all(other.parameters[name] == case.parameters[name] for name in common)
            if same and other.reduction == case.reduction:
                yield other


@dataclass
class _Like:
    """The choices of a case in another contract, for `lossspec.cases.draw.drawn`.

    Attributes:
        loss: The spec of the loss.
        case: The case whose options are taken.
        form: The form of the other case.
        contract: The text of its shape contract.
    """

    loss: Loss
    case: Case
    form: Form
    contract: str

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """Return the choice of the case where it has one, and the first option otherwise."""
        kind, _, name = what.partition(" ")
        wanted: Any = options[0]
        if what == "form":
            wanted = self.form
        elif kind == "contract":
            wanted = next(c for c in self.form.contracts if c.text == self.contract)
        elif what == "spread":
            wanted = next((spread for spread in options if spread), wanted)
        elif what == "plain":
            wanted = False
        elif what in self.case.parameters:
            wanted = self.case.parameters[what]
        elif what == "reduction":
            wanted = self.case.reduction
        elif kind == "with":
            wanted = name in self.case.tensors
        elif what.endswith(" left out"):
            wanted = what.removesuffix(" left out") in self.case.omitted
        chosen: T = wanted if wanted in options else options[0]
        return chosen

    def seed(self) -> int:
        """Return a seed that depends only on the loss and the contract."""
        return zlib.crc32(f"{self.loss.name} {self.contract}".encode())
