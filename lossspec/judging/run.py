"""A run: campaigns, and the report cells that they give, for pytest and `lossspec.check`."""

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
    """The settings of a run, and the campaign that it made last.

    Attributes:
        profile: How many cases each campaign draws.
        seed: The seed of the drawn cases.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of each loss.
        require_all: Whether a missing loss or parameter is a deviation.
        known: Known deviations from the user's files.
        options: Further command line options that repeat this run.
        ship: Whether the known deviations that lossspec ships are used too.
        places: The directory of the crash checkpoints. None if no replacement worker can take over.
        on_progress: Called by each campaign with the number of its cases judged, of its cases to
            judge, and of its deviations.
        after_step: Called by each campaign after every call and every judgement.
        around: Returns the context manager in which a campaign runs, for the campaign's name.
        database: The Hypothesis database of failing cases, which the next run judges first.
        spent: The time that all campaigns took, in seconds.
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
    #: For each loss, the error in its spec. No further campaign starts for such a loss.
    _at_fault: dict[str, SpecError] = field(default_factory=dict)

    def judge(self, cell: CellPlan, beside: Iterable[CellPlan]) -> tuple[Cell, str]:
        """Judge one cell, and run its campaign first if it has not run yet.

        Args:
            cell: The cell to judge.
            beside: All cells of the same campaign that this run judges.

        Returns:
            The record of the cell, and the text of its reproduction script. The text is empty if
            there is no script.

        Raises:
            SpecError: The spec of the loss cannot be evaluated.
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
            # Cases take most of the memory, and the cells of earlier campaigns are complete.
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
        """Return the id of the cell that shows the cause of a record best.

        Args:
            cell: The cell of the record.
            record: The record of a cell that deviates.

        Returns:
            The id of a cell of the same campaign. None if the cause is unknown or the campaign is
            no longer kept.
        """
        return shows_cause(self.campaign(cell), record) if self.has(cell.campaign) else None

    def campaign(self, cell: CellPlan) -> Campaign:
        """Return the campaign in which a cell was judged."""
        return self._campaigns[cell.campaign]

    def has(self, campaign: str) -> bool:
        """Return whether a campaign of this name has run and is still kept."""
        return campaign in self._campaigns

    def seconds(self, cell: CellPlan) -> float:
        """Return the time that the clause of a cell took, in seconds; 0 if it was not judged."""
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
            # Deviations of torch are excused in other implementations, but not in torch itself.
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
        """Return the known deviations that apply to the loss, version, device and surface."""
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
        """Return the command that judges only this clause, on the same cases.

        Returns:
            The command line. None if the implementation was not loaded by a name.
        """
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
