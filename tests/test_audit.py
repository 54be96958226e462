"""The catalogue of mutants: each one is wrong, and a clause says so."""

import re
from functools import cache

import pytest
import torch

from lossspec.audit import Mutant, audit, controls, mutants
from lossspec.clauses import clauses
from lossspec.spec import UnknownName, catalogue

MUTANTS = mutants()
#: Clauses that do no more than a few calls for each case.
CHEAP = [c.name for c in clauses().values() if c.theme not in ("relation", "mode")]
#: Clauses that learn from every further case.
KEEN = ("accepts", "result-shape", "gradient", "mean-divisor", "mean-of-many")
#: And what the quick profile leaves out.
SLOW = ("second-order", "forward-mode", "vmap", "fake-tensors")
#: The attempts, by what they cost; a mutant that is found early costs little.
HUNTS = (("quick", CHEAP), ("standard", (*KEEN, *SLOW, "value")), ("quick", None))


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
    for profile, only in HUNTS:
        results = list(audit(alive, profile, first_only=True, only=only))
        alive = [result.subject for result in results if result.survived]
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
        assert re.fullmatch(r"[A-Z]{3}-\d\d", mutant.row)
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
