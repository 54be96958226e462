"""The catalogue of mutants: each one is wrong, and a clause says so."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from lossspec.audit import Mutant, audit, controls, mutants, record
from lossspec.clauses import clauses
from lossspec.errors import UnknownName
from lossspec.spec.catalogue import catalogue

MUTANTS = mutants()
DOCS = Path(__file__).parents[1] / "docs"
RECORD = record.read(DOCS / "audit.json")
#: Clauses that do no more than a few calls for each case.
CHEAP = [c.name for c in clauses().values() if c.theme not in ("relation", "mode")]
#: An audit runs on the processor; for clauses on accelerators only, there is tests/test_devices.py.
AUDITED = [c.name for c in clauses().values() if c.speaks_on("cpu")]
#: Clauses that learn from every further case.
KEEN = ("accepts", "result-shape", "gradient", "mean-divisor", "mean-of-many")
#: And what the quick profile leaves out.
SLOW = [c.name for c in clauses().values() if c.slow]
#: The attempts, by what they cost; a mutant that is found early costs little. What takes luck, such
#: as float16 squares that overflow beside a loss of 0, is sought with another seed as well.
HUNTS = (
    ("quick", CHEAP, 0),
    ("standard", (*KEEN, *SLOW, "value"), 0),
    ("standard", None, 0),
    ("standard", KEEN, 2),
)


def expected(mutant: Mutant):
    marks = []
    if mutant.awaits:
        marks = [pytest.mark.xfail(reason=mutant.awaits, strict=True)]
    return pytest.param(mutant, id=mutant.id, marks=marks)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def survivors(loss: str) -> frozenset[str]:
    """The mutants of a loss that no hunt kills; together, since drawing cases costs the most."""
    alive = [mutant for mutant in MUTANTS.values() if mutant.loss == loss]
    spared: set[str] = set()
    for profile, only, seed in HUNTS:
        results = list(audit(alive, profile, seed, first_only=True, only=only))
        alive = [result.under_test for result in results if result.survived]
        # Nobody looks long for what no clause can find.
        spared |= {mutant.id for mutant in alive if mutant.awaits}
        alive = [mutant for mutant in alive if not mutant.awaits]
    return frozenset(spared | {mutant.id for mutant in alive})


@pytest.mark.parametrize("mutant", [expected(m) for m in MUTANTS.values()])
def test_a_mutant_is_killed(mutant):
    assert mutant.id not in survivors(mutant.loss), mutant.wrong


@pytest.mark.parametrize(
    "mutant", [pytest.param(m, id=m.id) for m in MUTANTS.values() if m.witness]
)
def test_a_mutant_that_no_case_shows_is_wrong_on_its_witness(mutant):
    def outcome(loss):
        try:
            return mutant.witness(loss)
        except (RuntimeError, IndexError, ZeroDivisionError) as error:
            return error

    right = controls()[f"{mutant.loss}/composite"]
    got, want = outcome(mutant.make()), outcome(right.make())
    alike = type(got) is type(want) and (
        isinstance(got, Exception) or torch.equal(got.nan_to_num(1e9), want.nan_to_num(1e9))
    )
    assert not alike


def test_whoever_awaits_a_clause_has_a_witness():
    assert [m.id for m in MUTANTS.values() if m.awaits and not m.witness] == []


def test_the_catalogue_is_large_and_names_its_sources():
    assert len(MUTANTS) >= 140
    for mutant in MUTANTS.values():
        assert mutant.loss in catalogue()
        assert re.fullmatch(r"([A-Z]{3}-\d\d)?", mutant.row)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", mutant.issue)
        assert mutant.wrong.endswith(".")


def test_a_hunt_for_the_first_kill_finds_the_first_of_all_kills():
    mutant = MUTANTS["l1_loss/sign-kept"]
    (whole,) = audit([mutant])
    (first,) = audit([mutant], first_only=True)
    assert first.kills[0].index == whole.kills[0].index
    assert first.kills[0].clause in {k.clause for k in whole.kills}
    assert {k.clause for k in whole.kills} >= {"value", "gradient"}
    assert first.cases == first.kills[0].index + 1 < whole.cases


def test_a_dtype_that_never_works_is_refused_and_float32_must_work():
    (result,) = audit([MUTANTS["huber_loss/double-only"]])
    assert {k.clause for k in result.kills} >= {"accepts"}
    assert set(result.refused) <= {"float16", "bfloat16"}


def test_each_audit_starts_from_a_fresh_target():
    mutant = MUTANTS["cross_entropy/noise-in-sum"]
    assert mutant.make() is not mutant.make()


def test_an_unknown_profile_is_one_clear_error():
    with pytest.raises(UnknownName, match=r"'slow'; known: quick, standard, deep"):
        next(audit([], "slow"))


# === the record ===========================================================================


def test_the_record_is_of_every_mutant_and_control():
    stale = f"run `{record.COMMAND}`"
    assert set(RECORD) == {*MUTANTS, *controls()}, stale
    assert (DOCS / "audit.md").read_text("utf-8") == record.page(RECORD), stale


def test_every_clause_finds_a_mutant_and_spares_a_control():
    wrong = [entry for id, entry in RECORD.items() if id in MUTANTS]
    right = [entry for id, entry in RECORD.items() if id not in MUTANTS]
    found = {clause for entry in wrong for clause in entry.kills}
    spared = {clause for entry in right for clause in entry.judged}
    assert set(AUDITED) - found == set()
    assert set(AUDITED) - spared == set()


def test_no_control_on_record_is_accused():
    assert {id: e.kills for id, e in RECORD.items() if id not in MUTANTS and e.kills} == {}


def test_the_record_holds_93_of_100_mutants_with_so_few_cases():
    wrong = [entry for id, entry in RECORD.items() if id in MUTANTS]
    assert sum(bool(entry.kills) for entry in wrong) >= 0.93 * len(wrong)


@pytest.mark.parametrize("clause", AUDITED)
def test_what_is_on_record_is_found_again(clause):
    by = {id: e for id, e in RECORD.items() if id in MUTANTS and clause in e.kills}
    soonest = min(by, key=lambda id: by[id].kills[clause])
    (result,) = audit([MUTANTS[soonest]], record.PROFILE, only=[clause, "accepts"])
    assert {kill.clause: kill.index + 1 for kill in result.kills}[clause] == by[soonest].kills[
        clause
    ]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]], ids=str)
def test_a_wrong_call_of_the_recorder_is_one_line(arguments, capsys):
    assert record.main(arguments) == 4
    assert capsys.readouterr().err == f"want the directory of the page, as in `{record.COMMAND}`\n"
