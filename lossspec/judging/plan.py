"""The plan of a run: the cells of the selected implementations, losses and clauses."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property

from lossspec.clauses import Clause, clauses, present_id
from lossspec.errors import ArgumentError, EmptyPlan, UnknownName
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.report.records import cell_id
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss, names_of
from lossspec.spec.roles import Surface


@dataclass(frozen=True)
class CellPlan:
    """One clause for one loss of one implementation, on one surface and one device.

    Attributes:
        implementation: The implementation under test.
        loss: The spec of the loss.
        surface: The surface on which the loss is called.
        clause: The clause to judge.
        device: The device of all tensors, such as `cuda:0`.
        under_test: The implementation of this loss. None if the implementation lacks it.
    """

    implementation: Implementation
    loss: Loss
    surface: Surface
    clause: Clause
    device: str
    under_test: LossUnderTest | None

    @property
    def id(self) -> str:
        """The id, which is unique in the report of the implementation."""
        return cell_id(self.loss.name, self.clause.name, self.surface, self.device)

    @property
    def key(self) -> str:
        """The id with the implementation's name, which is unique in the run."""
        return f"{self.implementation.name}:{self.id}"

    @cached_property  # each cell is compared with every other cell
    def campaign(self) -> str:
        """The name of the campaign, which is also the name of its pytest-xdist group."""
        return _campaign(self.implementation, self.loss, self.surface, self.device)

    @property
    def applies(self) -> bool:
        """Whether the clause applies to the loss, the surface and the device."""
        return self.clause.applies(self.loss, self.surface) and self.clause.speaks_on(self.device)


@dataclass(frozen=True)
class Plan:
    """A selection of implementations, losses, clauses and devices.

    Attributes:
        implementations: The implementations under test.
        losses: The names of the losses. None selects all losses.
        clauses: The names of the clauses, such as `value`. `l1_loss/value` selects a clause for one
            loss only. None selects all clauses.
        devices: The devices, such as `cuda:0`.
        slow: Whether slow clauses are selected when `clauses` is None.
        shard: `i/n` selects the i-th of n parts of the run. The cells of one campaign are always in
            the same part, on every machine. None selects the whole run.
    """

    implementations: Sequence[Implementation]
    losses: tuple[str, ...] | None = None
    clauses: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ("cpu",)
    slow: bool = True
    shard: str | None = None

    def __post_init__(self) -> None:
        if self.clauses is not None:
            object.__setattr__(self, "clauses", tuple(map(present_id, self.clauses)))

    def cells(self) -> Iterator[CellPlan]:
        """Yield every cell, including those whose clause does not apply.

        Losses are the outermost loop, so that implementations of a loss share its cases.
        """
        for loss in self.chosen_losses():
            for implementation in self.implementations:
                losses_under_test = {
                    under_test.surface: under_test
                    for under_test in implementation.losses_under_test(loss)
                }
                for surface in _surfaces(implementation, loss):
                    for device in self.devices:
                        if not self._mine(_campaign(implementation, loss, surface, device)):
                            continue
                        for clause in self.chosen_clauses(loss):
                            yield CellPlan(
                                implementation,
                                loss,
                                surface,
                                clause,
                                device,
                                losses_under_test.get(surface),
                            )

    def _mine(self, campaign: str) -> bool:
        if self.shard is None:
            return True
        part, count = map(int, self.shard.split("/"))
        return zlib.crc32(campaign.encode()) % count == part - 1

    def chosen_losses(self) -> list[Loss]:
        """Return the selected losses in the order of the catalogue.

        Raises:
            UnknownName: A selected name is not the name of a loss.
        """
        known = self._known()
        if self.losses is None:
            return known
        for name in self.losses:
            if not any(name in (loss.name, loss.module) for loss in known):
                raise UnknownName("loss", name, names_of(known))
        return [loss for loss in known if {loss.name, loss.module} & set(self.losses)]

    def _known(self) -> list[Loss]:
        known = dict(catalogue())
        for implementation in self.implementations:
            known |= {loss.name: loss for loss in implementation.own}
        return list(known.values())

    def chosen_clauses(self, loss: Loss) -> list[Clause]:
        """Return the clauses that are selected for a loss."""
        if self.clauses is None:
            return [clause for clause in clauses().values() if self.slow or not clause.slow]
        named = {f"{prefix}{name}": name for name in clauses() for prefix in _prefixes(loss)}
        wanted = {named[given] for given in self.clauses if given in named}
        return [clause for name, clause in clauses().items() if name in wanted]

    def check(self) -> None:
        """Check the names, the shard, and that there is something to judge.

        Raises:
            UnknownName: A loss or clause does not exist.
            ArgumentError: The shard is not of the form `i/n`, or a clause is named with its theme
                instead of a loss.
            EmptyPlan: No selected clause applies to a selected loss.
        """
        if self.shard is not None:
            match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", self.shard)
            if match is None or int(match[1]) > int(match[2]):
                raise ArgumentError(f"--shard takes i/n with 1 <= i <= n, got {self.shard!r}")
        self.chosen_losses()
        for given in self.clauses or ():
            name, slash, clause = given.rpartition("/")
            if clause in clauses() and clauses()[clause].theme == name:
                raise ArgumentError(
                    f"unknown loss {name!r} in clause {given!r}: {name} is the theme of clause "
                    f"{clause}; did you mean {clause}?"
                )
            if slash and not any(name in (loss.name, loss.module) for loss in self._known()):
                raise UnknownName("loss", name, names_of(self._known()))
            if clause not in clauses():
                raise UnknownName("clause", clause, list(clauses()))
        if not any(cell.applies for cell in replace(self, shard=None).cells()):
            losses = ", ".join(self.losses or ())
            if self.clauses:
                about = f"{losses or 'any loss'} on {', '.join(self.devices)}"
                why = f"no selected clause ({', '.join(self.clauses)}) applies to {about}"
            else:
                names = ", ".join(implementation.name for implementation in self.implementations)
                why = f"{names} has no {losses or 'loss'}"
            raise EmptyPlan(f"nothing to judge: {why}")

    def judgeable(self, implementation: Implementation | None = None) -> bool:
        """Return whether there is a cell that can be judged, in any part of the run.

        Args:
            implementation: Consider only cells of this implementation. None considers all.
        """
        return any(
            cell.applies and cell.under_test is not None and cell.clause.lacks is None
            for cell in replace(self, shard=None).cells()
            if implementation in (None, cell.implementation)
        )

    def absences(self, implementation: Implementation) -> str:
        """Return a text with the selected losses that an implementation lacks, and those it has.

        The text is empty if the implementation lacks none.
        """
        losses = self.chosen_losses()
        has = [loss.name for loss in self._known() if any(implementation.losses_under_test(loss))]
        lacks = [loss.name for loss in losses if loss.name not in has]
        if not lacks:
            return ""
        text = f"{implementation.name} has no {_some(lacks)}"
        if has:
            text += f"; it has {_some(has)}"
        near = [name for word in lacks for name in get_close_matches(word, has, 1)]
        return text + (f"; nearest: {', '.join(dict.fromkeys(near))}" if near else "")


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _campaign(implementation: Implementation, loss: Loss, surface: Surface, device: str) -> str:
    return f"{implementation.name}:{loss.name}-{surface}-{device}"


def _prefixes(loss: Loss) -> list[str]:
    return ["", f"{loss.name}/", f"{loss.module}/"]


def _surfaces(implementation: Implementation, loss: Loss) -> list[Surface]:
    surfaces: list[Surface] = []
    if implementation.functions:
        surfaces.append("function")
    if implementation.classes and loss.module:
        surfaces.append("class")
    # A loss counts as present if one of the two surfaces has it.
    present = [under_test.surface for under_test in implementation.losses_under_test(loss)]
    return present or surfaces[:1]
