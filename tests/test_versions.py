"""The tested versions of torch: one list, which every other place repeats."""

import importlib.util
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from lossspec.judging import known_deviations
from lossspec.report.records import Report

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "versions.md").read_text("utf-8")
DATA = ROOT / "tests" / "data" / "versions"
#: By row of the table in the page: the version of torch, the tox environment, the constraints.
TESTED = re.findall(r"^\| ([\d.]+) \| `([\w-]+)` \| `([\w.-]+)` \|", PAGE, re.MULTILINE)

on_each_version = pytest.mark.parametrize(("version", "environment", "constraints"), TESTED)


def script():
    """Import the script that writes the part of the page about changes."""
    spec = importlib.util.spec_from_file_location(
        "what_changed", ROOT / "benchmarks" / "what_changed.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(file):
    """Return the pins of a constraints file without those of included files."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-c "))]


def tox():
    parser = ConfigParser()
    parser.read(ROOT / "tox.ini")
    return parser


def test_two_versions_are_tested():
    assert len(TESTED) >= 2
    assert sorted(TESTED) == TESTED


@on_each_version
def test_the_constraints_of_a_version_pin_it_once_and_share_the_rest(
    version, environment, constraints
):
    text = (ROOT / constraints).read_text("utf-8")
    assert text.count(f"\ntorch=={version}\n") == 1
    assert text.count("torch==") == 1
    assert text.count("\n-c constraints-shared.txt\n") == 1
    shared = {pin.partition("==")[0].lower() for pin in pins("constraints-shared.txt")}
    assert not {pin.partition("==")[0].lower() for pin in pins(constraints)} & shared
    assert "torch" not in shared


@on_each_version
def test_the_environment_of_a_version_applies_its_constraints(version, environment, constraints):
    section = tox()[f"testenv:{environment}"]
    assert section.get("constraints", tox()["testenv"]["constraints"]) == constraints
    bases = section.get("base", "testenv:conformance")
    commands = tox()["testenv:conformance"]["commands"]
    assert "testenv:conformance" in bases
    assert commands == "pytest --impl=torch.nn -n auto {posargs}"


@on_each_version
def test_ci_runs_the_suite_on_each_version(version, environment, constraints):
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    minor = ".".join(version.split(".")[:2])
    assert ci.count(f'\nstep "quick conformance, torch {minor}" judge {environment}\n') == 1


def test_every_constraints_file_belongs_to_a_version():
    files = {path.name for path in ROOT.glob("constraints*.txt")}
    others = {"constraints-shared.txt", "constraints-oldest-hypothesis.txt"}
    assert files == others | {file for _, _, file in TESTED}


def test_the_oldest_version_is_the_lower_bound_and_the_comment_names_all():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (needed,) = (
        word for word in tomllib.loads(text)["project"]["dependencies"] if word.startswith("torch")
    )
    minors = [".".join(version.split(".")[:2]) for version, _, _ in TESTED]
    assert needed == f"torch>={minors[0]}"
    (comment,) = re.findall(rf'"{needed}",  # (.*)', text)
    assert re.findall(r"\d+\.\d+", comment) == minors
    assert f"needs torch {minors[0]} or newer" in PAGE


def test_the_readme_links_to_the_page():
    assert "(docs/versions.md)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_every_version_condition_of_torch_holds_for_a_tested_version(name):
    for entry in known_deviations.shipped(name):
        met = [
            version
            for version, _, _ in TESTED
            for surface in known_deviations.SURFACES
            if entry.holds(version, "cpu", surface)
        ]
        assert met, (entry.loss, entry.clause, entry.when)


def test_the_page_shows_the_diff_of_the_stored_reports():
    what_changed = script()
    files = sorted(DATA.glob("*.json.gz"))
    old, new = map(what_changed.read, files)
    assert [what_changed.release(report) for report in (old, new)] == [
        version for version, _, _ in TESTED[-2:]
    ]
    assert [what_changed.kept(report) for report in (old, new)] == [file.name for file in files]
    assert old.implementation.name == new.implementation.name == "torch.nn"
    assert old.selection == new.selection
    assert {report.profile for report in (old, new)} == {"standard"}
    assert [cell.id for report in (old, new) for cell in report.failing] == []
    (shown,) = (found[1] for found in what_changed.MARKS.findall(PAGE))
    assert shown == what_changed.shown(old, new)
    assert sum(file.stat().st_size for file in files) < 80_000


def test_a_reduced_report_has_the_diff_of_the_whole_report():
    what_changed = script()
    report = Report.read(ROOT / "tests" / "data" / "conformance.json")
    stored = what_changed.slim(report)
    assert what_changed.shown(stored, stored) == what_changed.shown(report, report)
    assert what_changed.written(stored) == what_changed.written(report)
    assert str(ROOT) not in stored.to_json()
