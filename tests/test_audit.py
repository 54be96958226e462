"""The audit of the clauses: defects stay wrong, and clauses find as many as before."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lossspec.audit import audit
from lossspec.baselines import textbook
from lossspec.cases.workloads import Size, axes, workload
from lossspec.clauses import clauses
from lossspec.errors import UnknownName
from lossspec.oracle import solver
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.catalogue import catalogue, find
from tests.defects.__main__ import main
from tests.defects.catalogue import defects, right, right_implementations, wrong
from tests.defects.kept_answers import kept_answers
from tests.defects.l1_loss import L1
from tests.defects.record import (
    COMMAND,
    DOCS,
    Later,
    Part,
    Record,
    audited,
    differences,
    found_by,
    lost,
    merged,
    plan,
    told,
)
from tests.defects.record_page import page

ROOT = Path(__file__).parents[1]
RECORD = Record.read(DOCS / "audit.json")
PLAN = plan(RECORD.found)
STALE = f"run `{COMMAND}`"


def repeats(loss: str):
    return [repeat for repeat in PLAN if repeat.defect.loss == loss]


@pytest.fixture(autouse=True)
def _quiet():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # torch.compile logs at length when a traced call raises, as calls that must be refused do.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(before)


# === the clauses find what they have found before =========================================


@pytest.mark.parametrize("loss", sorted(catalogue()))
def test_each_clause_finds_its_recorded_defects(loss):
    found_less = lost(repeats(loss))
    assert not found_less, told(found_less)


@pytest.mark.parametrize("id", sorted(RECORD.later))
def test_a_defect_that_needs_more_cases_is_found_at_its_recorded_case(id):
    entry = RECORD.later[id]
    now = found_by(defects()[id], {entry.clause: entry.case}, entry.profile, entry.seed)
    assert now.get(entry.clause) == entry.case


@pytest.mark.parametrize("id", sorted(id for id, each in defects().items() if each.awaits))
def test_a_defect_that_awaits_a_clause_is_missed(id):
    cheap = [c.name for c in clauses().values() if c.theme not in ("relation", "mode")]
    (result,) = audit([defects()[id]], "quick", first_only=True, only=cheap)
    assert result.missed, f"{id} is found by {result.found[0].clause}: take its `awaits` away"


def silent(trial):
    """Judge nothing, as if every case conformed."""


def weaker(monkeypatch, name, judge):
    """Replace the judge of a clause."""
    clause = clauses()[name]
    monkeypatch.setitem(clauses(), name, replace(clause, judge=judge(clause.judge)))


def test_a_clause_that_judges_nothing_is_noticed(monkeypatch):
    weaker(monkeypatch, "mean-divisor", lambda judge: silent)
    found_less = lost(repeats("huber_loss") + repeats("l1_loss"))
    assert set(found_less) == {"mean-divisor"}
    assert "the clause 'mean-divisor' no longer finds l1_loss/" in told(found_less)


def test_a_clause_that_skips_one_dtype_is_noticed(monkeypatch):
    def blind(judge):
        return lambda trial: None if trial.case.dtype == "float16" else judge(trial)

    weaker(monkeypatch, "value", blind)
    found_less = lost(r for loss in ("cross_entropy", "nll_loss") for r in repeats(loss))
    assert set(found_less) == {"value"}


def test_the_plan_repeats_every_defect_and_every_clause():
    alive = {id for id, cases in RECORD.found.items() if not cases}
    assert {repeat.defect.id for repeat in PLAN} == set(defects()) - alive
    assert {name for repeat in PLAN for name in repeat.due} == {c.name for c in audited()}


# === the record ===========================================================================


def test_the_record_has_every_wrong_and_every_right_loss():
    assert set(RECORD.found) == set(defects()), STALE
    assert set(RECORD.right) == set(right_implementations()), STALE


def test_the_audit_page_matches_the_record():
    assert (DOCS / "audit.md").read_text("utf-8") == page(RECORD), STALE


def test_every_defect_without_awaits_is_found():
    missed = {id for id, cases in RECORD.found.items() if not cases} - set(RECORD.later)
    assert missed == {id for id, defect in defects().items() if defect.awaits}


def test_every_clause_finds_a_defect_and_judges_a_right_loss():
    found = {clause for cases in RECORD.found.values() for clause in cases}
    names = {clause.name for clause in audited()}
    assert names - found == set()
    assert names - set(RECORD.judged) == set()


def test_the_clauses_that_judge_no_shipped_loss_are_these():
    """tests/test_roles_calls.py and tests/test_batches.py have wrong and right losses for them."""
    others = {each.name for each in clauses().values() if each.speaks_on("cpu")}
    others -= {clause.name for clause in audited()}
    assert others == {"refuses-values", "whole-batch-permutation", "whole-batch-repetition"}


def test_no_right_loss_is_reported():
    assert {id: cases for id, cases in RECORD.right.items() if cases} == {}


def test_a_record_survives_writing_and_reading(tmp_path):
    record = Record(
        {"l1_loss/a": {"value": 1}}, {"l1_loss/b": Later("standard", 2, "value", 70)}, {}, {}
    )
    record.write(tmp_path / "audit.json")
    assert Record.read(tmp_path / "audit.json") == record


def test_updating_one_loss_keeps_other_losses_and_drops_removed_defects():
    old = Record(
        {
            "huber_loss/double-only": {"accepts": 1},
            "l1_loss/graph-cut": {"value": 1},
            "l1_loss/sign-kept": {"value": 1},
            "huber_loss/taken-away": {"value": 1},
        },
        judged={"value": (2, "l1_loss/composite")},
    )
    part = Part({"l1_loss/sign-kept": {"value": 2}}, right={"l1_loss/composite": {}})
    new = merged(old, {"l1_loss": part})
    assert new.found == {"huber_loss/double-only": {"accepts": 1}, **part.found}
    assert new.right == part.right
    assert new.judged == old.judged


def test_differences_name_clause_defect_and_both_cases():
    old, new = Record({"l1_loss/a": {"value": 1}}), Record({"l1_loss/a": {"gradient": 2}})
    assert differences(old, old) == ""
    assert differences(old, new).splitlines() == [
        "gradient: l1_loss/a: not found -> case 2",
        "value: l1_loss/a: case 1 -> not found",
    ]


# === the catalogue ========================================================================


@pytest.mark.parametrize(
    "defect", [pytest.param(d, id=d.id) for d in defects().values() if d.witness]
)
def test_a_defect_with_a_witness_is_wrong_on_it(defect):
    def outcome(loss):
        try:
            return defect.witness(loss)
        except (RuntimeError, IndexError, ZeroDivisionError) as error:
            return error

    right_one = right_implementations()[f"{defect.loss}/composite"]
    got, want = outcome(defect.make()), outcome(right_one.make())
    alike = type(got) is type(want) and (
        isinstance(got, Exception) or torch.equal(got.nan_to_num(1e9), want.nan_to_num(1e9))
    )
    assert not alike


def test_a_defect_that_awaits_a_clause_has_a_witness():
    assert [d.id for d in defects().values() if d.awaits and not d.witness] == []


def test_each_defect_is_described_in_a_sentence():
    assert [d.id for d in defects().values() if not d.wrong.endswith(".")] == []


def test_a_source_without_an_issue_raises_a_clear_error():
    with pytest.raises(ValueError, match=r"l1_loss/x: source is 'by me', want 'VAL-01, owner/name"):
        wrong(L1, "x", "It is wrong.", source="by me")


def test_a_class_without_a_docstring_raises_a_clear_error():
    class Silent(L1):
        pass

    Silent.__doc__ = None
    with pytest.raises(ValueError, match="Silent needs a docstring that says what it is"):
        right(L1, Silent)


def test_replaced_parts_without_a_class_raise_a_clear_error():
    with pytest.raises(TypeError, match="l1_loss/x: parts replace those of a class"):
        right("l1_loss", "x", "Something.", element=abs)


# === the engine ===========================================================================


def test_an_audit_for_the_first_finding_agrees_with_a_full_audit():
    defect = defects()["l1_loss/sign-kept"]
    (whole,) = audit([defect])
    (first,) = audit([defect], first_only=True)
    assert first.found[0].index == whole.found[0].index
    assert first.found[0].clause in {each.clause for each in whole.found}
    assert {each.clause for each in whole.found} >= {"value", "gradient"}
    assert first.cases == first.found[0].index + 1 < whole.cases


def test_an_audit_judges_at_most_the_given_number_of_cases():
    (result,) = audit([right_implementations()["l1_loss/composite"]], only={"value"}, cases=3)
    assert result.cases == 3


def test_a_dtype_that_never_works_is_recorded_as_refused_unless_float32():
    (result,) = audit([defects()["huber_loss/double-only"]])
    assert "accepts" in {each.clause for each in result.found}
    assert set(result.refused) <= {"float16", "bfloat16"}


def test_each_audit_constructs_a_new_implementation():
    defect = defects()["cross_entropy/noise-in-sum"]
    assert defect.make() is not defect.make()


def test_an_unknown_profile_raises_a_clear_error():
    with pytest.raises(UnknownName, match=r"'slow'; known: quick, standard, deep"):
        next(audit([], "slow"))


# === baselines ============================================================================


def test_every_functional_loss_of_torch_has_a_textbook_composition():
    without = {name for name in catalogue() if textbook(name) is None}
    assert without == {"adaptive_log_softmax_with_loss"}


@pytest.mark.parametrize("name", ["softmax", "reduced", "__all__"])
def test_an_unknown_name_has_no_textbook_composition(name):
    assert textbook(name) is None


# === the command ==========================================================================


def test_the_command_runs_in_a_clone_that_is_not_on_the_path():
    done = subprocess.run(
        [sys.executable, "-m", "tests.defects", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m tests.defects")


def test_the_audit_command_prints_found_and_missed_defects(workplace):
    words = ["audit", "triplet_margin_with_distance_loss", "--cases=2", "--matrix=matrix.md"]
    result = workplace.within(lambda: main(words))
    assert result.status == 0, result.err
    assert "8 of 8 wrong losses found" in result.out[0]
    assert result.out[1].startswith("  first found by ")
    assert "pytorch/pytorch#3876" in (workplace.path / "matrix.md").read_text("utf-8")


def test_a_soak_lists_each_right_loss_without_reports(workplace):
    result = workplace.within(lambda: main(["soak", "l1_loss", "--cases=3", "--seed=5"]))
    assert result.status == 0, result.out
    *lines, last = result.out
    assert "l1_loss/composite: 3 cases, no reports" in lines
    assert "l1_loss/textbook: 3 cases, no reports" in lines
    assert last == f"profile quick, seed 5: {3 * len(lines)} cases, nothing reported"


def test_a_soak_solves_equal_cases_once(monkeypatch):
    solved = []
    real = solver.solve

    def counted(loss, case, **settings):
        solved.append(case)
        return real(loss, case, **settings)

    monkeypatch.setattr(solver, "solve", counted)
    loss = find("l1_loss")
    case = workload(loss, axes(loss, Size("", 6, 1, None, "")), "float32", 1)
    other = case.with_(tensors={name: -array for name, array in case.tensors.items()})
    with kept_answers():
        kept = [SolvedCase(loss, each).expected for each in (case, case.with_(), other)]
    assert len(solved) == 2
    assert kept[0] is kept[1]
    assert kept[2] is not kept[0]
    assert SolvedCase(loss, case).expected is not kept[0]
    assert len(solved) == 3


def test_a_soak_names_the_clause_of_a_false_positive(workplace, monkeypatch):
    broken = right(L1, "wrong", "Not right at all.", element=lambda self, c: c.residual)
    monkeypatch.setattr("tests.defects.__main__.right_implementations", lambda: {"": broken})
    result = workplace.within(lambda: main(["soak", "l1_loss", "--cases=9"]))
    assert result.status == 1
    assert result.out[0].startswith("l1_loss/wrong: 9 cases, ")
    assert any(line.startswith("  value in case ") for line in result.out)
    assert result.out[-1].endswith("1 reported")


def test_record_check_prints_differences_and_writes_nothing(workplace, monkeypatch):
    old = Record({"l1_loss/sign-kept": {"value": 1}})
    new = Record({"l1_loss/sign-kept": {"value": 2}})
    old.write(workplace.path / "audit.json")
    monkeypatch.setattr("tests.defects.__main__.record", lambda losses, old: new)
    words = ["record", "--check", f"--docs={workplace.path}"]
    result = workplace.within(lambda: main(words))
    assert result.status == 1
    assert result.out[0] == "value: l1_loss/sign-kept: case 1 -> case 2"
    assert Record.read(workplace.path / "audit.json") == old


def test_a_new_record_is_written_with_its_page(workplace, monkeypatch):
    monkeypatch.setattr("tests.defects.__main__.record", lambda losses, old: RECORD)
    result = workplace.within(lambda: main(["record", f"--docs={workplace.path}"]))
    assert result.status == 0, result.err
    assert Record.read(workplace.path / "audit.json") == RECORD
    for name in ("audit.json", "audit.md"):
        assert (workplace.path / name).read_bytes() == (DOCS / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["audit", "l2_loss"], "unknown loss 'l2_loss'; did you mean "),
        (["soak", "--profile=slow"], "unknown profile 'slow'; known: quick, standard, deep"),
        (["audit", "--cases=0"], "--cases takes a whole number of 1 or more, got 0"),
    ],
)
def test_bad_usage_of_the_command_is_a_one_line_error(workplace, words, problem):
    result = workplace.within(lambda: main(words))
    assert (result.status, result.out, len(result.err)) == (4, [], 1)
    assert problem in result.err[0]
