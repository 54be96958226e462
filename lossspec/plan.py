"""What a run is about: the cells that a selection of implementations, losses and clauses gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lossspec.clauses import Clause, clauses
from lossspec.implementations import Implementation, Subject
from lossspec.spec import Loss, Surface, UnknownName, catalogue, find
from lossspec.verdict import cell_id


@dataclass(frozen=True)
class Cell:
    """One clause for one loss of one implementation, on a surface and a device."""

    implementation: Implementation
    loss: Loss
    surface: Surface
    clause: Clause
    device: str
    subject: Subject | None  # None where the implementation lacks the loss

    @property
    def id(self) -> str:
        """Unique within the implementation's report."""
        return cell_id(self.loss.name, self.clause.name, self.surface, self.device)

    @property
    def key(self) -> str:
        """Unique within the run."""
        return f"{self.implementation.name}:{self.id}"

    @property
    def campaign(self) -> str:
        """What it shares its cases with."""
        return f"{self.implementation.name}:{self.loss.name}[{self.surface}-{self.device}]"

    @property
    def applies(self) -> bool:
        """Whether the spec gives the clause anything to say here."""
        return self.clause.applies(self.loss, self.surface)


@dataclass(frozen=True)
class Plan:
    """A selection. losses, clauses : names, all of them when None; `loss/clause` names one cell.

    slow : whether slow clauses are in it when clauses are not named.
    """

    implementations: Sequence[Implementation]
    losses: tuple[str, ...] | None = None
    clauses: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ("cpu",)
    slow: bool = True

    def cells(self) -> Iterator[Cell]:
        """Every cell, also those that do not apply; losses outermost, so that cases are shared."""
        for loss in self.chosen_losses():
            for implementation in self.implementations:
                subjects = {subject.surface: subject for subject in implementation.subjects(loss)}
                for surface in _surfaces(implementation, loss):
                    for device in self.devices:
                        for clause in self.chosen_clauses(loss):
                            yield Cell(
                                implementation,
                                loss,
                                surface,
                                clause,
                                device,
                                subjects.get(surface),
                            )

    def chosen_losses(self) -> list[Loss]:
        """The losses asked for, in the catalogue's order; UnknownName when there is none such."""
        known = dict(catalogue())
        for implementation in self.implementations:
            known |= {loss.name: loss for loss in implementation.own}
        if self.losses is None:
            return list(known.values())
        wanted = {name if name in known else find(name).name for name in self.losses}
        return [loss for name, loss in known.items() if name in wanted]

    def chosen_clauses(self, loss: Loss) -> list[Clause]:
        """The clauses asked for of one loss."""
        if self.clauses is None:
            return [clause for clause in clauses().values() if self.slow or not clause.slow]
        return [
            clause
            for name, clause in clauses().items()
            if name in self.clauses or f"{loss.name}/{name}" in self.clauses
        ]

    def check(self) -> None:
        """Raise UnknownName for a name that is neither a loss nor a clause."""
        self.chosen_losses()
        for given in self.clauses or ():
            loss, slash, clause = given.rpartition("/")
            if slash:
                find(loss)
            if clause not in clauses():
                raise UnknownName("clause", given, list(clauses()))


def _surfaces(implementation: Implementation, loss: Loss) -> list[Surface]:
    surfaces: list[Surface] = []
    if implementation.functions:
        surfaces.append("function")
    if implementation.classes and loss.module:
        surfaces.append("class")
    # With both surfaces, the one that lacks a loss is no gap when the other has it.
    present = [subject.surface for subject in implementation.subjects(loss)]
    return present or surfaces[:1]
