"""The catalogue: every specified loss, shipped or from an entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lossspec.errors import UnknownName, warn_of_left_out
from lossspec.spec.loss import Loss, names_of

#: The package with a file for each shipped loss, loaded by name as plug-ins are.
SHIPPED = "lossspec.specs"
ENTRY_POINTS = "lossspec.specs"


@cache
def catalogue() -> Mapping[str, Loss]:
    """Every specified loss by name: the files of `lossspec.specs`, then entry points."""
    specs = importlib.import_module(SHIPPED)
    losses = [
        importlib.import_module(f"{SHIPPED}.{module.name}").spec
        for module in pkgutil.iter_modules(specs.__path__)
    ]
    known = {loss.name: loss for loss in losses}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loss = _loaded(entry, known)
        except (Exception, SystemExit) as error:  # what somebody else installed stops nobody
            warn_of_left_out("spec", entry, error)
        else:
            known[loss.name] = loss
    return dict(sorted(known.items()))


def _loaded(entry: EntryPoint, known: Collection[str]) -> Loss:
    loss = entry.load()
    if not isinstance(loss, Loss):
        raise TypeError(f"group {ENTRY_POINTS!r} must give a Loss, got {loss!r}")
    if loss.name in known:
        raise ValueError(f"another spec is named {loss.name!r}")
    # By name: the oracle builds on this package, and only specs from outside need it here.
    importlib.import_module("lossspec.oracle.examples").check_examples(loss)
    return loss


def find(name: str) -> Loss:
    """The spec of one loss, by function or class name; UnknownName lists the known ones."""
    for loss in catalogue().values():
        if name in (loss.name, loss.module):
            return loss
    raise UnknownName("loss", name, names_of(catalogue().values()))
