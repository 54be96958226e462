"""Workers of pytest-xdist: one worker for each campaign.

`WholeCampaigns` overrides and reads private names of `xdist.scheduler.LoadScopeScheduling`
(`_split_scope`, `_reschedule`, `assigned_work`, `registered_collections`, `workqueue`), since xdist
has no public way to deal out tests. Checked with pytest-xdist 3.8.0; tests/test_private_names.py
fails where another version lacks one of them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossspec.execution.checkpoint import SUSPECT, crashes
from lossspec.thresholds import MOST_CRASHES

_ITEM = re.compile(r"test_conformance\.py::test_conformance\[(.*?\[[^\[\]]*\])\](@.*)?$")


class WholeCampaigns:
    """Mixed into xdist's scheduler: a campaign is one worker's, until it has killed it too often.

    Whoever takes it over knows from its checkpoint what to leave out. xdist's own groups are not
    used because they are spelled into node ids, in a way that pytest 9.2 no longer sees.
    """

    campaigns: Mapping[str, str]
    places: Path | None
    deaths: dict[str, int]
    assigned_work: dict[Any, dict[str, dict[str, bool]]]
    registered_collections: dict[Any, list[str]]
    workqueue: dict[str, dict[str, bool]]

    def _split_scope(self, nodeid: str) -> str:
        return self.campaigns.get(cell_key(nodeid) or "", nodeid)

    def remove_node(self, node: Any) -> str | None:
        """Pass on the work of a dead worker; what has killed too many is lost."""
        work = self.assigned_work.pop(node)
        units = {scope: unit for scope, unit in work.items() if not all(unit.values())}
        if not units:
            return None
        scope = next(iter(units))
        ended = crashes(self.places, scope)
        told = len(ended)
        # A process that an earlier campaign may have damaged is not held against this one.
        accused = sum(number != SUSPECT for number, _ in ended)
        goes_on = self.deaths.get(scope, 0) < told and accused <= MOST_CRASHES
        lost = {} if goes_on else units.pop(scope)
        self.deaths[scope] = told
        self.workqueue.update(units)
        for other in self.assigned_work:
            self._reschedule(other)
        return next((item for item, done in lost.items() if not done), None)

    def _reschedule(self, node: Any) -> None:
        # A worker that replaces a dead one is known before it has collected anything.
        if node in self.registered_collections:
            super()._reschedule(node)  # type: ignore[misc]  # xdist's


def whole_campaigns(
    config: Any, log: Any, campaigns: Mapping[str, str], places: Path | None
) -> Any:
    """Make a scheduler of xdist that deals out whole campaigns.

    campaigns : of each cell, by key. places : where campaigns note where they are.
    """
    xdist = importlib.import_module("xdist.scheduler").LoadScopeScheduling
    scheduling = type("CampaignScheduling", (WholeCampaigns, xdist), {})(config, log)
    scheduling.campaigns, scheduling.places, scheduling.deaths = campaigns, places, {}
    return scheduling


def cell_key(nodeid: str) -> str | None:
    """The cell of an item of the suite; None for any other test."""
    match = _ITEM.search(nodeid)
    # pytest writes what is not ASCII with escapes.
    return match[1].encode("ascii", "backslashreplace").decode("unicode_escape") if match else None
