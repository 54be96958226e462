"""Renderings of the artifact: HTML, Markdown, badge, diff and a terminal screen."""

from os import PathLike
from pathlib import Path

from lossspec.render import badge, html, markdown
from lossspec.report.files import replace_file
from lossspec.report.records import Report


def render_all(report: Report, directory: str | PathLike[str]) -> list[Path]:
    """Write index.html, summary.md and badge.json into a directory, and return their paths."""
    texts = {
        "index.html": html.page(report),
        "summary.md": markdown.summary(report),
        "badge.json": badge.badge(report),
    }
    for name, text in texts.items():
        replace_file(Path(directory, name), text)
    return [Path(directory, name) for name in texts]
