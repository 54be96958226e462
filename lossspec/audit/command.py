"""The audit on the command line: it prints a summary, and writes the matrix and the page."""

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
    """Return a profile by name, with another number of cases if one is given.

    Raises:
        UnknownName: If there is no profile of that name.
        ArgumentError: If the number of cases is below 1.
    """
    found = profile_named(profile)
    if cases is None:
        return found
    if cases < 1:
        raise ArgumentError(f"--cases takes a whole number of 1 or more, got {cases}")
    return replace(found, examples=cases, each_dtype=0, even=True)


def report(
    defects: Iterable[tuple[Loss, Iterable[Defect]]],
    profile: str,
    seed: int,
    *,
    cases: int | None = None,
    matrix_file: Path | None = None,
    page_file: Path | None = None,
) -> int:
    """Audit the defects of each loss, print a summary, and return the exit status.

    Without a matrix and a page, judging a defect stops at its first deviation. With either of them,
    all clauses judge all cases.

    Args:
        defects: Each loss with its defects.
        profile: The name of the profile.
        seed: The seed of the stream of cases.
        cases: The number of cases for each loss; None for that of the profile.
        matrix_file: The Markdown file to write the matrix to; None for no matrix.
        page_file: The HTML file to write the page to; None for no page.
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
