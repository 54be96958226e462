"""Rules for the code: the order of packages, and module names with a meaning."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VAGUE = {"utils", "helpers", "common", "base", "manager"}
LINTER = Path(sys.executable).with_name("lint-imports")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the pyproject.toml of a project."""
    return subprocess.run(
        [LINTER, "--no-cache", "pyproject.toml"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_packages_import_only_lower_packages():
    got = lint_imports(ROOT)
    assert got.returncode == 0, got.stdout + got.stderr


def copied(root: Path) -> None:
    """Copy the sources of the package and its contracts."""
    for path in (*(ROOT / "lossspec").rglob("*.py"), ROOT / "pyproject.toml"):
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def test_a_package_outside_the_layers_is_found(tmp_path):
    copied(tmp_path)
    (tmp_path / "lossspec" / "further").mkdir()
    (tmp_path / "lossspec" / "further" / "__init__.py").write_text('"""New."""\n', "utf-8")
    got = lint_imports(tmp_path)
    assert got.returncode == 1, got.stdout + got.stderr
    assert "lossspec.further" in got.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("spec/roles.py", "from lossspec.cases.case import Case", "packages stand in one order"),
        ("report/files.py", "def late():\n    import torch", "reports are read without torch"),
        ("clauses/shape.py", "import pytest", "specs and clauses do not know pytest"),
    ],
)
def test_an_import_from_a_higher_layer_is_found(tmp_path, module, line, broken):
    copied(tmp_path)
    changed = tmp_path / "lossspec" / module
    changed.write_text(f"{changed.read_text('utf-8')}\n{line}\n", "utf-8")
    got = lint_imports(tmp_path)
    assert got.returncode == 1, got.stdout + got.stderr
    assert f"{broken} BROKEN" in got.stdout


def test_reading_reports_does_not_import_torch():
    modules = "lossspec.report, lossspec.report.merge, lossspec.render, lossspec.render.diff"
    got = subprocess.run(
        [sys.executable, "-c", f"import {modules}, sys; print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (got.stdout, got.stderr) == ("False\n", "")


def test_no_module_has_a_vague_name():
    paths = [path for top in ("lossspec", "suites", "tests") for path in (ROOT / top).rglob("*.py")]
    assert len(paths) > 1
    assert [str(path) for path in paths if {path.stem, *path.parts} & VAGUE] == []
