"""Implementations named by a file path: discovery, workers, scripts and errors."""

import pickle
import shlex
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from lossspec import parametrize
from lossspec.errors import ImplementationError
from lossspec.execution.loading import load

LOSSES = """
    from beside import half

    __version__ = "3.1"

    def mse_loss(input, target, reduction="mean"):
        losses = half(input - target) ** 2
        return losses if reduction == "none" else getattr(losses, reduction)()

    class MSELoss:
        pass

    def squared(input, target, reduction="mean"):
        return mse_loss(input, target, reduction)
"""
BESIDE = "def half(x):\n    return x / 2\n"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


def problem(name: str, losses: tuple[str, ...] = ()) -> str:
    """Return the error message about a name that cannot be loaded."""
    with pytest.raises(ImplementationError) as caught:
        load(name, losses)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"--impl {name}: ")
    return line.removeprefix(f"--impl {name}: ")


@pytest.mark.parametrize("path", ["mine.py", "./mine.py", "to/my losses.py", "a.b-c.py"])
def test_a_file_is_an_implementation_and_imports_its_neighbours(here, path):
    write(here / path, LOSSES)
    write((here / path).with_name("beside.py"), BESIDE)
    got = load(path)
    assert (got.name, got.target, got.version) == (path, path, "3.1")
    assert got.found == {"mse_loss": f"{path}:mse_loss", "MSELoss": f"{path}:MSELoss"}


def test_an_attribute_of_a_file_is_an_implementation(here):
    write(here / "mine.py", LOSSES)
    write(here / "beside.py", BESIDE)
    got = load("mine.py:squared", ("mse_loss",))
    assert (list(got.functions), got.found) == (["mse_loss"], {"mse_loss": "mine.py:squared"})
    assert (got.name, got.target) == ("mine.py:squared", "mine.py:squared")


def test_a_path_may_be_absolute_or_start_at_home(here, monkeypatch):
    write(here / "mine.py", LOSSES)
    write(here / "beside.py", BESIDE)
    monkeypatch.setenv("HOME", str(here))
    assert load("~/mine.py").version == load(f"{here}/mine.py").version == "3.1"


def test_files_with_the_same_name_are_kept_apart(here):
    for folder in ("a", "b"):
        write(here / folder / "mine.py", f"def l1_loss(input, target): return {folder!r}\n")
    got = [load(f"{folder}/mine.py").functions["l1_loss"](0, 0) for folder in "aba"]
    assert got == ["a", "b", "a"]


def test_a_file_does_not_replace_an_imported_module_of_the_same_name(here):
    write(here / "torch.py", "def l1_loss(input, target): return 1\n")
    import torch

    assert load("torch.py").functions["l1_loss"](0, 0) == 1
    assert sys.modules["torch"] is torch


def test_a_class_in_a_file_can_be_pickled(here):
    write(here / "mine.py", LOSSES)
    write(here / "beside.py", BESIDE)
    made = load("mine.py").classes["MSELoss"]()
    assert type(pickle.loads(pickle.dumps(made))) is type(made)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("mime.py", "there is no file 'mime.py'; did you mean mine.py?"),
        ("mime.py:mse_loss", "there is no file 'mime.py'; did you mean mine.py?"),
        ("too/inner.py", "there is no file 'too/inner.py'; did you mean to/inner.py?"),
        ("two/mine.py", "there is no file 'two/mine.py'; did you mean mine.py?"),
        ("far/away.py", "there is no file 'far/away.py'"),
        ("mine.py::l1_loss", "write one colon before an attribute; try mine.py:l1_loss"),
        ("mine.py:l1_los", "'mine.py' has no attribute 'l1_los'; did you mean l1_loss?"),
        ("mine.py:", "no attribute follows the colon; name one or remove the colon"),
        ("to/inner", "'to/inner' is not the full name of a module; did you mean to/inner.py?"),
        ("to", "nothing in it is named like a loss, such as cross_entropy or CrossEntropyLoss; "),
        ("./to", "'./to' is not the full name of a module; it is a directory; name a file in it"),
        ("folder.py", "'folder.py' is a directory; name a file in it: x.py"),
        ("a", "no entry point of that name "),
        ("b.py", "there is no file 'b.py'; commas separate implementations, so 'a,b.py' needs"),
        ("empty.py", "nothing in it is named like a loss"),
    ],
)
def test_a_missing_path_is_a_one_line_error_with_the_nearest_name(here, name, want):
    for path in ("mine.py", "to/inner.py", "folder.py/x.py", "a,b.py"):
        write(here / path, "def l1_loss(input, target): ...\n")
    write(here / "empty.py")
    got = problem(name)
    assert got.startswith(want), got


def test_a_name_with_a_comma_is_explained_in_the_error(here):
    write(here / "a,b.py")
    assert problem("a").endswith(
        "; commas separate implementations, so 'a,b.py' needs another name"
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("import torch\n\ndef f(:\n", "SyntaxError: “invalid syntax” (to/mine.py, line 3)"),
        ("import nosuch\n", "ModuleNotFoundError: “No module named 'nosuch'” (to/mine.py, line 1)"),
        ("x = 1\nx / 0\n", "ZeroDivisionError: “division by zero” (to/mine.py, line 2)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: “3” (to/mine.py, line 2)"),
        (
            # raised in a library: the message shows the line of the file that called it
            "import json\n\njson.loads('{')\n",
            "JSONDecodeError: “Expecting property name enclosed in double quotes: line 1 column 2 "
            "(char 1)” (to/mine.py, line 3)",
        ),
        (
            "from .beside import half\n",
            "ImportError: “attempted relative import with no known parent package” (to/mine.py, "
            "line 1); a file that is named by its path cannot use relative imports: remove the dot",
        ),
    ],
)
def test_a_failing_import_is_a_one_line_error_with_file_and_line(here, text, want):
    write(here / "to/mine.py", text)
    assert problem("to/mine.py") == want
    assert "mine" not in sys.modules


def test_the_error_about_a_file_in_a_package_names_its_module(here):
    write(here / "pack/inner/__init__.py")
    write(here / "pack/__init__.py")
    write(here / "pack/inner/mine.py", "from . import other\n")
    got = problem("pack/inner/mine.py")
    want = f"; the file is part of a package: run in {here} with --impl=pack.inner.mine"
    assert got.endswith(want)


def test_a_file_that_shadows_a_library_is_explained_in_the_error(here):
    write(here / "no_such_library.py", "from no_such_library import l1_loss\n")
    got = problem("no_such_library.py")
    assert "this file hides the module 'no_such_library': rename the file" in got


WRONG = """
    from beside import half

    def mse_loss(input, target, reduction="mean"):
        losses = half(input - target) ** 2
        return losses if reduction == "none" else getattr(losses, reduction)()
"""
FEW = ("--loss=mse_loss", "--clause=value,result-shape", "--profile=quick")


def test_workers_judge_a_file(outpost):
    write(outpost.path / "some folder/parallel.py", WRONG)
    write(outpost.path / "some folder/beside.py", BESIDE)
    words = ("some folder/parallel.py", *FEW, "-n2", "--reports=workers")
    done = outpost.apart("-m", "lossspec", "run", *words)
    assert done.status == 1, done.out + done.err
    assert "1 of 2 clauses conform, 1 deviates." in done.out


def test_repeat_command_and_script_of_a_file_work(outpost):
    path = "some folder/my-losses.py"
    write(outpost.path / path, WRONG)
    write(outpost.path / "some folder/beside.py", BESIDE)
    done = outpost.apart("-m", "lossspec", "run", path, *FEW, "--reports=out")
    assert done.status == 1, done.out + done.err
    (artifact,) = outpost.path.glob("out/*/conformance.json")
    repeat = next(line for line in done.out if line.lstrip().startswith("repeat:"))
    _, command, *words = shlex.split(repeat.partition(":")[2])
    assert (command, words[0]) == ("run", path)
    again = outpost.apart("-m", "lossspec", "run", *words, "--reports=again")
    assert again.status == 1
    assert "1 of 1 clauses conform" not in "\n".join(again.out)
    (script,) = artifact.parent.glob("repro/*.py")
    told = outpost.apart(str(script))
    assert (told.status, told.out[-1]) == (1, "deviates"), told.out + told.err
    write(outpost.path / "some folder/beside.py", "def half(x):\n    return x\n")
    mended = outpost.apart(str(script))
    assert (mended.status, mended.out[-1]) == (0, "conforms"), mended.out + mended.err
    write(outpost.path / path, "1 / 0\n")
    broken = outpost.apart(str(script))
    assert (broken.status, broken.out) == (
        2,
        ["the implementation cannot be imported: ZeroDivisionError('division by zero')"],
    )


def test_a_missing_path_ends_a_run_with_a_one_line_error(outpost):
    done = outpost.apart("-m", "lossspec", "run", "nowhere.py", *FEW)
    said = [line for line in (*done.out, *done.err) if line.strip()]
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert said == ["ERROR: --impl nowhere.py: there is no file 'nowhere.py'"]


def test_parametrize_takes_a_path(here):
    write(here / "mine.py", LOSSES)
    write(here / "beside.py", BESIDE)
    mark = parametrize("mine.py:mse_loss", clauses=["result-shape"]).mark
    (parameter,) = mark.args[1]
    assert parameter.values[0]().verdict == "conforms"
