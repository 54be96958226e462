"""Late imports: commands that only read and print do not load torch, which takes seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STORED = Path(__file__).parent / "data" / "conformance.json"
COMMAND = """
import sys
from lossspec.cli import main
status = main(sys.argv[1:])
print(status, "torch._C" in sys.modules, file=sys.stderr)
"""


def python(code, *arguments, cwd):
    """Run code in a separate process and return its standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("show mse_loss", "mse_loss (MSELoss)"),
        ("show AdaptiveLogSoftmaxWithLoss", "adaptive_log_softmax_with_loss"),
        ("list losses", "cross_entropy"),
        ("list clauses", "value/value"),
        ("list implementations", "torch.nn.functional"),
        ("diff report.json report.json", "no regression"),
        ("merge report.json -o merged.json", "report: merged.json"),
        ("render report.json -o pages", "pages/index.html"),
    ],
)
def test_a_command_that_only_prints_does_not_load_torch(tmp_path, words, printed):
    shutil.copy(STORED, tmp_path / "report.json")
    out, err = python(COMMAND, *words.split(), cwd=tmp_path)
    status, loaded = err.split()  # nothing else is printed there
    assert (status, loaded) == (str(int("merge" in words)), "False")  # its report has deviations
    assert printed in out


def test_show_prints_the_same_with_torch_loaded(tmp_path):
    late, _ = python(COMMAND, "show", "cross_entropy", cwd=tmp_path)
    loaded, _ = python(f"import torch\n{COMMAND}", "show", "cross_entropy", cwd=tmp_path)
    assert late == loaded
    assert "deprecated-reductions" in late


def test_tomlkit_is_loaded_only_to_edit_a_file(tmp_path):
    (tmp_path / "known.toml").write_text("# none\n")
    code = """
import sys
from lossspec.cli import main
main(["deviations", "torch.nn", "--file=known.toml"])
import lossspec.judging.known_file as known_file
print("tomlkit" in sys.modules)
print(known_file.edited("known.toml", "# none", [], {}, ["[[deviation]]\\n"]).split())
print("tomlkit" in sys.modules)
"""
    out, err = python(code, cwd=tmp_path)
    assert (out, err) == ("False\n['#', 'none', '[[deviation]]']\nTrue\n", "")


LATE = """
from lossspec.late_import import import_late
import_late("PACKAGE")
import sys
import PACKAGE
import PACKAGE
assert "PACKAGE.part" not in sys.modules, "it is loaded too early"
"""


@pytest.fixture
def package(tmp_path):
    """Return code for a package that prints when it is executed and when its submodule is."""
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted" / "__init__.py").write_text(
        "print('package')\nfrom counted.part import word\nother = 1\n"
    )
    (tmp_path / "counted" / "part.py").write_text("print('part')\nword = 'said'\n")
    (tmp_path / "counted" / "apart.py").write_text("print('apart')\n")
    return LATE.replace("PACKAGE", "counted")


@pytest.mark.parametrize(
    ("use", "printed"),
    [
        ("pass", ""),
        ("print(counted.word)", "package\npart\nsaid\n"),
        ("import counted.part; print(counted.part.word)", "package\npart\nsaid\n"),
        ("from counted.part import word; print(word)", "package\npart\nsaid\n"),
        ("from counted import apart, other; print(other)", "package\npart\napart\n1\n"),
        (
            "import counted.part; print(counted.part.__spec__.origin is not None)",
            "package\npart\nTrue\n",
        ),
    ],
)
def test_a_late_package_is_executed_once_at_its_first_use(tmp_path, package, use, printed):
    assert python(package + use, cwd=tmp_path) == (printed, "")


def test_a_failing_late_import_raises_the_original_error(tmp_path, package):
    (tmp_path / "counted" / "__init__.py").write_text("raise OSError('no library')\n")
    out, err = python(package + "counted.word", cwd=tmp_path)
    assert (out, err.splitlines()[-1]) == ("", "OSError: no library")


def test_a_late_import_of_an_absent_package_raises_as_usual(tmp_path):
    code = (
        "from lossspec.late_import import import_late\nimport_late('not_there')\nimport not_there"
    )
    _, err = python(code, cwd=tmp_path)
    assert err.splitlines()[-1] == "ModuleNotFoundError: No module named 'not_there'"


def test_torch_works_after_a_late_import(tmp_path):
    code = """
from lossspec.late_import import import_late
import_late("torch")
from torch.nn import functional
import torch
print(functional.mse_loss(torch.ones(2), torch.zeros(2)).item(), torch.nn.functional is functional)
"""
    assert python(code, cwd=tmp_path) == ("1.0 True\n", "")


def test_a_run_does_not_let_pytest_rewrite_hypothesis(workplace):
    workplace.write(
        mine="from torch.nn.functional import l1_loss",
        test_own="""
            import hypothesis.internal.conjecture.engine as engine

            def test_it_was_loaded_as_it_is():
                assert "AssertionRewritingHook" not in type(engine.__spec__.loader).__name__
        """,
    )
    words = ("--impl=mine", "--loss=l1_loss", "--clause=accepts", "--profile=quick")
    ran = workplace.apart("-m", "pytest", "--pyargs", "lossspec.suites", "test_own.py", *words)
    assert ran.status == 0, ran.out
