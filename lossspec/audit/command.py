"""An audit from the command line: run it, print what was found, write the matrix and the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from lossspec.audit import Defect, Result, audit
from lossspec.audit.page import page
from lossspec.audit.table import matrix, summary, total
from lossspec.errors import ArgumentError
from lossspec.judging.profiles import Profile, profile_named
from lossspec.report.files import replace_file
from lossspec.spec.loss import Loss


def chosen(profile: str, cases: int | None) -> Profile:
    """Return a profile by name, with a number of cases of its own where one is given.

    Raises:
        UnknownName: when there is no such profile.
        ArgumentError: when the number is below 1.
    """
    found = profile_named(profile)
    if cases is None:
        return found
    if cases < 1:
        raise ArgumentError(f"--cases takes a whole number of 1 or more, got {cases}")
    return replace(found, examples=cases, even=True)


def report(
    defects: Iterable[tuple[Loss, Iterable[Defect]]],
    profile: str,
    seed: int,
    *,
    cases: int | None = None,
    matrix_file: Path | None = None,
    page_file: Path | None = None,
) -> int:
    """Audit the defects of each loss and print what was found; the exit status.

    The matrix and the page tell what each clause finds; without them a defect is done with when
    the first clause finds it.
    """
    torch.set_num_threads(1)
    settings = chosen(profile, cases)
    first_only = matrix_file is None and page_file is None
    results: list[Result] = []
    for loss, wrong in defects:
        found = list(audit(wrong, settings, seed, first_only=first_only, spec=loss))
        print(summary(loss.name, found), flush=True)
        results += found
    print(total(f"profile {settings.name}", results))
    if matrix_file is not None:
        replace_file(matrix_file, matrix(results))
        print(f"matrix: {matrix_file}")
    if page_file is not None:
        replace_file(page_file, page(f"profile {settings.name}, seed {seed}", results))
        print(f"page: {page_file}")
    return 0
