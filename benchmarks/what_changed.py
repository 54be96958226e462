r"""Write the differences between an implementation's reports on two versions of torch to a page.

python benchmarks/what_changed.py OLD/conformance.json NEW/conformance.json docs/versions.md \
    --data tests/data/versions

writes the output of `lossspec diff OLD NEW` between the marks of the page. It stores the parts of
the reports that the diff reads, about 36 KiB each, in the folder `--data`. tests/test_versions.py
compares the page with them.
"""

import argparse
import gzip
import re
from dataclasses import replace
from pathlib import Path

from lossspec.render.diff import diff
from lossspec.report.records import Report

MARKS = re.compile(r"(<!-- what changed: .*? -->\n)(.*?)(<!-- end of what changed -->)", re.DOTALL)


def slim(report: Report) -> Report:
    """Return a report without the parts that a diff does not read: calls, numbers, the machine."""
    nothing = dict.fromkeys(
        ("case", "call", "got", "want", "budget", "repeat", "script", "deviation", "worst")
    )
    cells = tuple(
        replace(
            cell,
            **nothing,
            says="",
            dtypes=(),
            examples=0,
            informative=0,
            excused={},
            seconds=0.0,
            extra={},
        )
        for cell in report.cells
    )
    environment = replace(
        report.environment,
        command="pytest",
        platform="",
        processor="",
        devices=dict.fromkeys(report.environment.devices, ""),
        git_commit=None,
    )
    return replace(report, environment=environment, cells=cells)


def release(report: Report) -> str:
    """Return the version of torch without the suffix of its build."""
    return report.environment.torch.partition("+")[0]


def kept(report: Report) -> str:
    """Return the name of the file of a slim report."""
    return f"{report.implementation.name}-on-torch-{release(report)}.json.gz"


def written(report: Report) -> bytes:
    """Return the contents of the file of a slim report."""
    return gzip.compress(slim(report).to_json().encode(), mtime=0)


def read(path: Path) -> Report:
    """Return the slim report in a file."""
    return Report.from_json(gzip.decompress(path.read_bytes()))


def shown(old: Report, new: Report) -> str:
    """Return the text between the marks of the page."""
    return f"\n```text\n{diff(old, new).text()}```\n\n"


def main() -> None:
    """Rewrite the page and the stored reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    reports = [Report.read(path) for path in (options.old, options.new)]
    options.data.mkdir(parents=True, exist_ok=True)
    for report in reports:
        (options.data / kept(report)).write_bytes(written(report))
    text, made = options.page.read_text("utf-8"), shown(*reports)
    options.page.write_text(MARKS.sub(lambda found: found[1] + made + found[3], text), "utf-8")


if __name__ == "__main__":
    main()
