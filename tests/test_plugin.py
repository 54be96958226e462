"""The pytest options: selections are judged, and invalid ones give one clear message."""

import errno
import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

from lossspec.report import records
from lossspec.report.records import SCHEMA

ROOT = Path(__file__).parents[1]
MINE = """
    import types
    import torch
    from torch.nn import functional as F

    def l1_loss(input, target, reduction="mean"):
        return F.l1_loss(input, target, reduction=reduction)

    def mse_loss(input, target, reduction="mean"):
        return F.mse_loss(input, target, reduction=reduction) * 1.01

    def custom_mse(y_predictions, target):
        return ((y_predictions - target) ** 2).mean()

    def anything(*tensors, **parameters):
        return F.l1_loss(*tensors, **parameters)

    class Absolute(torch.nn.Module):
        def __init__(self, reduction="mean"):
            super().__init__()
            self.reduction = reduction

        def forward(self, input, target):
            return F.l1_loss(input, target, reduction=self.reduction)

    class Mean(torch.nn.Module):
        def forward(self, prediction, truth):
            return F.l1_loss(prediction, truth)

    namespace = types.SimpleNamespace(l1_loss=l1_loss, L1Loss=Absolute, note="not a loss")
    instance = Mean()
"""
QUICK = ("--profile", "quick", "--loss", "l1_loss", "--clause", "result-shape,gradient")


@pytest.fixture
def mine(workplace):
    workplace.write(mine=MINE)


def message(result) -> str:
    """Return the message of a usage error, which must be the whole output."""
    lines = [line for line in (*result.out, *result.err) if line.strip()]
    assert result.status == pytest.ExitCode.USAGE_ERROR, lines
    assert "Traceback" not in "\n".join(lines)
    (said,) = [line for line in lines if line.startswith("ERROR: ")]
    return said.removeprefix("ERROR: ")


# === runs ==================================================================================


def test_an_installed_suite_runs_in_an_empty_directory(workplace):
    words = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider")
    result = workplace.apart(*words, "--impl=torch.nn.functional", *QUICK)
    assert result.status == 0, result.out
    assert "2 of 2 clauses conform." in result.out
    assert set(workplace.verdicts("torch.nn.functional").values()) == {"conforms"}


def test_the_artifact_is_valid_and_counts_the_cases(workplace, mine):
    words = ("--impl=mine", "--loss=l1_loss,mse_loss", "--clause=value,accepts")
    assert workplace.run(*words, "--profile=quick").status == 1
    data = workplace.artifact("mine")
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(data)
    cells = {cell["id"]: cell for cell in data["cells"]}
    # The signature lacks weight, which is left out of the calls that have it.
    assert 20 < cells["l1_loss/value[function-cpu]"]["examples"] <= 60
    assert cells["l1_loss/value[function-cpu]"]["informative"] > 10
    assert cells["mse_loss/value[function-cpu]"]["verdict"] == "deviates"
    assert data["implementation"] == {"name": "mine", "version": None, "target": "mine"}
    folder = workplace.path / "reports" / "mine"
    assert {"badge.json", "conformance.json", "index.html", "summary.md"} <= {
        path.name for path in folder.iterdir()
    }
    shown = str(cells["l1_loss/value[function-cpu]"]["examples"])
    assert shown in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "surfaces"),
    [
        ("mine", ["function"]),
        ("mine:namespace", ["class", "function"]),
        ("mine:l1_loss", ["function"]),
        ("mine:anything", ["function"]),
        ("mine:Absolute", ["class"]),
        ("mine:instance", ["function"]),
    ],
)
def test_every_kind_of_name_can_be_judged(workplace, mine, name, surfaces):
    assert workplace.run(f"--impl={name}", *QUICK).status == 0
    cells = workplace.artifact(name.replace(":", "."))["cells"]
    assert sorted({cell["surface"] for cell in cells}) == surfaces
    assert {cell["verdict"] for cell in cells} == {"conforms"}


def test_a_function_with_another_name_is_judged_as_the_named_loss(workplace, mine):
    words = ("--impl=mine:custom_mse", "--loss=MSELoss", "--clause=value", "--profile=quick")
    assert workplace.run(*words).status == 0
    (cell,) = workplace.artifact("mine.custom_mse")["cells"]
    assert cell["id"] == "mse_loss/value[function-cpu]"
    assert "reduction='sum'" in cell["extra"]["unsupported"]


def test_a_name_may_contain_non_ascii_letters(workplace):
    workplace.write(módulo="from torch.nn.functional import l1_loss")
    assert workplace.run("--impl=módulo", *QUICK).status == 0
    assert set(workplace.verdicts("módulo").values()) == {"conforms"}


def test_options_accept_several_names(workplace, mine):
    result = workplace.run(
        *("--impl=mine:l1_loss", "--impl=torch.nn, mine:namespace", "--impl=torch.nn"),
        *("--loss", "l1_loss", "--loss", "L1Loss", "--clause", "l1_loss/value,L1Loss/accepts"),
        *("--dtype", "float64,float32", "--profile", "quick", "--seed", "7"),
    )
    assert result.status == 0
    for name in ("mine.l1_loss", "mine.namespace", "torch.nn"):
        data = workplace.artifact(name)
        assert {cell["clause"] for cell in data["cells"]} == {"accepts", "value"}
        assert {dtype for cell in data["cells"] for dtype in cell["dtypes"]} == {
            "float32",
            "float64",
        }
        assert (data["seed"], data["profile"]) == (7, "quick")
        assert data["selection"]["dtypes"] == ["float64", "float32"]
    assert {cell["surface"] for cell in workplace.artifact("torch.nn")["cells"]} == {"class"}
    assert len(workplace.artifact("mine.namespace")["cells"]) == 4


def test_reports_of_names_with_a_common_prefix_are_kept_apart(workplace, mine):
    assert workplace.run("--impl=mine,mine:namespace", *QUICK).status == 0
    assert len(workplace.artifact("mine")["cells"]) == 2
    assert len(workplace.artifact("mine.namespace")["cells"]) == 4


@pytest.mark.parametrize("more", [(), ("-n1",)])
def test_the_last_lines_name_the_page_of_each_implementation(workplace, mine, more):
    words = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider", *more)
    result = workplace.apart(
        *(*words, "--impl=mine,mine:namespace", "--loss=l1_loss,mse_loss"),
        *("--profile=quick", "--clause=value"),
    )
    assert result.status == 1
    *_, counts, first, second = result.out
    assert "1 failed" in counts
    pages = ["reports/mine/index.html", "reports/mine.namespace/index.html"]
    assert [first, second] == [f"report: {page}" for page in pages]
    assert all((workplace.path / page).is_file() for page in pages)
    assert sum(line.startswith("report: ") for line in result.out) == 2


def test_a_run_without_a_terminal_writes_its_report(workplace, mine):
    assert workplace.run("--impl=mine", "-p", "no:terminal", *QUICK).status == 0
    assert set(workplace.verdicts("mine").values()) == {"conforms"}


def test_reports_are_written_to_the_given_directory(workplace, mine):
    assert workplace.run("--impl=mine", "--reports=deep/down", *QUICK).status == 0
    assert (workplace.path / "deep" / "down" / "mine" / "conformance.json").exists()


def test_an_absent_loss_is_no_failure(workplace, mine):
    words = ("--impl=mine:custom_mse", "--clause=value", "--profile=quick")
    result = workplace.run(*words, "--loss=mse_loss,huber_loss")
    assert message(result).startswith("--impl mine:custom_mse: custom_mse is not named like a loss")
    result = workplace.run("--impl=mine", *words[1:], "--loss=l1_loss,huber_loss")
    assert result.status == 0
    assert "1 passed, 1 skipped" in result.out[-2]
    cells = workplace.artifact("mine")["cells"]
    assert [(c["verdict"], c["reason"]) for c in cells if c["loss"] == "huber_loss"] == [
        ("unsupported", "mine has no huber_loss")
    ]


def test_require_all_makes_absent_losses_and_options_failures(workplace, mine):
    words = ("--impl=mine", "--clause=value", "--profile=quick", "--require-all")
    assert workplace.run(*words, "--loss=l1_loss,huber_loss").status == 1
    reasons = {cell["loss"]: cell["reason"] for cell in workplace.artifact("mine")["cells"]}
    assert reasons == {
        "huber_loss": "mine has no huber_loss",
        "l1_loss": "a deviation because of --require-all: it takes no weight",
    }


def test_an_inapplicable_clause_is_reported_as_not_applicable(workplace, mine):
    words = ("--impl=mine", "--loss=l1_loss", "--profile=quick")
    assert workplace.run(*words, "--clause=ignored-gradient,result-shape").status == 0
    assert workplace.verdicts("mine") == {
        "l1_loss/ignored-gradient[function-cpu]": "not-applicable",
        "l1_loss/result-shape[function-cpu]": "conforms",
    }


def test_an_empty_shard_writes_its_report(workplace, mine):
    parts = [f"--shard={i}/3" for i in (1, 2, 3)]
    words = ("--impl=mine", "--loss=l1_loss", "--clause=result-shape", "--profile=quick")
    counts = []
    for part in parts:
        assert workplace.run(*words, part).status == 0
        counts.append(len(workplace.artifact("mine")["cells"]))
    assert sorted(counts) == [0, 0, 1]


def test_collect_only_writes_no_report(workplace, mine):
    result = workplace.run("--impl=mine", "--collect-only", "-q", *QUICK)
    assert result.status == 0
    assert result.out[0].endswith("::test_conformance[mine:l1_loss/gradient[function-cpu]]")
    assert not (workplace.path / "reports").exists()


def test_the_plugin_prints_nothing_without_the_option(workplace):
    workplace.write(test_own="def test_own(): pass")
    result = workplace.within(lambda: pytest.main(["-p", "no:faulthandler"]))
    assert result.status == 0
    assert "lossspec:" not in "\n".join(result.out)


@pytest.mark.parametrize(
    ("words", "passed"), [((), 1), (("--timing",), 2), (("suites/timing", "-k", "small"), 1)]
)
def test_the_suites_of_a_clone_run_with_an_installed_package(workplace, words, passed):
    for name in ("suites", "pyproject.toml"):
        source, copy = ROOT / name, workplace.path / name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    judged = ("--impl=torch.nn", "--loss=l1_loss", "--clause=result-shape", "--profile=quick")
    words = ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *judged, *words)
    result = workplace.apart(*words)
    assert result.status == 0, result.out
    found = {line.partition("::")[0] for line in result.out if "::test_" in line}
    assert len(found) == passed, result.out


@pytest.mark.parametrize("words", [(), ("-n", "1"), ("--collect-only",)])
def test_an_implementation_without_a_suite_is_a_usage_error(workplace, words):
    workplace.write(test_own="def test_own(): pass")
    words = ("-p", "no:faulthandler", "-p", "no:cacheprovider", "--impl=torch.nn", *words)
    result = workplace.within(lambda: pytest.main(list(words)))
    assert result.status == pytest.ExitCode.USAGE_ERROR, result.out
    assert "ERROR: --impl was given, but no suite of lossspec was collected; add --pyargs " in (
        "\n".join(result.err)
    )
    assert not (workplace.path / "reports").exists()


def test_deselecting_every_cell_is_not_a_usage_error(workplace):
    result = workplace.run("--impl=torch.nn", "-k", "nosuch", *QUICK)
    assert result.status == pytest.ExitCode.NO_TESTS_COLLECTED, result.err


def test_an_unwritable_report_is_an_error_before_the_run(workplace, monkeypatch):
    monkeypatch.setattr(records.Path, "write_bytes", full)
    result = workplace.run("--impl=torch.nn", *QUICK)
    wanted = (
        "--reports: cannot write into reports/torch.nn (No space left on device); "
        "choose another directory"
    )
    assert message(result) == wanted
    assert not any("torch.nn" in line for line in result.out)


def test_a_report_that_becomes_unwritable_leaves_the_summary(workplace):
    workplace.write(
        mine="""
            from pathlib import Path
            from torch.nn.functional import l1_loss as right

            def l1_loss(input, target, reduction="mean"):
                if Path("reports/mine").is_dir():
                    Path("reports/mine").rename("gone")
                    Path("reports/mine").touch()
                return right(input, target, reduction=reduction)
        """
    )
    result = workplace.run("--impl=mine", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in "\n".join(result.out + result.err)
    assert "2 of 2 clauses conform." in result.out
    assert "--reports: cannot write into reports/mine (" in "\n".join(result.out)
    assert not any(line.startswith("report: ") for line in result.out)


def full(path: Path, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_ascii_terminal_gets_the_summary_with_escapes(workplace, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    workplace.write(mine="def l1_loss(input, target): return 7 * input.sum()")
    words = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider")
    result = workplace.apart(*words, "--impl=mine", "--loss=l1_loss", *QUICK[2:])
    assert result.status == 1
    assert result.out[-1] == "report: reports/mine/index.html"
    assert any(line.startswith(r"\u2717 deviates: l1_loss/") for line in result.out), result.out


# === usage errors ==========================================================================


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "the conformance suite needs --impl NAME, such as --impl=torch.nn"),
        ("--impl=", "--impl takes at least one name, got ''"),
        (
            "--impl=nosuch",
            "--impl nosuch: no entry point of that name and no module 'nosuch' to import; known: "
            "oracle, torch.nn, torch.nn.functional",
        ),
        ("--impl=mine.nosuch", "no module 'mine.nosuch' to import"),
        ("--impl=:nosuch", "--impl :nosuch: '' is not the full name of a module"),
        ("--impl=mine:nosuch", "'mine' has no attribute 'nosuch'; "),
        ("--impl=math", "--impl math: nothing in it is named like a loss, such as cross_entropy"),
        ("--impl=mine:instance", "say which one it is with --loss=NAME; "),
        ("--impl=broken", "--impl broken: importing 'broken': SyntaxError: "),
        (
            "--impl=lost",
            "--impl lost: importing 'lost': ModuleNotFoundError: “No module named 'no_",
        ),
        ("--impl=leaves", "--impl leaves: importing 'leaves': SystemExit: “0” ("),
        ("--impl=mine:", "--impl mine:: no attribute follows the colon; name one"),
        ("--impl=broken", "broken.py, line 1)"),
        ("--impl=skips", "--impl skips: importing 'skips': Skipped: “no device” ("),
        ("--impl=odd", "--impl odd: RuntimeError: “no "),
        ("--impl=lazy:space", "--impl lazy:space: RuntimeError: “not today” ("),
        ("--impl=mine --loss=l2_loss", "unknown loss 'l2_loss'; did you mean l1_loss, "),
        ("--impl=mine --loss=,", "--loss takes at least one name, got ','"),
        ("--impl=mine --clause=nice", "unknown clause 'nice'; the nearest of "),
        ("--impl=mine --clause=l2_loss/value", "unknown loss 'l2_loss'; did you mean l1_loss, "),
        (
            "--impl=mine --loss=l1_loss --clause=nll_loss/value",
            "nothing to judge: no selected clause (nll_loss/value) applies to l1_loss",
        ),
        (
            "--impl=mine --loss=l1_loss,mse_loss --clause=ignored-gradient",
            "nothing to judge: no selected clause (ignored-gradient) applies to l1_loss, mse_loss",
        ),
        ("--impl=mine --dtype=int8", "unknown dtype 'int8'; known: float32, float64, float16, "),
        (
            "--impl=mine --device=zpu",
            "--device zpu: not a torch device; did you mean cpu? known: cpu, all",
        ),
        ("--impl=mine --device=meta", "--device meta: this machine has no such device; known: "),
        ("--impl=mine --profile=fast", "unknown profile 'fast'; known: quick, standard, deep"),
        (
            "--impl=mine --seed=-1",
            "--seed takes a whole number of 0 or more ",
        ),
        (
            "--impl=mine --seed=1.5",
            "--seed takes a whole number of 0 or more ",
        ),
        (f"--impl=mine --seed={'9' * 19}", "0 or more with at most 18 digits, got '9999"),
        ("--impl=mine --reports=mine.py", "--reports takes a directory, but "),
        ("--impl=mine --reports=mine.py/deep", "--reports takes a directory, but "),
        ("--impl=mine --deviations=none.toml", "none.toml: cannot be read (No such file or dir"),
        ("--impl=mine --deviations=mine.py", "mine.py: not TOML ("),
        ("--impl=mine --deviations=odd.toml", "odd.toml: only [[deviation]] tables are allowed, "),
    ],
)
def test_invalid_options_give_one_clear_message(workplace, mine, words, wanted):
    workplace.write(
        broken="def f(:",
        lost="import no_such_module",
        leaves="raise SystemExit(0)",
        skips="import pytest; pytest.skip('no device', allow_module_level=True)",
        odd="def __getattr__(name): raise RuntimeError(f'no {name}')",
        lazy="""
            class Lazy:
                def __getattr__(self, name):
                    raise RuntimeError("not today")

            space = Lazy()
        """,
    )
    workplace.path.joinpath("odd.toml").write_text("[known]\n")
    got = message(workplace.run(*words.split()))
    assert wanted in got
    assert not (workplace.path / "reports").exists()
