"""The catalogue: every loss with a spec, shipped or from an entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lossspec.errors import UnknownName, warn_of_left_out
from lossspec.spec.loss import Loss, names_of

#: The package with a module for each shipped loss. It is imported by name, as plug-ins are.
SHIPPED = "lossspec.specs"
ENTRY_POINTS = "lossspec.specs"


@cache
def catalogue() -> Mapping[str, Loss]:
    """Return every loss with a spec, by function name and in alphabetical order.

    A spec from an entry point that cannot be loaded is left out with a warning.
    """
    specs = importlib.import_module(SHIPPED)
    losses = [
        importlib.import_module(f"{SHIPPED}.{module.name}").spec
        for module in pkgutil.iter_modules(specs.__path__)
    ]
    known = {loss.name: loss for loss in losses}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loss = _loaded(entry, known)
        except (Exception, SystemExit) as error:  # another package's error must not stop a run
            warn_of_left_out("spec", entry, error)
        else:
            known[loss.name] = loss
    return dict(sorted(known.items()))


def _loaded(entry: EntryPoint, known: Collection[str]) -> Loss:
    """Return the spec of an entry point, after checking its type, name and examples."""
    loss = entry.load()
    if not isinstance(loss, Loss):
        raise TypeError(f"group {ENTRY_POINTS!r} must give a Loss, got {loss!r}")
    if loss.name in known:
        raise ValueError(f"another spec is named {loss.name!r}")
    # Imported by name, since the oracle imports this package. Shipped specs do not need the check.
    importlib.import_module("lossspec.oracle.examples").check_examples(loss)
    return loss


def find(name: str) -> Loss:
    """Return the spec of one loss.

    Args:
        name: The name of its function or of its class.

    Raises:
        UnknownName: No loss has this name; the message lists the known names.
    """
    for loss in catalogue().values():
        if name in (loss.name, loss.module):
            return loss
    raise UnknownName("loss", name, names_of(catalogue().values()))
