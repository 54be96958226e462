"""Scheduling under pytest-xdist: each campaign runs on one worker.

`WholeCampaigns` overrides and reads private names of `xdist.scheduler.LoadScopeScheduling`
(`_split_scope`, `_reschedule`, `assigned_work`, `registered_collections`, `workqueue`), because
xdist has no public interface for this. Checked with pytest-xdist 3.8.0;
tests/test_private_names.py fails if another version lacks one of the names.
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
    """A mixin for xdist's scheduler that gives whole campaigns to workers.

    After a crash, another worker takes the campaign over and skips the case in its crash
    checkpoint. After too many crashes, the campaign is given up. xdist's own groups are not used:
    xdist appends them to node ids, where pytest 9.2 no longer finds them.

    Attributes:
        campaigns: The campaign of each cell, by key.
        places: The folder of the crash checkpoints.
        deaths: The number of crashes that have been handled, by campaign.
        assigned_work: xdist's work of each worker.
        registered_collections: xdist's collected node ids of each worker.
        workqueue: xdist's work that no worker has.
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
        """Give the work of a crashed worker to others, unless its campaign crashed too many.

        Returns:
            The node id that xdist reports as crashed, or None if the campaign goes on.
        """
        work = self.assigned_work.pop(node)
        units = {scope: unit for scope, unit in work.items() if not all(unit.values())}
        if not units:
            return None
        scope = next(iter(units))
        ended = crashes(self.places, scope)
        crashed = len(ended)
        # A crash does not count if an earlier campaign may have damaged the process.
        own = sum(number != SUSPECT for number, _ in ended)
        goes_on = self.deaths.get(scope, 0) < crashed and own <= MOST_CRASHES
        lost = {} if goes_on else units.pop(scope)
        self.deaths[scope] = crashed
        self.workqueue.update(units)
        for other in self.assigned_work:
            self._reschedule(other)
        return next((item for item, done in lost.items() if not done), None)

    def _reschedule(self, node: Any) -> None:
        # xdist adds a replacement worker before that worker has collected anything.
        if node in self.registered_collections:
            super()._reschedule(node)  # type: ignore[misc]  # xdist's


def whole_campaigns(
    config: Any, log: Any, campaigns: Mapping[str, str], places: Path | None
) -> Any:
    """Return a scheduler for xdist that gives whole campaigns to workers.

    Args:
        config: The configuration of pytest.
        log: xdist's log.
        campaigns: The campaign of each cell, by key.
        places: The folder of the crash checkpoints.
    """
    xdist = importlib.import_module("xdist.scheduler").LoadScopeScheduling
    scheduling = type("CampaignScheduling", (WholeCampaigns, xdist), {})(config, log)
    scheduling.campaigns, scheduling.places, scheduling.deaths = campaigns, places, {}
    return scheduling


def cell_key(nodeid: str) -> str | None:
    """Return the key of the cell of an item; None for any other test."""
    match = _ITEM.search(nodeid)
    # pytest escapes characters outside ASCII in node ids.
    return match[1].encode("ascii", "backslashreplace").decode("unicode_escape") if match else None
