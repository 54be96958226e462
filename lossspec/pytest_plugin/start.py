"""The start of a run: its session is made from its options."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lossspec.cases.hypothesis_runs import failures_database
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import ArgumentError, UnknownName
from lossspec.execution import timeout
from lossspec.execution.devices import chosen
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import profile_named
from lossspec.judging.run import Run
from lossspec.pytest_plugin.hypothesis_options import seed_given
from lossspec.pytest_plugin.options import given
from lossspec.pytest_plugin.session import ConformanceSession
from lossspec.report.folders import directory
from lossspec.safe_text import one_line


def session_of(config: pytest.Config, places: Path | None = None) -> ConformanceSession:
    """Return a session made from the options.

    Args:
        config: The configuration of pytest.
        places: The folder of the crash checkpoints; None in a run without workers.

    Raises:
        pytest.UsageError: An option has a value that is not allowed.
    """
    option = given(config.option)
    try:
        losses = split("--loss", option.loss)
        profile = profile_named(option.profile)
        dtypes = _dtypes(option.dtype)
        seed = _seed(option.seed or seed_given(config) or 0)
        names = list(dict.fromkeys(split("--impl", option.impl) or ()))
        plan = Plan(
            [load(name, losses or ()) for name in names],
            losses,
            split("--clause", option.clause),
            chosen(split("--device", option.device) or ("cpu",)),
            slow=option.profile != "quick",
            shard=option.shard,
        )
        plan.check()
        known = [e for path in option.deviations for e in known_deviations.read(Path(path))]
        for implementation in plan.implementations:
            known_deviations.shipped(implementation.name)
        reports = directory(option.reports, config.invocation_params.dir, names)
    except ValueError as error:
        raise pytest.UsageError(one_line(str(error))) from None
    more = tuple(f"--deviations={path}" for path in option.deviations)
    run = Run(profile, seed, dtypes, option.require_all, known, more, places=places)
    run.database = failures_database()
    torch.set_num_threads(1)
    timeout.ends_process()
    if not gc.get_freeze_count():
        gc.freeze()  # otherwise each collection visits a million objects of torch
    return ConformanceSession(config, plan, run, reports)


def split(option: str, values: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names given to a repeatable, comma-separated option; None if it was not given.

    Args:
        option: The option as typed, for the error message.
        values: The value of each occurrence.

    Raises:
        ArgumentError: The option was given without a name.
    """
    words = tuple(w.strip() for value in values for w in value.split(",") if w.strip())
    if values and not words:
        raise ArgumentError(f"{option} takes at least one name, got {','.join(values)!r}")
    return words or None


def _dtypes(values: Sequence[str]) -> tuple[str, ...] | None:
    dtypes = split("--dtype", values)
    for dtype in dtypes or ():
        if dtype not in REAL_DTYPES:
            raise UnknownName("dtype", dtype, REAL_DTYPES)
    return dtypes


def _seed(value: object) -> int:
    if not re.fullmatch(r"\d{1,18}", str(value)):
        raise ArgumentError(
            f"--seed takes a whole number of 0 or more with at most 18 digits, got {value!r}"
        )
    return int(str(value))
