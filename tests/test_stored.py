"""Stored reports: lossspec keeps reading, showing and comparing what it once wrote.

tests/data/stored/report.json is a part of a report as version 1 of the schema was first written.
report-of-another-version.json has keys of no version, and lacks every optional key.
Neither is regenerated when the records change.
"""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from lossspec.cli import main
from lossspec.render import render_all
from lossspec.render.badge import badge
from lossspec.render.diff import Kind, diff
from lossspec.render.html import page
from lossspec.render.markdown import summary
from lossspec.render.terminal import screen
from lossspec.report.records import UNKNOWN, Artifact, Report
from lossspec.report.schema import artifacts, schema, text
from lossspec.report.verdict import Verdict
from lossspec.timing.results import TimingReport

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).parent / "data" / "stored"
FIRST = STORED / "report.json"
OTHER = STORED / "report-of-another-version.json"
BOTH = pytest.mark.parametrize("path", [FIRST, OTHER], ids=lambda path: path.stem)
COUNTS = {
    FIRST: {"conforms": 3, "known": 2, "not-applicable": 3, "inconclusive": 1, "unsupported": 3},
    OTHER: {"conforms": 2, "deviates": 1, "not-applicable": 3},
}


@BOTH
def test_a_stored_report_can_be_read(path):
    report = Report.read(path)
    assert {str(v): count for v, count in report.counts.items() if count} == COUNTS[path]
    assert Report.from_json(report.to_json()) == report


@BOTH
def test_a_stored_report_fits_the_schema_before_and_after_rewriting(path):
    validator = jsonschema.Draft202012Validator(schema(Report))
    validator.validate(json.loads(path.read_text("utf-8")))
    validator.validate(Report.read(path).to_data())


@BOTH
def test_a_stored_report_can_be_rendered(path, tmp_path, capsys):
    report = Report.read(path)
    shown = page(report), summary(report), screen(report)
    for rendered in shown:
        assert report.implementation.name in rendered
        assert "None" not in rendered.partition("<script")[0]
    for cell in report.cells:
        assert cell.id in shown[0]
    assert json.loads(badge(report))["message"]
    assert main(["render", str(path), "-o", str(tmp_path)]) == 0
    assert [Path(line) for line in capsys.readouterr().out.split()] == render_all(report, tmp_path)


@BOTH
def test_a_stored_report_can_be_compared_with_itself(path, capsys):
    assert main(["diff", str(path), str(path)]) == 0
    assert "no regression" in capsys.readouterr().out


def test_a_stored_report_can_be_compared_with_another_version():
    found = diff(Report.read(FIRST), Report.read(OTHER))
    assert found.count(Kind.CHANGED) == 1
    assert [change.id for change in found.regressions if change.new] == [
        change.id for change in found.changes if change.kind is Kind.CHANGED
    ]
    assert "seed unknown" in found.text()


def test_missing_keys_of_a_report_are_unknown():
    report = Report.read(OTHER)
    assert (report.profile, report.seed, report.selection.known) == (UNKNOWN, None, False)
    assert (report.environment.torch, report.environment.numpy) == ("9.9", UNKNOWN)
    assert report.cells[0].extra == {"later": {"x": 1}}
    known = [cell.deviation for cell in report.cells if cell.deviation]
    assert [(entry.reason, entry.link, entry.file) for entry in known] == [("", None, None)]
    assert report.failing[0].verdict is Verdict.DEVIATES


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (["seed"], "7", "seed: got '7', want a whole number"),
        (["environment", "torch"], None, "environment.torch: got None, want a string"),
        (["cells", 1, "verdict"], "fine", r"cells\[1\].verdict: got 'fine', want one of conforms"),
        (["environment", "started"], "noon", "environment.started: got 'noon', want an ISO-8601"),
    ],
)
def test_a_wrong_type_in_a_report_is_a_one_line_error(tmp_path, place, value, problem):
    data = json.loads(OTHER.read_text("utf-8"))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "report.json"
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(ValueError, match=problem) as caught:
        Report.read(path)
    assert "\n" not in str(caught.value)


# === the schemas ==========================================================================


@pytest.mark.parametrize("kind", [Report, TimingReport])
def test_the_committed_schema_matches_the_records(kind):
    ((path, artifact),) = [each for each in artifacts() if each[1] is kind]
    assert path.read_text("utf-8") == text(artifact), "run `python -m lossspec.report.schema`"
    jsonschema.Draft202012Validator.check_schema(schema(artifact))


def test_one_command_writes_both_schemas():
    kinds = {artifact.KIND for _, artifact in artifacts()}
    assert kinds == {kind.KIND for kind in Artifact.__subclasses__()} == {"conformance", "timing"}
    done = subprocess.run(
        [sys.executable, "-m", "lossspec.report.schema"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(path) for path, _ in artifacts()]


def test_a_published_report_fits_the_schema():
    paths = sorted((ROOT / "reports" / "published").glob("*/conformance.json"))
    assert paths
    validator = jsonschema.Draft202012Validator(schema(Report))
    for path in paths:
        validator.validate(json.loads(path.read_text("utf-8")))


def test_the_schema_refuses_wrong_types():
    validator = jsonschema.Draft202012Validator(schema(Report))
    data = json.loads(FIRST.read_text("utf-8"))
    for key, value in (("worst", "huge"), ("seconds", "inf"), ("examples", -1), ("deviation", 7)):
        wrong = json.loads(json.dumps(data))
        wrong["cells"][0][key] = value
        assert not validator.is_valid(wrong), key
