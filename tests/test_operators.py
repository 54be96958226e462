"""Wrong versions of a spec: one changed place each, proven wrong, and found by the suite."""

import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from lossspec.audit import Result, audit
from lossspec.audit.operators import variants, witness
from lossspec.audit.page import page
from lossspec.audit.table import matrix, summary
from lossspec.clauses import clauses
from lossspec.cli import main
from lossspec.implementations.oracle import function
from lossspec.maths import absolute
from lossspec.spec.catalogue import find


def plus_nothing(input, target, weight):
    return weight * absolute(input - target) + 0 * input


@pytest.fixture(scope="module")
def margin_ranking():
    return list(variants(find("margin_ranking_loss")))


def test_operators_change_terms_factors_and_functions_of_a_definition(margin_ranking):
    wrong = {version.wrong for version in margin_ranking}
    assert {
        "`-target * (input1 - input2) + margin` became `-target * (input1 - input2)`.",
        "`input1 - input2` became `input1 + input2`.",
        "`mean` gives the sum.",
        "The gradient of input1 is 0.",
        "float64 is computed in float32.",
    } <= wrong


def test_every_wrong_version_is_distinct(margin_ranking):
    assert len({version.id for version in margin_ranking}) == len(margin_ranking)
    assert len({version.wrong for version in margin_ranking}) == len(margin_ranking)


def test_every_wrong_version_is_found(margin_ranking):
    results = list(audit(margin_ranking, "quick", first_only=True))
    assert [result.implementation.wrong for result in results if result.missed] == []


def test_a_change_without_effect_is_not_a_wrong_version():
    same = replace(find("l1_loss"), define=plus_nothing)
    wrong = {version.wrong for version in variants(same)}
    kept = (
        "`weight * absolute(input - target) + 0 * input` became"
        " `weight * absolute(input - target)`."
    )
    assert kept not in wrong
    assert "`weight * absolute(input - target)` became `weight`." in wrong


def test_a_witness_shows_the_difference():
    loss = find("huber_loss")
    right = function(loss)

    def without_delta(input, target, reduction="mean", delta=1.0, weight=None):
        return right(input, target, reduction=reduction, weight=weight)

    assert witness(loss, right, right) is None
    case = witness(loss, right, without_delta)
    assert case is not None
    assert case.parameters["delta"] != 1.0
    assert np.any(np.abs(case.tensors["input"] - case.tensors["target"]) > 0)


def test_the_summary_counts_found_and_names_missed_versions(margin_ranking):
    first, second = margin_ranking[:2]
    (found,) = audit([first], "quick", first_only=True)
    missed = Result(second, (), 60, 1.0)
    text = summary("margin_ranking_loss", [found, missed])
    assert text.startswith("margin_ranking_loss: 1 of 2 wrong losses found (50.0%)")
    assert f"  first found by {found.found[0].clause} (1)" in text.splitlines()
    assert f"not found: {second.id}: {second.wrong}" in text
    table = matrix([found, missed]).splitlines()
    assert len(table) == 4
    assert found.found[0].clause in table[2]
    assert table[3].endswith("| - | nothing |")


def test_the_page_shows_which_clause_found_each_version():
    first, second = islice(variants(find("margin_ranking_loss")), 2)
    (found,) = audit([first], "quick")
    html = page("a test", [found, Result(second, (), 60, 1.0)])
    assert "1 of 2 <small>wrong losses found" in html
    head = re.findall(r'<th scope="col"[^>]* title="[^"]+">([\w-]+)</th>', html)
    assert head == [name for name in clauses() if name in {each.clause for each in found.found}]
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split('<tr><th scope="row">')[1:]
    ]
    case = {each.clause: str(each.index + 1) for each in found.found}
    assert rows[0][1:] == [case[name] for name in head]
    assert rows[1] == ["–"] + [""] * len(head)
    assert f"<h3>{second.id}</h3>" in html


def test_the_command_prints_findings_and_writes_the_matrix(workplace):
    words = ["audit", "margin_ranking_loss", "--matrix=matrix.md", "--page=audit.html"]
    result = workplace.within(lambda: main(words))
    assert result.status == 0, result.err
    assert result.out[-2:] == ["matrix: matrix.md", "page: audit.html"]
    assert "<!DOCTYPE html>" in (workplace.path / "audit.html").read_text("utf-8")
    assert any(line.startswith("profile quick: ") for line in result.out)
    assert "`gradient`" in (workplace.path / "matrix.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["l2_loss"], "unknown loss 'l2_loss'; did you mean l1_loss, "),
        (["l1_loss", "--profile=slow"], "unknown profile 'slow'; known: quick, standard, deep"),
    ],
)
def test_an_unknown_name_is_a_one_line_error(workplace, words, problem):
    result = workplace.within(lambda: main(["audit", *words]))
    assert (result.status, result.out) == (4, [])
    assert problem in result.err[0]
