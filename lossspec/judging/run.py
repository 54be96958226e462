"""Turn campaigns into report cells: shared by the suite's items and `lossspec.check`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis.database import ExampleDatabase

from lossspec.clauses import Clause
from lossspec.errors import SpecError
from lossspec.execution.checkpoint import CrashCheckpoint
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging import known_deviations
from lossspec.judging.campaign import Campaign, OnProgress
from lossspec.judging.cell_record import blank, record_of, shows_cause, stale
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import CellPlan
from lossspec.judging.profiles import Profile
from lossspec.report.records import Cell
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line


@dataclass
class Run:
    """The settings of a run, and the campaigns that it has made so far.

    require_all : whether a missing loss or parameter is a failure. known : entries of deviations
    files beyond the shipped ones, which `ship` turns off. options : what a repeated run needs too.
    places : a directory in which campaigns note where they are, for whoever takes them over.
    on_progress : called by each campaign with its cases done, its cases in all and its deviations.
    after_step : called by each campaign after every call and judgement. around : makes a context
    for each campaign, of which it is given the name. database : where the cases that fail are kept
    for the next run, which tries them first. spent : the seconds that all campaigns took.
    """

    profile: Profile
    seed: int = 0
    dtypes: tuple[str, ...] | None = None
    require_all: bool = False
    known: Sequence[KnownDeviation] = ()
    options: tuple[str, ...] = ()
    ship: bool = True
    places: Path | None = None
    on_progress: OnProgress | None = None
    after_step: Callable[[], None] = lambda: None
    around: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    database: ExampleDatabase | None = None
    spent: float = 0.0
    _campaigns: dict[str, Campaign] = field(default_factory=dict)
    #: By loss, what is wrong with its spec: no campaign of it is begun again.
    _at_fault: dict[str, SpecError] = field(default_factory=dict)

    def judge(self, cell: CellPlan, beside: Iterable[CellPlan]) -> tuple[Cell, str]:
        """The record of one cell and the text of its script, running its campaign if need be.

        beside : the cells of the same campaign that will be asked for too. SpecError where the spec
        cannot be judged by.
        """
        if cell.under_test is None:
            verdict = Verdict.DEVIATES if self.require_all else Verdict.UNSUPPORTED
            name = cell.loss.module if cell.surface == "class" else cell.loss.name
            reason = f"{one_line(cell.implementation.name)} has no {name}"
            for entry in self._listed(cell):
                if entry.clause == cell.clause.name:
                    return blank(cell, Verdict.DEVIATES, stale(entry, reason)), ""
            return blank(cell, verdict, reason), ""
        if cell.clause.lacks is not None:
            return blank(cell, Verdict.UNSUPPORTED, cell.clause.lacks), ""
        if cell.loss.name in self._at_fault:
            raise self._at_fault[cell.loss.name]
        if cell.campaign not in self._campaigns:
            # A campaign's cases are its memory: when its cells are done, nobody needs them again.
            self._campaigns.clear()
            try:
                ran = self._run(cell, [c.clause for c in beside if c.applies])
            except SpecError as error:
                self._at_fault[cell.loss.name] = error
                raise
            self._campaigns[cell.campaign] = ran
        campaign = self._campaigns[cell.campaign]
        return record_of(cell, campaign, self.repeat(cell), self.require_all)

    def shows_cause(self, cell: CellPlan, record: Cell) -> str | None:
        """Return the id of the cell beside a cell that shows the cause of its record best."""
        return shows_cause(self.campaign(cell), record) if self.has(cell.campaign) else None

    def campaign(self, cell: CellPlan) -> Campaign:
        """Return the campaign in which a cell was judged last."""
        return self._campaigns[cell.campaign]

    def has(self, campaign: str) -> bool:
        """Whether the campaign was made, and not yet forgotten for another."""
        return campaign in self._campaigns

    def seconds(self, cell: CellPlan) -> float:
        """Return what the clause of a cell took in its campaign, 0 if there was none."""
        if not self.has(cell.campaign):
            return 0.0
        clause_record = self.campaign(cell).clause_records.get(cell.clause.name)
        return 0.0 if clause_record is None else clause_record.seconds + clause_record.share

    def _run(self, cell: CellPlan, clauses: Sequence[Clause]) -> Campaign:
        assert cell.under_test is not None
        campaign = Campaign(
            cell.under_test,
            [clause for clause in clauses if clause.lacks is None],
            self.profile,
            self.seed,
            cell.device,
            self.dtypes,
            self._listed(cell),
            # A deviation of torch is its own; any other implementation has inherited it.
            None if cell.implementation.reference else torch_counterpart(cell.loss, cell.surface),
            checkpoint=None if self.places is None else CrashCheckpoint(self.places, cell.campaign),
            on_progress=self.on_progress,
            after_step=self.after_step,
            name=cell.campaign,
            database=self.database,
        )
        start = time.perf_counter()
        try:
            with self.around(cell.campaign):
                campaign.run()
            return campaign
        finally:
            self.spent += time.perf_counter() - start

    def _listed(self, cell: CellPlan) -> list[KnownDeviation]:
        """The known deviations that are about the cell's loss, here."""
        implementation = cell.implementation
        shipped = known_deviations.shipped(implementation.name) if self.ship else []
        return [
            entry
            for entry in (*shipped, *self.known)
            if entry.loss == cell.loss.name
            and entry.holds(implementation.version, cell.device, cell.surface)
            and (self.dtypes is None or entry.touches(self.dtypes))
        ]

    def repeat(self, cell: CellPlan) -> str | None:
        """The command that draws the same cases again and judges this clause alone, if one can."""
        if not cell.implementation.target:
            return None
        words = [
            "lossspec",
            "run",
            cell.implementation.name,
            f"--loss={cell.loss.name}",
            f"--clause={cell.clause.name}",
            f"--profile={self.profile.name}",
            f"--seed={self.seed}",
        ]
        if cell.device != "cpu":
            words.append(f"--device={cell.device}")
        if self.dtypes:
            words.append(f"--dtype={','.join(self.dtypes)}")
        return shlex.join([*words, *self.options])
