"""The wheel: its files, its entry points, and the suite run from it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, cwd: Path, path: str = "") -> str:
    """Run Python and return its output; a failure shows the whole output."""
    # The pytest around this one must not configure the one inside.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # Build from a copy: setuptools leaves a build folder that the next build would reuse.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lossspec", "suites"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(out))
    run("-m", "pip", "wheel", *options, str(source), cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Return a folder with the contents of the wheel, to put first on the path."""
    site = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel), cwd=site)
    return site


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_package_and_the_suites_ships(wheel):
    want = {
        Path(package, path.relative_to(ROOT / folder)).as_posix()
        for folder, package in (("lossspec", "lossspec"), ("suites", "lossspec/suites"))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert want - members(wheel) == set()


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [
        ("lossspec/suites/conformance/", ".py"),
        ("lossspec/suites/timing/", ".py"),
        ("lossspec/specs/", ".py"),
        ("lossspec/render/", ".j2"),
        ("lossspec/", ".json"),
        ("lossspec/deviations/", ".toml"),
    ],
)
def test_the_wheel_contains_each_kind_of_file(wheel, folder, suffix):
    assert [name for name in members(wheel) if name.startswith(folder) and name.endswith(suffix)]


def test_the_wheel_installs_nothing_else(wheel):
    assert {name.partition("/")[0] for name in members(wheel)} == {
        "lossspec",
        "lossspec-0.1.0.dist-info",
    }


def test_the_entry_points_are_declared(wheel):
    got = ConfigParser(delimiters="=")
    with zipfile.ZipFile(wheel) as archive:
        got.read_string(archive.read("lossspec-0.1.0.dist-info/entry_points.txt").decode())
    assert {group: dict(got[group]) for group in got.sections()} == {
        "console_scripts": {"lossspec": "lossspec.cli:main"},
        "pytest11": {"lossspec.plugin": "lossspec.plugin"},
        "hypothesis": {"lossspec": "lossspec.hypothesis_entry:register"},
        "lossspec.implementations": {
            "torch.nn": "lossspec.implementations.torch_nn:classes",
            "torch.nn.functional": "lossspec.implementations.torch_nn:functions",
            "oracle": "lossspec.implementations.oracle:oracle",
        },
    }


def test_the_suite_runs_from_an_installed_wheel_in_an_empty_folder(installed, tmp_path):
    output = run(
        *("-m", "pytest", "--pyargs", "lossspec.suites", "--impl=torch.nn.functional"),
        *("--loss", "margin_ranking_loss", "--clause", "value", "--profile", "quick"),
        cwd=tmp_path,
        path=str(installed),
    )
    report = tmp_path / "reports" / "torch.nn.functional" / "conformance.json"
    assert report.exists(), output
    artifact = json.loads(report.read_text("utf-8"))
    assert artifact["implementation"]["name"] == "torch.nn.functional"
    got = {(cell["loss"], cell["clause"], cell["verdict"]) for cell in artifact["cells"]}
    assert got == {("margin_ranking_loss", "value", "conforms")}


def test_an_installed_wheel_takes_precedence_over_the_checkout(installed, tmp_path):
    # The test above would otherwise test the checkout.
    program = "import lossspec.suites.conformance as suite; print(suite.__path__[0])"
    got = run("-c", program, cwd=tmp_path, path=str(installed)).strip()
    assert got == str(installed / "lossspec" / "suites" / "conformance")


@pytest.mark.parametrize(
    ("suite", "times"), [("lossspec.suites", False), ("lossspec.suites.timing", True)]
)
def test_the_timing_suite_of_a_wheel_runs_only_if_named(installed, tmp_path, suite, times):
    words = ("--impl=torch.nn", "--loss=mse_loss", "--collect-only", "-q")
    output = run("-m", "pytest", "--pyargs", suite, *words, cwd=tmp_path, path=str(installed))
    assert ("::test_timing[" in output, "::test_conformance[" in output) == (times, not times)
