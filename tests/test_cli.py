"""The command `lossspec`: its subcommands, its exit status and its one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lossspec.clauses import clauses
from lossspec.cli import main
from lossspec.report.files import replace_file
from lossspec.report.records import Report
from lossspec.spec.catalogue import catalogue

SAMPLE = Path(__file__).parent / "data" / "conformance.json"


def lossspec(workplace, *arguments):
    return workplace.within(lambda: main(list(arguments)))


def test_run_judges_several_implementations(workplace):
    workplace.write(mine="from torch.nn.functional import l1_loss\n")
    words = ("--loss=l1_loss", "--clause=result-shape", "--profile=quick", "-p", "no:faulthandler")
    result = lossspec(workplace, "run", "mine", "torch.nn", *words)
    assert result.status == 0, result.out
    assert set(workplace.verdicts("mine").values()) == {"conforms"}
    assert set(workplace.verdicts("torch.nn").values()) == {"conforms"}


def test_run_exits_with_the_status_of_pytest(workplace):
    workplace.write(mine="def l1_loss(input, target, reduction='mean'): return input\n")
    words = ("--loss=l1_loss", "--clause=result-shape", "--profile=quick", "-p", "no:faulthandler")
    assert lossspec(workplace, "run", "mine", *words).status == 1
    result = lossspec(workplace, "run", "mine", "--loss=l2_loss", "-p", "no:faulthandler")
    assert result.status == 4
    assert "ERROR: unknown loss 'l2_loss'; did you mean l1_loss, " in "\n".join(result.err)


@pytest.mark.parametrize("words", [[], ["--loss=l1_loss"]])
def test_run_needs_an_implementation(workplace, words):
    result = lossspec(workplace, "run", *words)
    assert result.status == 4
    (said,) = result.err
    assert said.startswith("lossspec run: no implementation was named; names come first, such as ")


def test_an_implementation_after_an_option_is_refused(workplace):
    workplace.write(mine="from torch.nn.functional import l1_loss\n")
    words = ("-p", "no:faulthandler", "--loss", "l1_loss")
    result = lossspec(workplace, "run", "torch.nn", *words, "mine")
    assert result.status == 4
    assert [line for line in result.err if line] == [
        "ERROR: lossspec run: got the name mine after an option; names come first, such as "
        "`lossspec run torch.nn --loss=l1_loss`"
    ]


@pytest.mark.parametrize("words", [["--help"], ["torch.nn", "-h"]])
def test_the_help_of_run_lists_its_options(workplace, words):
    result = lossspec(workplace, "run", *words)
    assert result.status == 0
    assert {"--loss", "--deviations", "--shard"} <= set("\n".join(result.out).split())


def test_python_m_lossspec_prints_its_version(workplace):
    result = workplace.apart("-m", "lossspec", "--version")
    assert (result.status, result.out[0].split()[0]) == (0, "lossspec")


def reader_leaves(workplace, *words):
    """Run the command, close its output after one line, and return standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lossspec", *words],
        cwd=workplace.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    return process.wait(), said


@pytest.mark.parametrize(
    "words", [("list", "losses"), ("run", "torch.nn", "--loss=l1_loss", "--profile=quick")]
)
def test_a_closed_output_pipe_causes_no_traceback(workplace, words):
    assert reader_leaves(workplace, *words) in ((0, ""), (1, ""))


def test_an_ascii_terminal_causes_no_error(workplace, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = workplace.apart("-m", "lossspec", "show", "huber_loss")
    assert (result.status, result.err) == (0, [])
    assert any("\\u" in line for line in result.out)


def test_list_prints_losses_clauses_and_implementations(workplace):
    losses = lossspec(workplace, "list", "losses").out
    assert [line.split()[0] for line in losses] == list(catalogue())
    printed = "\n".join(lossspec(workplace, "list", "clauses").out)
    assert all(f"/{name} " in printed and c.says in printed for name, c in clauses().items())
    implementations = lossspec(workplace, "list", "implementations").out
    assert {line.split()[0] for line in implementations} >= {"oracle", "torch.nn"}


@pytest.mark.parametrize("name", ["cross_entropy", "CrossEntropyLoss"])
def test_show_prints_a_spec(workplace, name):
    result = lossspec(workplace, "show", name)
    assert result.status == 0
    text = "\n".join(result.out)
    assert "label_smoothing" in text
    assert catalogue()["cross_entropy"].source in text


def test_diff_exits_with_a_status_for_a_regression(workplace):
    report = Report.read(SAMPLE)
    right = [cell for cell in report.cells if cell.verdict == "conforms"][:1]
    data = [cell.to_data() for cell in right]
    whole = report.to_data()
    for name, verdict in (("old.json", "conforms"), ("new.json", "deviates")):
        cells = [cell | {"verdict": verdict} for cell in data]
        replace_file(workplace.path / name, json.dumps(whole | {"cells": cells}))
    assert lossspec(workplace, "diff", "old.json", "old.json").status == 0
    result = lossspec(workplace, "diff", "old.json", "new.json")
    assert result.status == 1
    assert right[0].id in "\n".join(result.out)


def test_merge_joins_the_shards_of_a_run(workplace):
    words = ("--loss=l1_loss,mse_loss,huber_loss,kl_div", "--clause=result-shape")
    words += ("--profile=quick", "-p", "no:faulthandler")
    for i in (1, 2):
        part = ("--impl=torch.nn.functional", f"--shard={i}/2", f"--reports=part{i}")
        assert workplace.run(*part, *words).status == 0
    parts = [f"part{i}/torch.nn.functional/conformance.json" for i in (1, 2)]
    result = lossspec(workplace, "merge", *parts, "-o", "whole/conformance.json")
    assert result.status == 0, result.err
    assert result.out[0] == "4 of 4 clauses conform"
    assert (workplace.path / "whole" / "index.html").exists()
    result = lossspec(workplace, "merge", parts[0], "-o", "half.json")
    assert result.status == 4
    assert result.err == ["lossspec merge: cannot merge: add the reports of the shards 2/2"]


def test_render_writes_the_pages_of_a_report(workplace):
    result = lossspec(workplace, "render", str(SAMPLE), "-o", "pages")
    assert result.status == 0
    assert {Path(line).name for line in result.out} >= {"index.html", "summary.md", "badge.json"}
    assert all((workplace.path / line).exists() for line in result.out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "l2_loss"], "lossspec show: unknown loss 'l2_loss'; did you mean l1_loss, "),
        (["render", "none.json"], "lossspec render: none.json: cannot be read (No such file"),
        (["render", "bad.json"], "lossspec render: bad.json: is not complete JSON ("),
        (["render", str(SAMPLE), "-o", "bad.json/x"], "lossspec render: "),
        (["render", "deep.json"], "lossspec render: deep.json: cells[0].extra: is nested deep"),
        (
            ["diff", "deep.json", "/dev/zero"],
            "lossspec diff: deep.json: cells[0].extra: is nested deeper",
        ),
        (["diff", str(SAMPLE), "/dev/zero"], "lossspec diff: /dev/zero: is larger than 64 MiB"),
        (["merge", "/dev/zero", "-o", "x.json"], "lossspec merge: /dev/zero: is larger than 64 "),
        (["render", "a\x1b[2J\nb"], "lossspec render: a\\x1b[2J b: cannot be read (No such file"),
        (
            ["deviations", "torch.nn", "--file=/dev/zero"],
            "lossspec deviations: /dev/zero: is larger than 8 MiB",
        ),
        (["audit", "--cases=0"], "lossspec audit: --cases takes a whole number of 1 or more"),
        (["diff", "none.json", str(SAMPLE)], "lossspec diff: none.json: cannot be read"),
        (
            ["merge", str(SAMPLE), str(SAMPLE), "-o", "x.json"],
            "lossspec merge: cannot merge: more than one report has the cell ",
        ),
    ],
)
def test_bad_input_is_a_one_line_error(workplace, words, message):
    (workplace.path / "bad.json").write_text("{")
    whole = SAMPLE.read_text("utf-8")
    deep = whole.replace('"extra":{}', f'"extra":{{"x":{"[" * 900}{"]" * 900}}}', 1)
    (workplace.path / "deep.json").write_text(deep, "utf-8")
    result = lossspec(workplace, *words)
    assert (result.status, len(result.err)) == (4, 1)
    assert result.err[0].startswith(message)
    assert result.out == []


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["list", "birds"], ["show"], ["merge", "x.json"], ["deviations"]]
)
def test_bad_usage_prints_the_usage_and_then_the_error(workplace, words):
    def work() -> int:
        with pytest.raises(SystemExit) as caught:
            main(words)
        return caught.value.code

    result = workplace.within(work)
    assert result.status == 4
    assert result.err[0].startswith("usage: lossspec")
    assert result.err[-1].startswith("lossspec")
