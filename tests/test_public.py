"""The public API: its names, and extensions that are one file in another distribution."""

import ast
import importlib
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import lossspec
from lossspec import errors
from lossspec.clauses import clause, clauses, present_id
from lossspec.errors import ClauseError, DeviationsError, LossspecError, UnknownName
from lossspec.judging import known_deviations
from lossspec.judging.plan import Plan
from lossspec.render.diff import Kind, diff
from lossspec.report.records import Report
from lossspec.spec.catalogue import catalogue

PUBLIC = (
    "clauses",
    "errors",
    "implementations",
    "maths",
    "plugin",
    "report",
    "spec",
    "specs",
    "strategies",
)


# === names ================================================================================


def test_every_public_name_exists_and_is_listed():
    assert [name for name in lossspec.__all__ if getattr(lossspec, name, None) is None] == []
    assert set(lossspec.__all__) <= set(dir(lossspec))
    assert "import_module" not in dir(lossspec)
    wanted = {"Role", "Cell", "clause", "Trial", "Deviation", "AnySize", *errors.__all__}
    assert wanted - set(lossspec.__all__) == set()


def test_the_names_for_type_checkers_are_the_public_names():
    tree = ast.parse(Path(lossspec.__file__).read_text("utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    got = [alias.name for node in checked.body for alias in node.names]
    assert sorted(got) == lossspec.__all__


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import lossspec, sys; dir(lossspec); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_strategies_is_a_module():
    assert lossspec.strategies is importlib.import_module("lossspec.strategies")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_has_a_complete_all(name):
    module = importlib.import_module(f"lossspec.{name}")
    assert module.__all__
    importable = [word for word in module.__all__ if not hasattr(module, word)]
    if name == "specs":  # its names are modules, imported on first use
        importable = [w for w in importable if not importlib.import_module(f"lossspec.specs.{w}")]
    assert importable == []


def test_maths_exports_exactly_its_words():
    names = {name for name in vars(lossspec.maths) if callable(getattr(lossspec.maths, name))}
    exported = set(lossspec.maths.__all__)
    assert names - {"word"} == exported - {"PI"}
    assert exported == set(lossspec.maths.words.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_common_base_and_a_builtin_base(name):
    error = getattr(lossspec, name)
    assert issubclass(error, LossspecError)
    assert name == "LossspecError" or issubclass(error, ValueError | TypeError)


L1 = torch.nn.functional.l1_loss
WRONG = {
    "loss": lambda: lossspec.check("l1_losss", L1),
    "kind of loss": lambda: lossspec.check(7, L1),
    "name for a target": lambda: lossspec.check("l1_loss", "torch.nn"),
    "kind of target": lambda: lossspec.check("l1_loss", 7),
    "instance": lambda: lossspec.check("l1_loss", torch.nn.L1Loss(reduction="sum")),
    "seed": lambda: lossspec.check("l1_loss", L1, seed=-1),
    "dtype": lambda: lossspec.check("l1_loss", L1, dtypes="int8"),
    "device": lambda: lossspec.check("l1_loss", L1, device="nowhere"),
    "profile": lambda: lossspec.check("l1_loss", L1, profile="long"),
    "clause": lambda: lossspec.check("l1_loss", L1, clauses="l1_loss/vlaue"),
    "theme for a loss": lambda: lossspec.check("l1_loss", L1, clauses="value/value"),
    "implementation": lambda: lossspec.parametrize("nosuch"),
    "kind of implementation": lambda: lossspec.parametrize(7),
    "shapes": lambda: lossspec.Form(shapes=("N -> N",), tensors={}).contracts,
    "report": lambda: lossspec.Report.from_json("{"),
    "name in an implementation": lambda: lossspec.Implementation("i", functions={"l1": abs}),
    "shard": lambda: Plan([], shard="3/2").check(),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=list(WRONG))
def test_invalid_user_input_raises_a_lossspec_error(call):
    with pytest.raises(LossspecError):
        call()


# === extensions ===========================================================================


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Yield a function that installs a distribution of one file and clears the caches."""

    def install(group, entry, text, name="brought"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}_file.py").write_text(dedent(text))
        info = folder / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nmine = {name}_file{entry}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, f"{name}_file", raising=False)

    catalogue.cache_clear()
    clauses.cache_clear()
    yield install
    catalogue.cache_clear()
    clauses.cache_clear()


CLAUSE = """
    from lossspec import Deviation, Trial, clause


    @clause(enough=5, aliases=("no-seven",))
    def never_seven(trial: Trial):
        '''No loss is seven.'''
        if not trial.worked or trial.case.reduction == "none":
            return None
        if trial.outcome.value.item() == 7:
            raise Deviation("it is seven", 7, "anything else", check="value != 7")
        return True
"""


def seven(input, target, reduction="mean"):
    return 0 * torch.nn.functional.l1_loss(input, target, reduction=reduction) + 7


@pytest.mark.parametrize("entry", ["", ":never_seven"])
def test_a_third_party_clause_is_one_file(installed, entry):
    installed("lossspec.clauses", entry, CLAUSE)
    words = {"profile": "quick", "clauses": ["never-seven", "result-shape"]}
    right = lossspec.check("l1_loss", torch.nn.functional.l1_loss, **words)
    wrong = lossspec.check("l1_loss", seven, **words)
    assert [(c.clause, str(c.verdict)) for c in right] == [
        ("result-shape", "conforms"),
        ("never-seven", "conforms"),
    ]
    assert [(c.clause, str(c.verdict)) for c in wrong] == [
        ("result-shape", "conforms"),
        ("never-seven", "deviates"),
    ]
    assert (wrong[1].theme, wrong[1].says, wrong[1].got) == (
        "brought_file",
        "No loss is seven.",
        "7",
    )


def test_a_third_party_clause_is_on_no_page_of_the_package(installed):
    from lossspec.spec_pages import pages

    before = pages.pages()
    installed("lossspec.clauses", "", CLAUSE)
    clauses.cache_clear()
    assert "never-seven" in pages.text(catalogue()["l1_loss"])
    assert pages.pages() == before


LOSS = """
    from lossspec import Example, Form, Loss, Real


    def define(input, target):
        return (input - target) ** 2 / 2


    spec = Loss(
        name="half_squared_error",
        module=None,
        summary="Half the squared error between input x and target y.",
        formula=r"\\ell(x, y) = (x - y)^2 / 2",
        source="by hand",
        define=define,
        forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real()}),),
        examples=(
            Example(arguments={"input": [1.0], "target": [3.0]}, value=2.0, source="by hand"),
        ),
    )
"""


def test_a_third_party_spec_is_one_file(installed):
    installed("lossspec.specs", ":spec", LOSS)

    def half(input, target, reduction="mean"):
        return torch.nn.functional.mse_loss(input, target, reduction=reduction) / 2

    words = {"profile": "quick", "clauses": ["value", "gradient"]}
    right = lossspec.check("half_squared_error", half, **words)
    wrong = lossspec.check("half_squared_error", torch.nn.functional.mse_loss, **words)
    assert [str(cell.verdict) for cell in right] == ["conforms"] * 2
    assert [str(cell.verdict) for cell in wrong] == ["deviates"] * 2


IMPLEMENTATION = """
    import lossspec


    def absolute_error(input, target, reduction="mean"):
        if input.shape != target.shape:
            raise ValueError("shapes differ")
        losses = (input - target).abs()
        return losses if reduction == "none" else getattr(losses, reduction)()


    losses = lossspec.Implementation("mine", functions={"l1_loss": absolute_error})
"""


def test_a_third_party_implementation_is_one_file(installed, workplace):
    installed("lossspec.implementations", ":losses", IMPLEMENTATION)
    done = workplace.run(
        "--impl=mine", "--loss=l1_loss", "--profile=quick", "--clause=value,gradient"
    )
    assert done.status == 0, done.out
    assert workplace.verdicts("mine") == {
        "l1_loss/gradient[function-cpu]": "conforms",
        "l1_loss/value[function-cpu]": "conforms",
    }


@pytest.mark.parametrize(
    ("text", "entry", "why"),
    [
        ("raise SystemExit('no licence')", "", "SystemExit: “no licence”"),
        ("import no_such_module", "", "“No module named 'no_such_module'”"),
        ("def unmarked(trial): ...", "", "must give a function marked with @lossspec.clause"),
        ("number = 7", ":number", "must give a function marked with @lossspec.clause.*got 7"),
        (
            "from lossspec import clause\n@clause()\ndef silent(trial): ...",
            "",
            "clause 'silent' needs a docstring",
        ),
        (
            "from lossspec.clauses.value import value",  # defines no clause of its own
            "",
            "must give a function marked with @lossspec.clause",
        ),
    ],
)
def test_a_broken_clause_is_left_out_with_a_warning_about_its_distribution(
    installed, text, entry, why
):
    installed("lossspec.clauses", entry, text)
    message = f"left out the clause 'mine' of brought, entry point 'brought_file{entry}': .*{why}"
    with pytest.warns(UserWarning, match=message):
        assert "value" in clauses()


@pytest.mark.parametrize(
    ("name", "aliases", "clash"),
    [
        ("value", (), "value"),
        ("new", ("value",), "value"),
        ("new", ("no-seven",), "no-seven"),
        ("no_seven", (), "no-seven"),
        ("never_seven", (), "never-seven"),
    ],
)
def test_two_clauses_of_one_name_raise_an_error_that_names_both(installed, name, aliases, clash):
    installed("lossspec.clauses", "", CLAUSE)
    other = f"""
        from lossspec import clause

        @clause(aliases={aliases})
        def {name}(trial):
            '''It says something.'''
    """
    installed("lossspec.clauses", "", other, "second")
    with pytest.raises(
        ClauseError, match=f"two clauses are called '{clash}': .*second_file.{name}"
    ):
        clauses()


def test_a_third_party_clause_that_imports_torch_submodules_is_listed(installed, tmp_path):
    text = "from torch.nn import functional\nimport torch.autograd.graph\n" + dedent(CLAUSE)
    installed("lossspec.clauses", "", text)
    code = "from lossspec.cli import main; main(['list', 'clauses'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path / 'brought'}:{Path(lossspec.__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "No loss is seven." in done.stdout


# === former ids ===========================================================================


@pytest.fixture
def renamed(installed):
    """Install a clause that has a former name."""
    installed("lossspec.clauses", "", CLAUSE)


@pytest.mark.usefixtures("renamed")
def test_a_former_id_is_accepted_and_reported_by_its_present_id():
    with pytest.warns(FutureWarning, match="'no-seven' is now called 'never-seven'") as told:
        (cell,) = lossspec.check(
            "l1_loss", torch.nn.functional.l1_loss, profile="quick", clauses="no-seven"
        )
    assert len(told) == 1
    assert (cell.id, str(cell.verdict)) == ("l1_loss/never-seven[function-cpu]", "conforms")
    assert cell.extra["aliases"] == ["no-seven"]
    assert cell.former_ids == ("l1_loss/no-seven[function-cpu]",)


@pytest.mark.usefixtures("renamed")
def test_a_former_id_after_a_loss_is_accepted_and_other_names_are_unchanged():
    with pytest.warns(FutureWarning, match="is now called"):
        assert present_id("L1Loss/no-seven") == "L1Loss/never-seven"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert present_id("l1_loss/never-seven") == "l1_loss/never-seven"
        assert present_id("no-eight") == "no-eight"
    with pytest.raises(UnknownName, match="unknown clause 'no-eight'"):
        Plan([], clauses=("no-eight",)).check()


@pytest.mark.usefixtures("renamed")
def test_the_option_accepts_a_former_id_with_a_warning(workplace, tmp_path, monkeypatch):
    package = Path(lossspec.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'brought'}:{package}")
    words = ["--loss=l1_loss", "--clause=no-seven", "--profile=quick"]
    done = workplace.apart("-m", "lossspec", "run", "torch.nn.functional", *words)
    assert done.status == 0, done.out
    assert list(workplace.verdicts("torch.nn.functional")) == ["l1_loss/never-seven[function-cpu]"]
    said = [line for line in done.err if "'no-seven' is now called 'never-seven'" in line]
    assert len(said) == 1, done
    selection = workplace.artifact("torch.nn.functional")["selection"]
    assert selection["clauses"] == ["never-seven"]


@pytest.mark.usefixtures("renamed")
def test_a_file_of_known_deviations_may_contain_a_former_id(tmp_path):
    (cell,) = lossspec.check("l1_loss", seven, profile="quick", clauses="never-seven")
    case = json.dumps(cell.case)
    path = tmp_path / "known.toml"
    entry = "[[deviation]]\nloss = 'l1_loss'\nclause = '{}'\nreason = 'so it is'\ncase = '{}'\n"
    entry += "shows = {{ is = 'finite' }}\n"
    path.write_text(entry.format("no-seven", case))
    with pytest.warns(FutureWarning, match="is now called 'never-seven'"):
        (known,) = known_deviations.read(path)
    assert known.clause == "never-seven"
    path.write_text(entry.format("no-eight", case))
    with pytest.raises(DeviationsError, match="unknown clause 'no-eight'"):
        known_deviations.read(path)


def test_a_diff_matches_a_renamed_cell():
    stored = Path(__file__).parent / "data" / "conformance.json"
    old = Report.read(stored)
    first = old.cells[0]
    cells = [
        replace(
            cell,
            clause="new-name",
            id=cell.id.replace(f"/{cell.clause}[", "/new-name["),
            extra={**cell.extra, "aliases": [cell.clause, 7]},
        )
        if cell.clause == first.clause
        else cell
        for cell in old.cells
    ]
    new = replace(old, cells=tuple(cells))
    for found in (diff(old, new), diff(new, old)):
        assert [found.count(kind) for kind in Kind] == [0, 0, 0, len(old.cells)]
        assert any("/new-name[" in change.id for change in found.changes)
    unrelated = replace(new, cells=tuple(replace(cell, extra={"aliases": 7}) for cell in new.cells))
    assert diff(old, unrelated).count(Kind.ADDED) > 0


def test_a_lone_alias_may_be_given_without_a_tuple():
    @clause(aliases="old")
    def renamed_clause(trial):
        """It says something."""

    assert renamed_clause.clause.aliases == ("old",)
