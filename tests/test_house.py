"""The house rules: who may import whom, what modules are called, what they open with."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lossspec"
CORE = ("spec", "maths", "oracle", "budget", "cases", "clauses")
OUTPUT = ("verdict", "render")
VAGUE = {"utils", "helpers", "common", "base", "manager"}


def files(*names: str) -> list[Path]:
    """The source files of the named modules and packages; a name that has none is an error."""
    found = []
    for name in names:
        module = PACKAGE / f"{name}.py"
        sources = [module] if module.exists() else sorted((PACKAGE / name).rglob("*.py"))
        assert sources, f"lossspec has no module {name}"
        found += sources
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[str]:
    """Every top-level package that the source imports, wherever and however it does."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__" | "importorskip")
                | ast.Attribute(attr="import_module" | "importorskip"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module.partition(".")[0]


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import numpy, torch.nn as nn",
        "from torch.nn import functional",
        "def f():\n    import torch",
        "if TYPE_CHECKING:\n    from torch import Tensor",
        "import importlib\nimportlib.import_module('torch.nn')",
        "__import__('torch')",
    ],
)
def test_an_import_is_seen_in_every_form(source):
    assert "torch" in set(imports(source))


@pytest.mark.parametrize("source", ["import torchvision", "from .torch import f", "torch = 1"])
def test_a_likeness_of_an_import_is_none(source):
    assert "torch" not in set(imports(source))


@pytest.mark.parametrize(
    ("names", "banned"),
    [(CORE, {"pytest", "_pytest"}), (OUTPUT, {"torch"})],
    ids=["core-pytest", "output-torch"],
)
def test_no_source_imports_what_it_must_not_know(names, banned):
    got = {dotted(path): banned & set(imports(path.read_text("utf-8"))) for path in files(*names)}
    assert {name: found for name, found in got.items() if found} == {}


@pytest.mark.parametrize(
    ("names", "banned"), [(CORE, "pytest"), (OUTPUT, "torch")], ids=["core-pytest", "output-torch"]
)
def test_nothing_arrives_by_way_of_another_module_either(names, banned):
    modules = ", ".join(dotted(path) for path in files(*names))
    got = subprocess.run(
        [sys.executable, "-c", f"import {modules}, sys; print({banned!r} in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (got.stdout, got.stderr) == ("False\n", "")


def test_no_module_has_a_name_that_says_nothing():
    paths = [path for top in ("lossspec", "suites", "tests") for path in (ROOT / top).rglob("*.py")]
    assert len(paths) > 1
    assert [str(path) for path in paths if {path.stem, *path.parts} & VAGUE] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=dotted)
def test_a_module_opens_with_one_line_that_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first, _, rest = docstring.partition("\n")
    assert first.endswith((".", "?", "!"))
    assert rest == "" or rest.startswith("\n"), "the second line of the docstring is not blank"
